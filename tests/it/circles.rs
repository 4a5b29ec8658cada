//! No two files of a module may import each other, directly or through others: each can be read after those it uses.

use std::collections::{BTreeMap, BTreeSet};

use crate::layers::{NOWHERE, Source, sources};

type Module = Vec<String>;

/// The module of a file, by its path below `src`; `None` for tests.
fn module(path: &str) -> Option<Module> {
    let mut names: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.iter().any(|name| name == "tests") {
        return None;
    }
    names.pop_if(|name| name == "mod");
    Some(names)
}

/// The paths that a tree of imports names: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let (mut depth, mut begin, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let members = paths(&group[begin..at]).into_iter().filter(|member| !member.is_empty());
                found.extend(members.map(|member| format!("{}{member}", prefix.trim())));
                begin = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// All paths that code names in imports, and after `crate::` and `super::` elsewhere.
fn named(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut statements = code.split("\nuse ").flat_map(|rest| rest.split("\npub(crate) use ")).skip(1);
    found.extend(statements.by_ref().filter_map(|rest| rest.split_once(';')).flat_map(|(tree, _)| paths(tree)));
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            found.push(code[at..].chars().take_while(|c| is_path(*c)).collect());
        }
    }
    found
}

/// The module that a path means, seen from another; `None` if it is of another crate.
fn resolved(path: &str, from: &Module, all: &BTreeSet<Module>) -> Option<Module> {
    let mut place = from.clone();
    let mut names: Vec<&str> = path.split("::").collect();
    match names[0] {
        "crate" => place.clear(),
        "super" | "self" => {}
        first if all.contains(&[from.as_slice(), &[first.to_owned()]].concat()) => {}
        _ => return None,
    }
    names.retain(|name| {
        if *name == "super" {
            place.pop();
        }
        !["crate", "super", "self"].contains(name)
    });
    place.extend(names.into_iter().map(str::to_owned));
    while !place.is_empty() && !all.contains(&place) {
        place.pop();
    }
    (!place.is_empty()).then_some(place)
}

/// What each module uses, its own parents and children left out.
fn uses(files: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let all: BTreeSet<Module> = files.iter().filter_map(|file| module(&file.path)).collect();
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for file in files {
        let Some(from) = module(&file.path) else { continue };
        let code: String = file.code().flat_map(|(_, line)| ["\n", line]).collect();
        let others = named(&code).into_iter().filter_map(|path| resolved(&path, &from, &all));
        let is_family = |other: &Module| from.starts_with(other) || other.starts_with(&from);
        let others = others.filter(|other| !is_family(other)).collect();
        uses.insert(from, others);
    }
    uses
}

/// A circle of modules, each of which uses the next one; `None` if there is none.
fn circle(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    fn walk(
        at: &Module,
        uses: &BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<Module>,
        done: &mut BTreeSet<Module>,
    ) -> bool {
        if let Some(start) = way.iter().position(|module| module == at) {
            way.drain(..start);
            return true;
        }
        if done.contains(at) {
            return false;
        }
        way.push(at.clone());
        if uses.get(at).into_iter().flatten().any(|next| walk(next, uses, way, done)) {
            return true;
        }
        way.pop();
        done.insert(at.clone());
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(module, uses, &mut way, &mut done).then_some(way)
    })
}

#[test]
fn files_do_not_import_each_other() {
    let found: Vec<String> = circle(&uses(&sources())).into_iter().flatten().map(|module| module.join("::")).collect();
    assert_eq!(found, NOWHERE);
}

#[test]
fn circles_are_found() {
    let name = |text: &str| -> Module { text.split("::").map(str::to_owned).collect() };
    assert_eq!(paths("super::{self, a, b::{c, d as e}}"), ["super::self", "super::a", "super::b::c", "super::b::d"]);
    let all = BTreeSet::from([name("a"), name("a::b"), name("a::c")]);
    assert_eq!(resolved("super::c::thing", &name("a::b"), &all), Some(name("a::c")));
    assert_eq!(resolved("crate::a::b::thing", &name("a::c"), &all), Some(name("a::b")));
    assert_eq!(resolved("std::fs", &name("a::c"), &all), None);
    let one_way = BTreeMap::from([(name("a"), BTreeSet::from([name("b")])), (name("b"), BTreeSet::from([name("c")]))]);
    assert_eq!(circle(&one_way), None);
    let round = [one_way, BTreeMap::from([(name("c"), BTreeSet::from([name("b")]))])].into_iter().flatten().collect();
    assert_eq!(circle(&round), Some(vec![name("b"), name("c")]));
}

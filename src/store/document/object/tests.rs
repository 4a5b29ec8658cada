//! Objects of every layout, and what changes of one member leave alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::{collection, prelude::*, sample::select};

use super::*;

fn changed(text: &str, change: impl FnOnce(&mut Object, &Layout)) -> String {
    let mut object = Object::parse(text.to_owned()).unwrap();
    let layout = object.layout();
    change(&mut object, &layout);
    let again = Object::parse(object.text().to_owned()).expect("it is an object still");
    assert_eq!(again.members, object.members, "what is known of it is right: {}", object.text());
    object.text
}

fn set(text: &str, name: &str, value: &str) -> String {
    changed(text, |object, layout| object.set(name, value, layout, 0))
}

#[test]
fn value_is_laid_out_as_the_document_is() {
    for (before, after) in [
        ("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1,\n  \"n\": {\n    \"x\": [\n      1.0,\n      2\n    ]\n  }\n}\n"),
        (
            "{\r\n\t\"a\" : 1\r\n}",
            "{\r\n\t\"a\" : 1,\r\n\t\"n\" : {\r\n\t\t\"x\" : [\r\n\t\t\t1.0,\r\n\t\t\t2\r\n\t\t]\r\n\t}\r\n}",
        ),
        (r#"{"a":1}"#, r#"{"a":1,"n":{"x":[1.0,2]}}"#),
        (r#"{"a": 1}"#, r#"{"a": 1, "n": {"x": [1.0, 2]}}"#),
        (r#"{ "a":1,  "b":2 }"#, r#"{ "a":1,  "b":2,  "n":{"x":[1.0,  2]} }"#),
        ("{}\n", "{\n  \"n\": {\n    \"x\": [\n      1.0,\n      2\n    ]\n  }\n}\n"),
        ("{\n\"a\": 1\n}", "{\n\"a\": 1,\n\"n\": {\n\"x\": [\n1.0,\n2\n]\n}\n}"),
    ] {
        assert_eq!(set(before, "n", r#"{"x":[1.0,2]}"#), after, "{before}");
    }
}

#[test]
fn all_else_stays_byte_for_byte() {
    let text = "{\n  \"\\u0061\": 1.50,  \"b\" :[1,2 ,\n3],\n\n    \"c\": {\"z\":1e400,\"z\":2}\n}";
    assert_eq!(set(text, "b", "0"), text.replace("[1,2 ,\n3]", "0"));
    assert_eq!(set(text, "b", "[ 1, 2, 3 ]"), text, "the same, but for the space in it");
    assert_eq!(set(text, "a", "2"), text.replace("1.50", "2"));
    let removed = |name: &str| changed(text, |object, _| object.remove(name));
    assert_eq!(removed("a"), text.replace("\n  \"\\u0061\": 1.50,", ""));
    assert_eq!(removed("b"), text.replace(",  \"b\" :[1,2 ,\n3]", ""));
    assert_eq!(removed("c"), text.replace(",\n\n    \"c\": {\"z\":1e400,\"z\":2}", ""));
    assert_eq!(removed("d"), text);
    assert_eq!(changed("{ \"a\" : 1 }\n", |object, _| object.remove("a")), "{}\n");
    let quoted = set("{}", "a\"\n", "1");
    assert_eq!(Object::parse(quoted).unwrap().get("a\"\n"), Some("1"));
}

#[test]
fn comments_trailing_commas_and_byte_order_mark_stay() {
    let set = |text: &str| set(text, "n", "0");
    for (before, after) in [
        ("{\n  // one\n  \"a\": 1\n}\n", "{\n  // one\n  \"a\": 1,\n  \"n\": 0\n}\n"),
        ("{\n  \"a\": 1, // about a\n}\n", "{\n  \"a\": 1, // about a\n  \"n\": 0,\n}\n"),
        ("{\n  \"a\": 1 // about a\n  // the end\n}\n", "{\n  \"a\": 1, // about a\n  \"n\": 0\n  // the end\n}\n"),
        ("{\n  \"a\": 1 /* about\n a */\n}\n", "{\n  \"a\": 1, /* about\n a */\n  \"n\": 0\n}\n"),
        ("{\"a\":1,}", "{\"a\":1,\"n\":0,}"),
        ("{\"a\": 1, \"b\": 2 , }", "{\"a\": 1, \"b\": 2 , \"n\": 0, }"),
        ("{\"a\":1 // a\n}", "{\"a\":1, // a\n\"n\":0\n}"),
        ("\u{feff}{\"a\":1}", "\u{feff}{\"a\":1,\"n\":0}"),
        ("{\n  // nothing yet\n}\n", "{\n  // nothing yet\n  \"n\": 0\n}\n"),
        ("{\"n\": /* old */ 1, }", "{\"n\": /* old */ 0, }"),
        ("// {\n{\"n\":1}// }", "// {\n{\"n\":0}// }"),
    ] {
        assert_eq!(set(before), after, "{before}");
    }
    let text = "{\n  // of a\n  \"a\": 1, // a\n  \"b\": {\"x\": 1, /* x */ \"y\": 2,}, // b\n  \"c\": 3, // c\n}\n";
    let removed = |name: &str| changed(text, |object, _| object.remove(name));
    for (name, gone) in [("a", "\"a\": 1,"), ("b", "\"b\": {\"x\": 1, /* x */ \"y\": 2,},"), ("c", "\"c\": 3,")] {
        assert_eq!(removed(name), text.replace(gone, ""), "{name}");
    }
    let all = changed(text, |object, _| ["c", "a", "b"].into_iter().for_each(|name| object.remove(name)));
    assert_eq!(Object::parse(all.clone()).unwrap().members.len(), 0);
    assert!(["// of a", "// a", "// b", "// c"].iter().all(|comment| all.contains(comment)), "{all}");
    let merged = changed(text, |object, layout| object.merge("b", r#"{"y": null, "z": 3}"#, layout, 0).unwrap());
    assert!(merged.contains("\"b\": {\"x\": 1, /* x */ ") && merged.contains("\"z\": 3"), "{merged}");
    assert_eq!(Object::parse(text.to_owned()).unwrap().get("b"), Some("{\"x\": 1,         \"y\": 2 }"));
}

#[test]
fn merge_patch_does_what_its_standard_says() {
    // RFC 7396, appendix A; there the document itself is what is a section here.
    for (target, patch, result) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        let merged = |object: &mut Object, layout: &Layout| object.merge("s", patch, layout, 0).unwrap();
        assert_eq!(changed(&format!(r#"{{"s":{target}}}"#), merged), format!(r#"{{"s":{result}}}"#));
    }
}

#[test]
fn merge_leaves_how_the_rest_of_the_section_is_written() {
    let text = "{\n  \"s\": {\n    \"kept\": [1, 2.0],\n    \"n\": 1\n  }\n}";
    let merge = |object: &mut Object, layout: &Layout| {
        object.merge("s", r#"{"n":1e400,"new":{"x":1}}"#, layout, 0).unwrap();
        object.merge("s", "{}", layout, 0).unwrap();
        object.set_inside("s", "own", "[]", layout).unwrap();
    };
    let after = "{\n  \"s\": {\n    \"kept\": [1, 2.0],\n    \"n\": 1e400,\n    \"new\": {\n      \"x\": 1\n    },\n    \"own\": []\n  }\n}";
    assert_eq!(changed(text, merge), after);
}

/// An object of these members, written in one of many ways.
fn written(members: &[(String, String)], spaces: &[&str]) -> String {
    let space = |number: usize| spaces[number % spaces.len()];
    let member = |(number, (name, value)): (usize, &(String, String))| {
        format!("{}{name}{}:{}{value}{}", space(number), space(number + 1), space(number + 2), space(number + 3))
    };
    let members: Vec<String> = members.iter().enumerate().map(member).collect();
    format!("{}{{{}}}{}", space(1), if members.is_empty() { space(2).to_owned() } else { members.join(",") }, space(3))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_of_any_object_change_what_they_name_and_no_more(
        before in collection::vec(select(vec!["1.0", "[1 , {}]", "{\"x\" :{ \"x\": 1e400}}", "\",}{\\\"\"", "null"]), 0..6),
        spaces in collection::vec(select(vec!["", " ", "\n  ", "\r\n\t", "\n\n", " /* , } \" */ ", " // {, \"\n"]), 1..6),
        changes in collection::vec((0..8_usize, select(vec!["", "2", "[]", "{\"x\": {\"y\": [1.50]}}", "\"\u{1d11e}\""]), any::<bool>()), 0..8),
    ) {
        let name = |number: usize| format!("\"n{number}\\n\"");
        let mut expected: Vec<(String, String)> =
            before.iter().enumerate().map(|(number, value)| (name(number), (*value).to_owned())).collect();
        let mut object = Object::parse(written(&expected, &spaces)).unwrap();
        for (number, value, merged) in changes {
            let (layout, plain) = (object.layout(), format!("n{number}\n"));
            let place = expected.iter().position(|(other, _)| *other == name(number));
            let is_object = value.starts_with('{');
            match (value, place) {
                ("", place) => {
                    object.remove(&plain);
                    place.map(|place| expected.remove(place));
                }
                (value, place) => {
                    if merged && !is_object {
                        object.merge(&plain, value, &layout, 0).unwrap();
                    } else {
                        object.set(&plain, value, &layout, 0);
                    }
                    match place {
                        Some(place) => value.clone_into(&mut expected[place].1),
                        None => expected.push((name(number), value.to_owned())),
                    }
                }
            }
            let again = Object::parse(object.text.clone()).unwrap();
            assert_eq!(again.members, object.members);
            let now: Vec<(String, &str)> =
                again.names().map(|name| (serde_json::json!(name).to_string(), again.get(name).unwrap())).collect();
            assert_eq!(now.len(), expected.len());
            for ((name, value), (other, expected)) in now.iter().zip(&expected) {
                assert!(name == other && token::same(value, expected), "{name}: {value}, not {other}: {expected}");
            }
        }
    }
}

#[test]
fn what_is_there_twice_is_found_at_its_place() {
    let place = |text: &str| Object::parse(text.to_owned()).map_err(|flaw| (flaw.line, flaw.column)).unwrap_err();
    assert_eq!(place("{\"a\": 1,\n  \"\\u0061\": 2}"), (2, 3));
    assert_eq!(place("[]"), (1, 1));
    let mut object = Object::parse("{\n \"s\": {\"x\":1,\n\"x\":2}}".to_owned()).unwrap();
    let flaw = object.merge("s", r#"{"y":1}"#, &Layout::default(), 0).unwrap_err();
    assert_eq!((flaw.line, flaw.column), (3, 1));
}

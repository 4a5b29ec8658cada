//! Finds the number in a path by a pattern like `docs/adr/{}-*.md`, matched component by component, on bytes.

use std::{collections::BTreeMap, str::FromStr};

use crate::error::{Error, Result};

/// Places in a worktree with the numbers of a sequence in the names of files and directories: `docs/adr/{}-*.md`.
///
/// Relative to the top of the worktree, with `/` between the components. `{}` stands for the number (digits, leading zeros
/// or not), and must be there once; `{:04}`, as in a format, means the same. `*` stands for any text within a component,
/// `?` for one character, `**` as a whole component for any number of directories. `\` before a character takes it for
/// itself, as do `{{` and `}}`.
///
/// # Example
/// ```
/// let pattern: repoguard::sequence::ScanPattern = "docs/adr/{}-*.md".parse()?;
/// assert_eq!(pattern.as_str(), "docs/adr/{}-*.md");
/// assert!("docs/adr/*.md".parse::<repoguard::sequence::ScanPattern>().is_err(), "which number?");
/// # Ok::<(), repoguard::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPattern {
    text: String,
    components: Vec<Component>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// This name.
    Literal(Vec<u8>),
    /// Any number of directories.
    Depth,
    /// A name that must be compared.
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    AnyCharacter,
    AnyText,
    Number,
}

/// How far a path has come in a pattern: positions, each with the greatest number that leads there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Reached(BTreeMap<usize, Option<u64>>);

impl ScanPattern {
    /// The pattern as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The components that it begins with and that are names, for git to look only there.
    pub(super) fn prefix(&self) -> Vec<u8> {
        let names = self.components.iter().map_while(|component| match component {
            Component::Literal(name) => Some(name.as_slice()),
            _ => None,
        });
        names.collect::<Vec<_>>().join(&b'/')
    }

    /// The start of every path: the top.
    pub(super) fn start(&self) -> Reached {
        self.closed([(0, None)])
    }

    /// How far one more component leads.
    pub(super) fn step(&self, from: &Reached, name: &[u8]) -> Reached {
        let steps = from.0.iter().filter_map(|(&place, &number)| match self.components.get(place)? {
            Component::Depth => Some((place, number)),
            Component::Literal(literal) => (literal == name).then_some((place + 1, number)),
            Component::Tokens(tokens) => {
                let found = match matched(tokens, name) {
                    Match::No => return None,
                    Match::Name => number,
                    Match::Number(found) => number.max(Some(found)),
                };
                Some((place + 1, found))
            }
        });
        self.closed(steps)
    }

    /// Adds the positions behind a `**`, which may stand for no directory at all.
    fn closed(&self, places: impl IntoIterator<Item = (usize, Option<u64>)>) -> Reached {
        let mut reached = BTreeMap::new();
        for (mut place, number) in places {
            loop {
                let greatest = reached.entry(place).or_insert(number);
                *greatest = (*greatest).max(number);
                if self.components.get(place) != Some(&Component::Depth) {
                    break;
                }
                place += 1;
            }
        }
        Reached(reached)
    }

    /// The number of a path that came so far, if that is a match.
    pub(super) fn number(&self, reached: &Reached) -> Option<u64> {
        *reached.0.get(&self.components.len())?
    }

    /// Whether something below a path that came so far can match.
    pub(super) fn goes_on(&self, reached: &Reached) -> bool {
        reached.0.keys().any(|place| *place < self.components.len())
    }

    /// Whether any directory below a path that came so far must be looked into.
    pub(super) fn is_deep(&self, reached: &Reached) -> bool {
        reached.0.keys().any(|place| self.components.get(*place) == Some(&Component::Depth))
    }

    /// The only names that lead on, if they are known.
    pub(super) fn only_names(&self, reached: &Reached) -> Option<Vec<&[u8]>> {
        let next = reached.0.keys().filter_map(|place| self.components.get(*place));
        next.map(|component| if let Component::Literal(name) = component { Some(name.as_slice()) } else { None })
            .collect()
    }

    /// The greatest number in a whole path, or in one of the directories above it.
    pub(super) fn number_in(&self, path: &[u8]) -> Option<u64> {
        let mut reached = self.start();
        let mut greatest = None;
        for name in path.split(|byte| *byte == b'/') {
            reached = self.step(&reached, name);
            greatest = greatest.max(self.number(&reached));
            if !self.goes_on(&reached) {
                break;
            }
        }
        greatest
    }
}

impl std::fmt::Display for ScanPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ScanPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::Malformed { what: "a pattern of paths", text: text.to_owned(), why: why.to_owned() };
        if text.chars().any(char::is_control) {
            return Err(bad("control characters cannot be in it"));
        }
        let components = text.split('/').map(component).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let numbers = components.iter().map(|component| match component {
            Component::Tokens(tokens) => tokens.iter().filter(|token| **token == Token::Number).count(),
            _ => 0,
        });
        match numbers.sum() {
            1usize => {}
            0 => return Err(bad("`{}` must say where the number stands")),
            _ => return Err(bad("`{}` must be in it once")),
        }
        if components.last() == Some(&Component::Depth) {
            return Err(bad("`**` cannot be its end"));
        }
        Ok(Self { text: text.to_owned(), components })
    }
}

fn component(text: &str) -> Result<Component, &'static str> {
    match text {
        "" => return Err("it is relative to the top of the worktree, with one `/` between two names"),
        "." | ".." => return Err("it is relative to the top of the worktree, without `.` and `..`"),
        "**" => return Ok(Component::Depth),
        _ => {}
    }
    let mut tokens = Vec::new();
    let mut characters = text.chars();
    let literal = |tokens: &mut Vec<Token>, character: char| {
        tokens.extend(character.encode_utf8(&mut [0; 4]).bytes().map(Token::Byte));
    };
    while let Some(character) = characters.next() {
        let rest = characters.as_str();
        match character {
            '\\' => literal(&mut tokens, characters.next().ok_or("nothing follows the `\\` at the end of a name")?),
            '{' if rest.starts_with('{') => literal(&mut tokens, characters.next().unwrap_or('{')),
            '}' if rest.starts_with('}') => literal(&mut tokens, characters.next().unwrap_or('}')),
            '{' => {
                let (inside, behind) = rest.split_once('}').ok_or("`{` without `}`; `{{` stands for itself")?;
                let is_width = |width: &str| width.bytes().all(|byte| byte.is_ascii_digit());
                if !inside.is_empty() && !inside.strip_prefix(":0").is_some_and(is_width) {
                    return Err("between `{` and `}` can be nothing, or a width like `:04`");
                }
                tokens.push(Token::Number);
                characters = behind.chars();
            }
            '}' => return Err("`}` without `{`; `}}` stands for itself"),
            '[' => return Err("`[` is not known here; `\\[` stands for itself"),
            '?' => tokens.push(Token::AnyCharacter),
            '*' if tokens.last() == Some(&Token::AnyText) => {
                return Err("`**` stands for directories, as a name of its own");
            }
            '*' => tokens.push(Token::AnyText),
            other => literal(&mut tokens, other),
        }
    }
    let bytes: Option<Vec<u8>> =
        tokens.iter().map(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None }).collect();
    Ok(bytes.map_or(Component::Tokens(tokens), Component::Literal))
}

/// The result of a comparison.
enum Match {
    No,
    /// One without a number.
    Name,
    /// The greatest number that it can hold.
    Number(u64),
}

/// Compares a name.
///
/// A number beyond 64 bits is none: it can never be given.
fn matched(tokens: &[Token], name: &[u8]) -> Match {
    if let Some(Token::Byte(first)) = tokens.first()
        && name.first() != Some(first)
    {
        return Match::No;
    }
    let mut starts = vec![false; name.len() + 1];
    starts[0] = true;
    let Some(number) = tokens.iter().position(|token| *token == Token::Number) else {
        return if ends(tokens, name, starts)[name.len()] { Match::Name } else { Match::No };
    };
    let starts = ends(&tokens[..number], name, starts);
    let mut greatest = None;
    for start in (0..name.len()).filter(|start| starts[*start]) {
        let mut value = 0u64;
        for (end, byte) in name.iter().enumerate().skip(start) {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
            let longer = digit.and_then(|digit| value.checked_mul(10)?.checked_add(digit));
            let Some(longer) = longer else { break };
            value = longer;
            if greatest < Some(value) {
                let rest = &name[end + 1..];
                let mut starts = vec![false; rest.len() + 1];
                starts[0] = true;
                if ends(&tokens[number + 1..], rest, starts)[rest.len()] {
                    greatest = Some(value);
                }
            }
        }
    }
    greatest.map_or(Match::No, Match::Number)
}

/// Possible ends of these tokens in a name, from this start.
fn ends(tokens: &[Token], name: &[u8], starts: Vec<bool>) -> Vec<bool> {
    tokens.iter().fold(starts, |at, token| {
        let mut next = vec![false; at.len()];
        let mut any = false;
        for place in 0..at.len() {
            any |= at[place];
            match token {
                Token::Byte(byte) if at[place] && name.get(place) == Some(byte) => next[place + 1] = true,
                Token::AnyCharacter if at[place] && place < name.len() => {
                    next[place + character(&name[place..])] = true;
                }
                Token::AnyText => next[place] = any,
                _ => {}
            }
        }
        next
    })
}

/// The length of the first character; other bytes than UTF-8 count one by one.
fn character(name: &[u8]) -> usize {
    let longest = name.len().min(4);
    (1..=longest).find(|&length| std::str::from_utf8(&name[..length]).is_ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn number(pattern: &str, path: impl AsRef<[u8]>) -> Option<u64> {
        pattern.parse::<ScanPattern>().unwrap().number_in(path.as_ref())
    }

    #[test]
    fn numbers_are_found_where_the_pattern_says() {
        for (pattern, path, found) in [
            ("docs/adr/{}-*.md", "docs/adr/0012-use-rust.md", Some(12)),
            ("docs/adr/{}-*.md", "docs/adr/0012.md", None),
            ("docs/adr/{}-*.md", "docs/adr/x/0012-a.md", None),
            ("docs/adr/{}-*.md", "docs/adr/-a.md", None),
            ("docs/adr/{:04}-*", "docs/adr/7-directory/README.md", Some(7)),
            ("{}", "7", Some(7)),
            ("{}*", "12ab", Some(12)),
            ("*{}", "ab12", Some(12)),
            ("v1{}-x", "v123-x", Some(23)),
            ("*{}*", "2026-01-99", Some(2026)),
            ("m/{}/up.sql", "m/00000000000000000000000000041/up.sql", Some(41)),
            ("m/{}/up.sql", "m/41/down.sql", None),
            ("{}", "18446744073709551615", Some(u64::MAX)),
            ("{}", "18446744073709551616", None),
            ("**/rfc-{}.md", "rfc-1.md", Some(1)),
            ("**/rfc-{}.md", "a/b/c/rfc-3.md", Some(3)),
            ("a/**/{}/b", "a/5/b", Some(5)),
            ("a/**/{}/b", "a/7/9/5/b", Some(5)),
            ("?-{}", "é-8", Some(8)),
            ("?-{}", "ab-8", None),
            (r"\*{{{}}}\[", "*{4}[", Some(4)),
            ("{}?", "٣4", None),
        ] {
            assert_eq!(number(pattern, path), found, "{pattern} in {path}");
        }
        assert_eq!(number("*-{}", b"\xff\xfe-6"), Some(6));
        assert_eq!(number("?-{}", b"\xff-6"), Some(6));
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for text in [
            "",
            "docs/*.md",
            "{}/{}",
            "{}{}",
            "/docs/{}",
            "./{}",
            "a/../{}",
            "{}/",
            "{x}",
            "{",
            "}",
            "{}-[0-9]",
            "{}/**",
            "a**{}",
            "{}\n",
            "{}\\",
        ] {
            assert!(text.parse::<ScanPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_names_lead_to_the_numbers() {
        let pattern: ScanPattern = r"docs/a\*b/{}-*.md".parse().unwrap();
        assert_eq!(pattern.prefix(), b"docs/a*b");
        assert_eq!(pattern.only_names(&pattern.start()), Some(vec![&b"docs"[..]]));
        let below = pattern.step(&pattern.step(&pattern.start(), b"docs"), b"a*b");
        assert!(pattern.goes_on(&below) && pattern.only_names(&below).is_none());
    }
}

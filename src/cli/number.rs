//! Formats numbers: `{}` stands for one, `{:04}` for at least four digits, as in Rust's own formats.

use std::str::FromStr;

/// Greatest width: nobody reads more zeros.
const WIDEST: usize = 99;

/// A text with a place for a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NumberFormat {
    before: String,
    /// How many digits at least.
    width: usize,
    after: String,
}

impl NumberFormat {
    pub(super) fn write(&self, number: u64) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.width)
    }
}

impl FromStr for NumberFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut format = Self::default();
        let mut width = None;
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let doubled = rest.starts_with("{{") || rest.starts_with("}}");
            let used = match character {
                '{' if !doubled => {
                    let (inside, _) = rest[1..].split_once('}').ok_or("`{` without `}`; `{{` stands for itself")?;
                    if width.is_some() {
                        return Err("the number can stand in it once".to_owned());
                    }
                    width = Some(width_of(inside)?);
                    inside.len() + 2
                }
                '}' if !doubled => return Err("`}` without `{`; `}}` stands for itself".to_owned()),
                _ if character.is_control() => return Err("control characters cannot be in it".to_owned()),
                _ => {
                    let text = if width.is_some() { &mut format.after } else { &mut format.before };
                    text.push(character);
                    character.len_utf8() + usize::from(doubled)
                }
            };
            rest = &rest[used..];
        }
        format.width = width.ok_or("`{}` must say where the number stands")?;
        Ok(format)
    }
}

fn width_of(inside: &str) -> Result<usize, String> {
    if inside.is_empty() {
        return Ok(0);
    }
    let digits = inside.strip_prefix(":0").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let width = digits.and_then(|digits| digits.parse().ok()).filter(|width| (1..=WIDEST).contains(width));
    width.ok_or_else(|| {
        format!("between `{{` and `}}` can be nothing, or a width from `:01` to `:0{WIDEST}`, for leading zeros")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_where_the_format_says() {
        for (format, number, text) in [
            ("{}", 7, "7"),
            ("ADR-{:04}", 7, "ADR-0007"),
            ("ADR-{:04}.md", 12345, "ADR-12345.md"),
            ("{{{}}}", 7, "{7}"),
            ("é {:012} ☃", u64::MAX, "é 18446744073709551615 ☃"),
        ] {
            let format: NumberFormat = format.parse().expect("a format");
            assert_eq!(format.write(number), text);
        }
        assert_eq!(NumberFormat::default().write(0), "0");
    }

    #[test]
    fn what_is_no_format_is_said() {
        for format in ["", "ADR", "{", "}", "{}{}", "{:4}", "{:0}", "{:0100}", "{x}", "{0}", "{:04", "{}\n", "{{}}"] {
            assert!(format.parse::<NumberFormat>().is_err(), "{format}");
        }
    }
}

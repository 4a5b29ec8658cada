//! Lays out a new value as the document around it is: its line ends, its indentation, or all in one line.

use super::token::Tokens;

/// How the members of an object are set apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The end of a line; `None` if all is in one line.
    pub(crate) newline: Option<&'static str>,
    /// The indent of a level.
    pub(crate) unit: String,
    /// The text between name and value.
    pub(crate) colon: String,
    /// The text after a comma, if all is in one line.
    pub(crate) gap: String,
}

impl Default for Layout {
    fn default() -> Self {
        Self { newline: Some("\n"), unit: "  ".to_owned(), colon: ": ".to_owned(), gap: " ".to_owned() }
    }
}

impl Layout {
    /// A new line at a level, or nothing where all stands in one.
    pub(crate) fn line(&self, level: usize) -> String {
        self.newline.map_or_else(String::new, |newline| format!("{newline}{}", self.unit.repeat(level)))
    }

    /// Writes a value anew that stands at a level; its parts stay as they are written.
    pub(crate) fn lay_out(&self, value: &str, mut level: usize) -> String {
        let mut text = String::with_capacity(value.len() * 2);
        let mut tokens = Tokens::new(value).peekable();
        while let Some(token) = tokens.next() {
            match token {
                "{" | "[" => {
                    text.push_str(token);
                    if let Some(end) = tokens.next_if(|next| matches!(*next, "}" | "]")) {
                        text.push_str(end);
                    } else {
                        level += 1;
                        text.push_str(&self.line(level));
                    }
                }
                "}" | "]" => {
                    level = level.saturating_sub(1);
                    text.push_str(&self.line(level));
                    text.push_str(token);
                }
                "," => {
                    text.push(',');
                    text.push_str(&if self.newline.is_some() { self.line(level) } else { self.gap.clone() });
                }
                ":" => text.push_str(&self.colon),
                _ => text.push_str(token),
            }
        }
        text
    }
}

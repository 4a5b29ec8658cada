//! Changes one member of an object and leaves all else byte for byte. The text stays what it is; only the places of its
//! values are known.

use std::{collections::HashSet, ops::Range};

use super::{
    layout::Layout,
    token::{self, Flaw, Tokens},
};

/// An object as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    text: String,
    /// Names, and where their values stand, in their order.
    members: Vec<(String, Range<usize>)>,
}

impl Object {
    /// Takes over a text.
    pub(crate) fn parse(text: String) -> Result<Self, Flaw> {
        let object = Self { members: token::members(&text)?, text };
        let mut seen = HashSet::with_capacity(object.members.len());
        match object.members.iter().position(|(name, _)| !seen.insert(name)) {
            None => Ok(object),
            Some(twice) => {
                let reason = format!("`{}` is there twice", object.members[twice].0);
                Err(Flaw::at(object.text.as_bytes(), object.gap_before(twice).end, reason))
            }
        }
    }

    pub(crate) fn empty() -> Self {
        Self { text: "{}".to_owned(), members: Vec::new() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// A member's value as it is written.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.members.iter().find(|(other, _)| other == name)?;
        Some(&self.text[value.clone()])
    }

    /// How this object is laid out, at the top of a document.
    pub(crate) fn layout(&self) -> Layout {
        let usual = Layout::default();
        let Some(last) = self.members.len().checked_sub(1) else { return usual };
        let before = &self.text[self.gap_before(last)];
        let newline = match before.rfind('\n') {
            Some(_) if before.contains("\r\n") => Some("\r\n"),
            Some(_) => Some("\n"),
            None => None,
        };
        let unit = before.rsplit('\n').next().filter(|_| newline.is_some()).unwrap_or_default();
        let colon = Some(self.colon(last)).filter(|colon| !colon.contains(['\n', '\r'])).unwrap_or(&usual.colon);
        // A single member does not show what follows a comma.
        let gap = if last > 0 { before } else { colon.trim_start_matches([' ', '\t']).trim_start_matches(':') };
        Layout { newline, unit: unit.to_owned(), colon: colon.to_owned(), gap: gap.to_owned() }
    }

    /// Sets a member, the object standing at a level; one that is written the same is left alone.
    pub(crate) fn set(&mut self, name: &str, value: &str, layout: &Layout, level: usize) {
        if !self.get(name).is_some_and(|old| token::same(old, value)) {
            self.put(name, &layout.lay_out(value, level + 1), layout, level);
        }
    }

    /// Sets a member to a text as it is.
    fn put(&mut self, name: &str, value: &str, layout: &Layout, level: usize) {
        if let Some(index) = self.index(name) {
            let old = self.members[index].1.clone();
            self.splice(old.clone(), value, index + 1);
            self.members[index].1 = old.start..old.start + value.len();
            return;
        }
        let quoted = serde_json::Value::from(name).to_string();
        let (at, before, after) = if let Some((_, last)) = self.members.last() {
            let gap = &self.text[self.gap_before(self.members.len() - 1)];
            let gap = if gap.contains('\n') { gap } else { &layout.gap };
            (last.end..last.end, format!(",{gap}"), String::new())
        } else {
            let open = self.text.find('{').unwrap_or(0) + 1;
            let close = self.text.rfind('}').unwrap_or(open);
            (open..close, layout.line(level + 1), layout.line(level))
        };
        let start = at.start + before.len() + quoted.len() + layout.colon.len();
        self.splice(at, &format!("{before}{quoted}{}{value}{after}", layout.colon), self.members.len());
        self.members.push((name.to_owned(), start..start + value.len()));
    }

    /// Removes a member; one that is not there is as good as removed.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(index) = self.index(name) else { return };
        let cut = match index {
            0 if self.members.len() == 1 => {
                self.text.find('{').unwrap_or(0) + 1..self.text.rfind('}').unwrap_or(self.text.len())
            }
            // With the comma behind it; the space before the next stays.
            0 => self.text.find('{').unwrap_or(0) + 1..self.gap_before(1).start,
            // With the comma before it.
            _ => self.members[index - 1].1.end..self.members[index].1.end,
        };
        self.splice(cut, "", index + 1);
        self.members.remove(index);
    }

    /// Changes a member as a merge patch says (RFC 7396).
    pub(crate) fn merge(&mut self, name: &str, patch: &str, layout: &Layout, level: usize) -> Result<(), Flaw> {
        if !patch.starts_with('{') {
            self.set(name, patch, layout, level);
            return Ok(());
        }
        let old = self.get(name).filter(|value| value.starts_with('{'));
        let mut object = match old {
            Some(value) => {
                let start = token_start(&self.text, value);
                Self::parse(value.to_owned()).map_err(|flaw| flaw.within(&self.text, start))?
            }
            None => Self::empty(),
        };
        let changes = Self::parse(patch.to_owned())?;
        for change in changes.names() {
            match changes.get(change).unwrap_or("null") {
                "null" => object.remove(change),
                value => object.merge(change, value, layout, level + 1)?,
            }
        }
        if old != Some(object.text()) {
            self.put(name, object.text(), layout, level);
        }
        Ok(())
    }

    /// Sets a member of a member, which becomes an object if it is something else.
    pub(crate) fn set_inside(&mut self, name: &str, member: &str, value: &str, layout: &Layout) -> Result<(), Flaw> {
        self.merge(name, "{}", layout, 0)?;
        let old = self.get(name).unwrap_or("{}");
        let mut object = Self::parse(old.to_owned())?;
        object.set(member, value, layout, 1);
        if old != object.text() {
            self.put(name, object.text(), layout, 0);
        }
        Ok(())
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|(other, _)| other == name)
    }

    /// Replaces a part of the text; members from `behind` on move.
    fn splice(&mut self, part: Range<usize>, by: &str, behind: usize) {
        self.text.replace_range(part.clone(), by);
        for (_, value) in self.members.iter_mut().skip(behind) {
            *value = value.start - part.len() + by.len()..value.end - part.len() + by.len();
        }
    }

    /// The space before a member's name, behind the brace or comma.
    fn gap_before(&self, index: usize) -> Range<usize> {
        let space = |at: usize| self.text[at..].bytes().take_while(u8::is_ascii_whitespace).count();
        let start = match index.checked_sub(1) {
            None => self.text.find('{').unwrap_or(0) + 1,
            Some(before) => {
                let end = self.members[before].1.end;
                end + space(end) + 1
            }
        };
        start..start + space(start)
    }

    /// The text between a member's name and its value.
    fn colon(&self, index: usize) -> &str {
        let start = self.gap_before(index).end;
        let name = Tokens::new(&self.text[start..]).next().unwrap_or_default();
        &self.text[start + name.len()..self.members[index].1.start]
    }
}

fn token_start(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

#[cfg(test)]
mod tests;

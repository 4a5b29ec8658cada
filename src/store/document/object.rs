//! Changes one member of an object and leaves all else byte for byte. The text stays what it is; only the places of its
//! values are known.

use std::{collections::HashSet, ops::Range};

use super::{
    comments,
    layout::Layout,
    token::{self, Flaw, Tokens},
};

/// An object as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    text: String,
    /// The text as plain JSON, of the same length, if it is not that itself.
    plain: Option<String>,
    /// Names, and where their values stand, in their order.
    members: Vec<(String, Range<usize>)>,
}

/// A value as it is written, and as plain JSON.
type Value<'a> = (&'a str, &'a str);

impl Object {
    /// Takes over a text.
    pub(crate) fn parse(text: String) -> Result<Self, Flaw> {
        match token::members(&text) {
            Ok(members) => Self::with(text, None, members),
            Err(flaw) => {
                let plain = comments::plain(&text)?;
                if plain == text {
                    return Err(flaw);
                }
                let members = token::members(&plain)?;
                Self::with(text, Some(plain), members)
            }
        }
    }

    fn with(text: String, plain: Option<String>, members: Vec<(String, Range<usize>)>) -> Result<Self, Flaw> {
        let object = Self { text, plain, members };
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
        Self { text: "{}".to_owned(), plain: None, members: Vec::new() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text as plain JSON, of the same length.
    pub(crate) fn json(&self) -> &str {
        self.plain.as_deref().unwrap_or(&self.text)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// A member's value as it is written, as plain JSON.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.member(name).map(|(_, value)| value)
    }

    fn member(&self, name: &str) -> Option<Value<'_>> {
        let (_, place) = self.members.iter().find(|(other, _)| other == name)?;
        Some((&self.text[place.clone()], &self.json()[place.clone()]))
    }

    /// How this object is laid out, at the top of a document.
    pub(crate) fn layout(&self) -> Layout {
        let usual = Layout::default();
        let Some(last) = self.members.len().checked_sub(1) else { return usual };
        let before = &self.json()[self.gap_before(last)];
        let newline = match before.rfind('\n') {
            Some(_) if before.contains("\r\n") => Some("\r\n"),
            Some(_) => Some("\n"),
            None => None,
        };
        let unit = before.rfind('\n').map(|newline| self.space_from(self.gap_before(last).start + newline + 1));
        let unit = unit.unwrap_or_default();
        let colon = Some(self.colon(last)).filter(|colon| !colon.contains(['\n', '\r'])).unwrap_or(&usual.colon);
        // A single member does not show what follows a comma.
        let gap = if last > 0 { before } else { colon.trim_start_matches([' ', '\t']).trim_start_matches(':') };
        Layout { newline, unit: unit.to_owned(), colon: colon.to_owned(), gap: gap.to_owned() }
    }

    /// Sets a member, the object standing at a level; one that is written the same is left alone.
    pub(crate) fn set(&mut self, name: &str, value: &str, layout: &Layout, level: usize) {
        if !self.get(name).is_some_and(|old| token::same(old, value)) {
            let value = &layout.lay_out(value, level + 1);
            self.put(name, (value, value), layout, level);
        }
    }

    /// Sets a member to a text as it is.
    fn put(&mut self, name: &str, value: Value<'_>, layout: &Layout, level: usize) {
        if let Some(index) = self.index(name) {
            let old = self.members[index].1.clone();
            self.splice(old.clone(), value, index + 1);
            self.members[index].1 = old.start..old.start + value.0.len();
            return;
        }
        let quoted = serde_json::Value::from(name).to_string();
        let begin = format!("{quoted}{}", layout.colon);
        let (at, before, after) = if let Some((_, last)) = self.members.last() {
            let end = last.end;
            let place = self.gap_before(self.members.len() - 1);
            let gap = match (self.json()[place.clone()].rfind('\n'), &self.plain) {
                (Some(newline), Some(_)) => self.space_from(place.start + newline),
                (Some(_), None) => &self.text[place],
                (None, _) => &layout.gap,
            };
            let (mut gap, (comma, line_end)) = (gap.to_owned(), comments::after_value(&self.text, end));
            if line_end > comma.map_or(end, |comma| comma + 1) && !gap.contains('\n') {
                // Behind a comment that the line ends.
                gap = format!("{}{}", layout.newline.unwrap_or("\n"), layout.unit);
            }
            match comma {
                // It stays the last character behind the last value.
                Some(comma) => {
                    self.splice(comma..comma + 1, (",", ","), self.members.len());
                    (line_end..line_end, gap, (",", " "))
                }
                None if line_end == end => (end..end, format!(",{gap}"), ("", "")),
                None => {
                    self.splice(end..end, (",", ","), self.members.len());
                    (line_end + 1..line_end + 1, gap, ("", ""))
                }
            }
        } else {
            let open = self.json().find('{').unwrap_or(0) + 1;
            let close = self.json().rfind('}').unwrap_or(open);
            let lines = [layout.line(level + 1), layout.line(level)];
            let start = self.put_first(open..close, &begin, value, &lines);
            self.members.push((name.to_owned(), start..start + value.0.len()));
            return;
        };
        let start = at.start + before.len() + begin.len();
        let text = format!("{before}{begin}{}{}", value.0, after.0);
        let plain = format!("{before}{begin}{}{}", value.1, after.1);
        self.splice(at, (&text, &plain), self.members.len());
        self.members.push((name.to_owned(), start..start + value.0.len()));
    }

    /// Puts the only member between the braces, with these texts around it; comments there stay before it. Returns where the value begins.
    fn put_first(
        &mut self,
        inside: Range<usize>,
        begin: &str,
        (text, plain): Value<'_>,
        [before, after]: &[String; 2],
    ) -> usize {
        // Without a comment the space goes.
        let at = inside.start + self.text[inside.clone()].trim_end().len();
        let around = |value: &str| format!("{before}{begin}{value}{after}");
        self.splice(at..inside.end, (&around(text), &around(plain)), self.members.len());
        at + before.len() + begin.len()
    }

    /// Removes a member; one that is not there is as good as removed.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(index) = self.index(name) else { return };
        let value = self.members[index].1.clone();
        let open = self.json().find('{').unwrap_or(0) + 1;
        let cut = match index {
            0 if self.members.len() == 1 => open..self.json().rfind('}').unwrap_or(self.text.len()),
            // With the comma behind it; the space before the next stays.
            0 => open..self.gap_before(1).start,
            // With the comma before it.
            _ => self.members[index - 1].1.end..value.end,
        };
        if self.plain.as_ref().is_none_or(|plain| plain[cut.clone()] == self.text[cut.clone()]) {
            self.splice(cut, ("", ""), index + 1);
        } else {
            // Comments stay. So does the comma before it, if it was the last.
            let (name_start, (comma, _)) = (self.gap_before(index).end, comments::after_value(&self.text, value.end));
            let end = comma.map_or(value.end, |comma| comma + 1);
            let is_last = index + 1 == self.members.len();
            self.splice(name_start..end, ("", ""), index + 1);
            if let Some(before) = index.checked_sub(1).filter(|_| is_last)
                && let (Some(comma), _) = comments::after_value(&self.text, self.members[before].1.end)
            {
                self.splice(comma..comma + 1, (",", " "), index + 1);
            }
        }
        self.members.remove(index);
    }

    /// Changes a member as a merge patch says (RFC 7396).
    pub(crate) fn merge(&mut self, name: &str, patch: &str, layout: &Layout, level: usize) -> Result<(), Flaw> {
        if !patch.starts_with('{') {
            self.set(name, patch, layout, level);
            return Ok(());
        }
        let old = self.member(name).filter(|(_, value)| value.starts_with('{'));
        let mut object = match old {
            Some(value) => {
                let start = token_start(&self.text, value.0);
                Self::inside(value).map_err(|flaw| flaw.within(&self.text, start))?
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
        if old.map(|(text, _)| text) != Some(object.text()) {
            self.put(name, (object.text(), object.json()), layout, level);
        }
        Ok(())
    }

    /// Sets a member of a member, which becomes an object if it is something else.
    pub(crate) fn set_inside(&mut self, name: &str, member: &str, value: &str, layout: &Layout) -> Result<(), Flaw> {
        self.merge(name, "{}", layout, 0)?;
        let old = self.member(name).unwrap_or(("{}", "{}"));
        let mut object = Self::inside(old)?;
        object.set(member, value, layout, 1);
        if old.0 != object.text() {
            self.put(name, (object.text(), object.json()), layout, 0);
        }
        Ok(())
    }

    /// An object that is a value.
    fn inside((text, plain): Value<'_>) -> Result<Self, Flaw> {
        let members = token::members(plain)?;
        Self::with(text.to_owned(), (plain != text).then(|| plain.to_owned()), members)
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|(other, _)| other == name)
    }

    /// Replaces a part of the text, and of its plain form by as many bytes; members from `behind` on move.
    fn splice(&mut self, part: Range<usize>, (text, plain): Value<'_>, behind: usize) {
        if self.plain.is_none() && plain != text {
            self.plain = Some(self.text.clone());
        }
        if let Some(known) = &mut self.plain {
            known.replace_range(part.clone(), plain);
        }
        self.text.replace_range(part.clone(), text);
        for (_, value) in self.members.iter_mut().skip(behind) {
            *value = value.start - part.len() + text.len()..value.end - part.len() + text.len();
        }
    }

    /// The space that begins at an offset, up to a comment.
    fn space_from(&self, start: usize) -> &str {
        let rest = &self.text[start..];
        &rest[..rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len()]
    }

    /// The space before a member's name, behind the brace or comma.
    fn gap_before(&self, index: usize) -> Range<usize> {
        let json = self.json();
        let space = |at: usize| json[at..].bytes().take_while(u8::is_ascii_whitespace).count();
        let start = match index.checked_sub(1) {
            None => json.find('{').unwrap_or(0) + 1,
            Some(before) => {
                let end = self.members[before].1.end;
                end + space(end) + 1
            }
        };
        start..start + space(start)
    }

    /// The space and the colon between a member's name and its value.
    fn colon(&self, index: usize) -> &str {
        let start = self.gap_before(index).end;
        let name = Tokens::new(&self.json()[start..]).next().unwrap_or_default();
        let between = start + name.len()..self.members[index].1.start;
        if self.text[between.clone()] == self.json()[between.clone()] { &self.text[between] } else { ": " }
    }
}

fn token_start(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

#[cfg(test)]
mod tests;

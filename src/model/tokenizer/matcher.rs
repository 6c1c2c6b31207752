//! Finds the pieces that are taken from a text as they stand: special tokens and user-defined pieces.

use std::collections::BTreeMap;

/// A set of texts, looked for at one place or along a whole text, the longest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    by_first_byte: BTreeMap<u8, Vec<(String, u32)>>,
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// Between the special pieces; never empty.
    Text(&'a str),
    /// A special piece, by its id.
    Special(u32),
}

impl Matcher {
    /// A set of texts with their ids; empty texts are ignored.
    pub(super) fn new(entries: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut by_first_byte: BTreeMap<u8, Vec<(String, u32)>> = BTreeMap::new();
        for (text, id) in entries {
            if let Some(first) = text.bytes().next() {
                by_first_byte.entry(first).or_default().push((text, id));
            }
        }
        for list in by_first_byte.values_mut() {
            list.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        Self { by_first_byte }
    }

    /// The longest entry that `text` begins with: its bytes and its id.
    pub(super) fn longest_at(&self, text: &str) -> Option<(usize, u32)> {
        let list = self.by_first_byte.get(text.as_bytes().first()?)?;
        list.iter().find(|(entry, _)| text.starts_with(entry.as_str())).map(|(entry, id)| (entry.len(), *id))
    }

    /// Cuts a text at the entries, leftmost and longest first.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            match self.longest_at(&text[at..]) {
                Some((used, id)) => {
                    if begin < at {
                        parts.push(Part::Text(&text[begin..at]));
                    }
                    parts.push(Part::Special(id));
                    at += used;
                    begin = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if begin < text.len() {
            parts.push(Part::Text(&text[begin..]));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_entry_wins_and_text_stays_whole() {
        let matcher = Matcher::new([("<a>".into(), 1), ("<a><b>".into(), 2), (String::new(), 3)]);
        let parts = matcher.split("é<a><b><a>x<a");
        assert_eq!(parts, [Part::Text("é"), Part::Special(2), Part::Special(1), Part::Text("x<a")]);
        assert_eq!(matcher.split(""), []);
        assert_eq!(matcher.longest_at("<b>"), None);
    }
}

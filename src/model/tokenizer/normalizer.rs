//! Normalisation of SentencePiece: spaces to `▁`, a leading one added, and a table of character rewritings.
//!
//! Source: `normalizer.cc` of the SentencePiece project for the order of the rules; the table is a double-array trie as
//! described for the Darts-clone library, followed by NUL-terminated replacements.

use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::matcher::Matcher;

/// The mark that stands for a space.
pub(super) const SPACE: char = '\u{2581}';

/// Longest replacement in a table of rewritings, in bytes; the longest of Unicode's compatibility forms has 33.
const MAX_REPLACEMENT_BYTES: usize = 128;

/// Where a stretch of text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// Where a leading space is due.
    Blank,
    /// Where none is.
    Bare,
    /// Inside a text whose beginning is known already: blanks are those between words.
    Inside,
}

/// How text is rewritten before it is cut into pieces.
#[derive(Clone, Debug)]
pub(super) struct Normalizer {
    pub(super) charsmap: Option<CharsMap>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Normalizer {
    /// The rewritten text; `verbatim` holds the pieces that are never rewritten.
    pub(super) fn apply(&self, text: &str, lead: Lead, verbatim: &Matcher) -> String {
        let mut rest = text;
        let mut out = String::with_capacity(text.len() + 3);
        let strips = self.remove_extra_whitespaces && lead != Lead::Inside;
        if strips {
            while !rest.is_empty() {
                let (piece, used) = self.step(rest, verbatim);
                if piece != " " {
                    break;
                }
                rest = &rest[used..];
            }
        }
        if rest.is_empty() {
            return out;
        }
        let space = if self.escape_whitespaces { SPACE } else { ' ' };
        if lead == Lead::Blank && self.add_dummy_prefix {
            out.push(space);
        }
        let mut after_space = strips;
        while !rest.is_empty() {
            let (piece, used) = self.step(rest, verbatim);
            let piece = if after_space { piece.trim_start_matches(' ') } else { piece };
            out.extend(piece.chars().map(|c| if c == ' ' { space } else { c }));
            if !piece.is_empty() {
                after_space = self.remove_extra_whitespaces && piece.ends_with(' ');
            }
            rest = &rest[used..];
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }

    /// What the beginning of `text` is rewritten to, and how many of its bytes that covers (at least one character).
    fn step<'a>(&'a self, text: &'a str, verbatim: &Matcher) -> (&'a str, usize) {
        if let Some((used, _)) = verbatim.longest_at(text) {
            return (&text[..used], used);
        }
        if let Some((used, replacement)) = self.charsmap.as_ref().and_then(|map| map.longest_at(text)) {
            return (replacement, used);
        }
        let used = text.chars().next().map_or(0, char::len_utf8);
        (&text[..used], used)
    }
}

/// A table of rewritings, for instance of Unicode normal form NFKC.
#[derive(Clone, Debug)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// Reads the table; `None` when it is empty, that is, when it rewrites nothing.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Option<Self>, TokenizerError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let malformed = |what: &str| TokenizerError::Malformed { name: name.to_string(), what: what.to_string() };
        let (size, rest) =
            bytes.split_first_chunk::<4>().ok_or_else(|| malformed("its character table is cut short"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, rest) = rest.split_at_checked(size).ok_or_else(|| malformed("its character table is cut short"))?;
        let (units, odd) = trie.as_chunks::<4>();
        if !odd.is_empty() {
            return Err(malformed("its character table has a size that is not a multiple of 4"));
        }
        let replacements = std::str::from_utf8(rest).map_err(|_| malformed("its character table is not UTF-8"))?;
        if replacements.split('\0').any(|replacement| replacement.len() > MAX_REPLACEMENT_BYTES) {
            return Err(malformed("its character table makes a character longer than any rule of Unicode does"));
        }
        Ok(Some(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_string(),
        }))
    }

    /// The longest entry that `text` begins with: its bytes and its replacement.
    fn longest_at(&self, text: &str) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10 << ((unit & 1 << 9) >> 6)) as usize;
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (i, byte) in text.bytes().enumerate() {
            node ^= usize::from(byte);
            let Some(unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(*unit);
            if unit >> 8 & 1 == 1
                && text.is_char_boundary(i + 1)
                && let Some(leaf) = self.units.get(node)
                && let Some(tail) = self.replacements.get((leaf & 0x7fff_ffff) as usize..)
            {
                found = Some((i + 1, tail.split('\0').next().unwrap_or_default()));
            }
        }
        found
    }

    /// Everything the table says, for hashing.
    pub(super) fn content(&self) -> (Vec<u8>, &str) {
        (self.units.iter().flat_map(|unit| unit.to_le_bytes()).collect(), &self.replacements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie with the single entry "A" -> "b": root at 0 with base 256; 256 ^ 'A' holds the node, its leaf lies at
    /// node ^ 1024.
    fn a_to_b() -> CharsMap {
        let mut units = vec![0u32; 2048];
        units[0] = 256 << 10;
        let node = 256 ^ usize::from(b'A');
        units[node] = 1024 << 10 | 1 << 8 | u32::from(b'A');
        units[node ^ 1024] = 1 << 31 | 2;
        CharsMap { units, replacements: "x\0b\0".into() }
    }

    fn normalizer(remove: bool) -> Normalizer {
        Normalizer {
            charsmap: Some(a_to_b()),
            add_dummy_prefix: true,
            remove_extra_whitespaces: remove,
            escape_whitespaces: true,
        }
    }

    #[test]
    fn spaces_are_kept_or_folded() {
        let none = Matcher::default();
        assert_eq!(normalizer(false).apply("  A  c ", Lead::Blank, &none), "▁▁▁b▁▁c▁");
        assert_eq!(normalizer(true).apply("  A  c ", Lead::Blank, &none), "▁b▁c");
        assert_eq!(normalizer(true).apply("  A  c", Lead::Inside, &none), "▁b▁c");
        assert_eq!(normalizer(true).apply("  A  c", Lead::Bare, &none), "b▁c");
        assert_eq!(normalizer(true).apply("   ", Lead::Blank, &none), "");
        assert_eq!(normalizer(false).apply("", Lead::Blank, &none), "");
        assert_eq!(normalizer(false).apply("c", Lead::Bare, &none), "c");
    }

    #[test]
    fn verbatim_pieces_escape_the_table() {
        let verbatim = Matcher::new([("AA".to_string(), 7)]);
        assert_eq!(normalizer(false).apply("AAA", Lead::Bare, &verbatim), "AAb");
    }

    #[test]
    fn damaged_tables_are_errors_or_harmless() {
        assert!(CharsMap::parse("m", &[]).unwrap().is_none());
        assert!(CharsMap::parse("m", &[1, 0]).is_err());
        assert!(CharsMap::parse("m", &[9, 0, 0, 0, 1]).is_err());
        assert!(CharsMap::parse("m", &[3, 0, 0, 0, 1, 2, 3]).is_err());
        assert!(CharsMap::parse("m", &[0, 0, 0, 0, 0xff]).is_err());
        let endless = [&[0; 4][..], &[b'x'; MAX_REPLACEMENT_BYTES + 1]].concat();
        assert!(CharsMap::parse("m", &endless).unwrap_err().to_string().contains("longer than any rule"));
        let wild = CharsMap { units: vec![u32::MAX; 3], replacements: "é".into() };
        assert_eq!(wild.longest_at("abc"), None);
    }
}

//! SentencePiece BPE: the pair with the best-scored piece is merged first, the leftmost of equals, and what is no piece
//! is spelled in bytes. Source: Kudo and Richardson 2018, arXiv 1808.06226, and the behaviour of the library itself.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use crate::files::Sha256;
use crate::model::tokenizer::matcher::{Matcher, Part};
use crate::model::tokenizer::normalizer::{Lead, Normalizer, SPACE};
use crate::model::tokenizer::{SkipSpecial, TokenizerError};

/// What a piece is for. Numbers as in SentencePiece and GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    pub(super) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// An entry of the vocabulary; its id is its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// Which stretches of text between special tokens get the leading space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// All of them, as llama.cpp and the older behaviour of transformers do it.
    Each,
    /// Only one that begins the whole text.
    First,
}

/// Whether a special token takes in the blanks before and behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strips {
    pub(super) left: bool,
    pub(super) right: bool,
}

/// A SentencePiece BPE model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    ids: HashMap<String, u32>,
    bytes: Option<Vec<u32>>,
    unknown: Option<u32>,
    unk_surface: String,
    normalizer: Normalizer,
    prefix: Prefix,
    verbatim: Matcher,
    special: Matcher,
    strips: BTreeMap<u32, Strips>,
    /// Pieces of the vocabulary itself; behind them stand those that a folder adds.
    n_own: usize,
}

impl SentencePiece {
    /// Errors: a score that is no number, an unreadable byte piece, some but not all 256 byte pieces, or neither those nor
    /// an unknown piece.
    pub(super) fn new(
        name: &str,
        pieces: Vec<Piece>,
        normalizer: Normalizer,
        prefix: Prefix,
        unk_surface: String,
    ) -> Result<Self, TokenizerError> {
        let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
        let mut ids = HashMap::with_capacity(pieces.len());
        let mut bytes = vec![None; 256];
        let mut unknown = None;
        for (id, piece) in (0u32..).zip(&pieces) {
            if !piece.score.is_finite() {
                return Err(malformed(format!("piece {id} has the score {}", piece.score)));
            }
            match piece.kind {
                Kind::Byte => {
                    let byte = byte_of(&piece.text)
                        .ok_or_else(|| malformed(format!("byte piece {id} is {:?}", piece.text)))?;
                    bytes[usize::from(byte)] = Some(id);
                }
                Kind::Unknown if unknown.is_none() => unknown = Some(id),
                _ => {}
            }
            ids.insert(piece.text.clone(), id);
        }
        let n_bytes = bytes.iter().flatten().count();
        if n_bytes != 0 && n_bytes != 256 {
            return Err(malformed(format!("it has {n_bytes} byte pieces, not 256")));
        }
        if n_bytes == 0 && unknown.is_none() {
            let what = "it has neither byte pieces nor an unknown piece, so that some characters would vanish";
            return Err(malformed(what.into()));
        }
        let of_kind = |kinds: &[Kind]| matcher(&pieces, |_, piece| kinds.contains(&piece.kind));
        Ok(Self {
            n_own: pieces.len(),
            verbatim: of_kind(&[Kind::UserDefined]),
            special: match prefix {
                // llama.cpp cuts at user-defined pieces too, so that each stretch between them gets its space.
                Prefix::Each => of_kind(&[Kind::Control, Kind::Unknown, Kind::UserDefined]),
                Prefix::First => of_kind(&[Kind::Control, Kind::Unknown]),
            },
            bytes: bytes.into_iter().collect(),
            pieces,
            ids,
            unknown,
            unk_surface,
            normalizer,
            prefix,
            strips: BTreeMap::new(),
        })
    }

    /// Says that the vocabulary itself has `n_own` pieces, and that a folder adds or names the given ones: text is cut at
    /// them before it is rewritten.
    pub(super) fn with_added(mut self, n_own: usize, added: Vec<(u32, Strips)>) -> Self {
        self.n_own = n_own;
        let ids: BTreeSet<u32> = added.iter().map(|(id, _)| *id).collect();
        let special = |id: u32, piece: &Piece| {
            let is_cut = self.prefix == Prefix::Each && piece.kind == Kind::UserDefined;
            is_cut || ids.contains(&id) || matches!(piece.kind, Kind::Control | Kind::Unknown)
        };
        self.special = matcher(&self.pieces, special);
        self.strips = added.into_iter().filter(|(_, strips)| *strips != Strips::default()).collect();
        self
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The last piece of the vocabulary itself, with its id.
    pub(super) fn last_of_vocabulary(&self) -> Option<(u32, &Piece)> {
        let id = u32::try_from(self.n_own.checked_sub(1)?).ok()?;
        Some((id, self.piece(id)?))
    }

    pub(super) fn piece(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(usize::try_from(id).ok()?)
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids of a text that begins as `lead` says.
    pub(super) fn encode(&self, text: &str, lead: Lead, out: &mut Vec<u32>) {
        let parts = self.special.split(text);
        let strips = |i: Option<usize>| match i.and_then(|i| parts.get(i)) {
            Some(Part::Special(id)) => self.strips.get(id).copied().unwrap_or_default(),
            _ => Strips::default(),
        };
        for (i, part) in parts.iter().enumerate() {
            match part {
                Part::Special(id) => out.push(*id),
                Part::Text(text) => {
                    let text = if strips(i.checked_sub(1)).right { text.trim_start() } else { text };
                    let text = if strips(i.checked_add(1)).left { text.trim_end() } else { text };
                    let lead = match self.prefix {
                        _ if i == 0 => lead,
                        Prefix::Each => Lead::Blank,
                        Prefix::First => Lead::Bare,
                    };
                    self.encode_text(text, lead, out);
                }
            }
        }
    }

    /// Cuts a stretch of text without special tokens into pieces.
    fn encode_text(&self, text: &str, lead: Lead, out: &mut Vec<u32>) {
        let text = self.normalizer.apply(text, lead, &self.verbatim);
        let mut merge = Merge::new(self, &text);
        merge.run();
        let mut after_unknown = false;
        for symbol in merge.symbols.iter().filter(|symbol| symbol.len > 0) {
            let mut stack = vec![(symbol.start, symbol.len)];
            while let Some((start, len)) = stack.pop() {
                let piece = &text[start..start + len];
                let id = self.id_of(piece);
                if let Some(left) = merge.unused.get(&(start, len)) {
                    // A piece that is only a step on the way: fall back to what it was made of.
                    stack.push((start + left, len - left));
                    stack.push((start, *left));
                    continue;
                }
                match (id, &self.bytes) {
                    (Some(id), _) => out.push(id),
                    (None, Some(bytes)) => out.extend(piece.bytes().map(|byte| bytes[usize::from(byte)])),
                    // A run of unknown characters is one unknown token.
                    (None, None) if !after_unknown => out.extend(self.unknown),
                    (None, None) => {}
                }
                after_unknown = id.is_none() && self.bytes.is_none();
            }
        }
    }

    /// Text of the ids. Unknown ids give nothing, bytes that are no UTF-8 one replacement character each.
    pub(super) fn decode(&self, ids: &[u32], skip: SkipSpecial) -> String {
        let mut out = String::new();
        let mut run = Vec::new();
        let strips = self.normalizer.add_dummy_prefix || self.normalizer.remove_extra_whitespaces;
        let mut at_start = strips;
        for id in ids {
            let Some(piece) = self.piece(*id) else { continue };
            if piece.kind == Kind::Byte {
                run.extend(byte_of(&piece.text));
                continue;
            }
            flush(&mut run, &mut out);
            match piece.kind {
                Kind::Control if skip == SkipSpecial::Yes => {}
                Kind::Control => out.push_str(&piece.text),
                Kind::Unknown => out.push_str(&self.unk_surface),
                _ => {
                    let mut text = piece.text.as_str();
                    if at_start && out.is_empty() {
                        let stripped = text.strip_prefix(SPACE);
                        at_start = stripped.is_none() || self.normalizer.remove_extra_whitespaces;
                        text = stripped.unwrap_or(text);
                    }
                    out.extend(text.chars().map(|c| if c == SPACE { ' ' } else { c }));
                }
            }
        }
        flush(&mut run, &mut out);
        out
    }

    /// Feeds everything that decides how text becomes ids.
    pub(super) fn hash_into(&self, hash: &mut Sha256) {
        hash.update(b"sentencepiece-bpe\0");
        for piece in &self.pieces {
            hash.update(&(piece.text.len() as u64).to_le_bytes());
            hash.update(piece.text.as_bytes());
            hash.update(&piece.score.to_le_bytes());
            hash.update(&[piece.kind as u8]);
        }
        let Normalizer { charsmap, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces } = &self.normalizer;
        let flags = [*add_dummy_prefix, *remove_extra_whitespaces, *escape_whitespaces, self.prefix == Prefix::Each];
        hash.update(&flags.map(u8::from));
        hash.update(self.unk_surface.as_bytes());
        for (id, strips) in &self.strips {
            hash.update(&id.to_le_bytes());
            hash.update(&[strips.left, strips.right].map(u8::from));
        }
        if let Some(map) = charsmap {
            let (trie, replacements) = map.content();
            hash.update(&trie);
            hash.update(replacements.as_bytes());
        }
    }
}

/// The texts of the pieces that `is_chosen` chooses.
fn matcher(pieces: &[Piece], is_chosen: impl Fn(u32, &Piece) -> bool) -> Matcher {
    let chosen = (0u32..).zip(pieces).filter(|(id, piece)| is_chosen(*id, piece));
    Matcher::new(chosen.map(|(id, piece)| (piece.text.clone(), id)))
}

/// The byte of a piece such as `<0x0A>`.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn flush(run: &mut Vec<u8>, out: &mut String) {
    for chunk in run.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    run.clear();
}

/// A stretch of the text: a character at first, a piece later; of length 0 once merged away.
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

/// Two neighbours that make a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

struct Merge<'a> {
    model: &'a SentencePiece,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
    /// Start and length of merged stretches that are unused pieces, with the length of their left half.
    unused: HashMap<(usize, usize), usize>,
}

impl<'a> Merge<'a> {
    fn new(model: &'a SentencePiece, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while start < text.len() {
            let verbatim = model.verbatim.longest_at(&text[start..]);
            let len = verbatim.map_or_else(|| text[start..].chars().next().map_or(1, char::len_utf8), |found| found.0);
            let i = symbols.len();
            symbols.push(Symbol { start, len, prev: i.checked_sub(1), next: Some(i + 1), frozen: verbatim.is_some() });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        Self { model, text, symbols, queue: BinaryHeap::new(), unused: HashMap::new() }
    }

    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let len = a.len + b.len;
        let Some(id) = self.model.id_of(&self.text[a.start..a.start + len]) else { return };
        let Some(piece) = self.model.piece(id) else { return };
        match piece.kind {
            Kind::Normal | Kind::UserDefined => {}
            Kind::Unused => {
                self.unused.insert((a.start, len), a.len);
            }
            Kind::Unknown | Kind::Control | Kind::Byte => return,
        }
        // Adding 0 turns -0 into 0, which must not lose against it.
        self.queue.push(Pair { score: piece.score + 0.0, left, right, len });
    }

    fn run(&mut self) {
        for i in 1..self.symbols.len() {
            self.offer(Some(i - 1), Some(i));
        }
        while let Some(Pair { left, right, len, .. }) = self.queue.pop() {
            let (a, b) = (&self.symbols[left], &self.symbols[right]);
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            let (prev, next) = (a.prev, b.next);
            self.symbols[left].len = len;
            self.symbols[left].next = next;
            self.symbols[right].len = 0;
            if let Some(next) = next {
                self.symbols[next].prev = Some(left);
            }
            self.offer(prev, Some(left));
            self.offer(Some(left), next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(pieces: &[(&str, f32, Kind)]) -> Result<SentencePiece, TokenizerError> {
        let pieces =
            pieces.iter().map(|(text, score, kind)| Piece { text: text.to_string(), score: *score, kind: *kind });
        let normalizer = Normalizer {
            charsmap: None,
            add_dummy_prefix: false,
            remove_extra_whitespaces: false,
            escape_whitespaces: true,
        };
        SentencePiece::new("m", pieces.collect(), normalizer, Prefix::First, "?".into())
    }

    /// `<unk>`, a, b, c, then the given pieces from id 4.
    fn encode(more: &[(&str, f32, Kind)], text: &str) -> Vec<u32> {
        let letters = [("<unk>", 0.0, Kind::Unknown), ("a", -9.0, Kind::Normal), ("b", -9.0, Kind::Normal)];
        let pieces = [&letters[..], &[("c", -9.0, Kind::Normal)], more].concat();
        let mut ids = Vec::new();
        build(&pieces).unwrap().encode(text, Lead::Blank, &mut ids);
        ids
    }

    #[test]
    fn best_score_first_then_leftmost() {
        let equal = [("ab", -1.0, Kind::Normal), ("bc", -1.0, Kind::Normal)];
        assert_eq!(encode(&equal, "abc"), [4, 3]);
        let right = [("ab", -1.0, Kind::Normal), ("bc", -0.5, Kind::Normal)];
        assert_eq!(encode(&right, "abc"), [1, 5]);
        assert_eq!(encode(&right, "abcab"), [1, 5, 4]);
        // 0 and -0 are the same score.
        let zeros = [("ab", -0.0, Kind::Normal), ("bc", 0.0, Kind::Normal)];
        assert_eq!(encode(&zeros, "abc"), [4, 3]);
    }

    #[test]
    fn merges_build_on_merges_only() {
        // abc cannot be reached without ab or bc.
        assert_eq!(encode(&[("abc", 0.0, Kind::Normal)], "abc"), [1, 2, 3]);
        assert_eq!(encode(&[("abc", 0.0, Kind::Normal), ("bc", -2.0, Kind::Normal)], "abcabc"), [4, 4]);
    }

    #[test]
    fn unused_pieces_are_steps_on_the_way() {
        let pieces = [("ab", -1.0, Kind::Unused), ("abc", -2.0, Kind::Normal)];
        assert_eq!(encode(&pieces, "abc"), [5]);
        assert_eq!(encode(&pieces, "abab"), [1, 2, 1, 2]);
    }

    #[test]
    fn user_defined_pieces_are_taken_whole() {
        let pieces = [("bc", -1.0, Kind::UserDefined), ("ab", 0.0, Kind::Normal)];
        assert_eq!(encode(&pieces, "abcab"), [1, 4, 5]);
    }

    #[test]
    fn added_pieces_take_in_the_blanks_around_them() {
        let pieces = [("<unk>", 0.0, Kind::Unknown), ("▁", -9.0, Kind::Normal), ("a", -9.0, Kind::Normal)];
        let encode = |left, right| {
            let pieces = [&pieces[..], &[("<x>", 0.0, Kind::UserDefined)]].concat();
            let mut ids = Vec::new();
            let model = build(&pieces).unwrap().with_added(3, vec![(3, Strips { left, right })]);
            model.encode("a  <x> \n a", Lead::Blank, &mut ids);
            ids
        };
        assert_eq!(encode(false, false), [2, 1, 1, 3, 1, 0, 1, 2]);
        assert_eq!(encode(true, false), [2, 3, 1, 0, 1, 2]);
        assert_eq!(encode(false, true), [2, 1, 1, 3, 2]);
    }

    #[test]
    fn runs_of_unknown_characters_are_one_token() {
        assert_eq!(encode(&[], "axyzb\u{e9}"), [1, 0, 2, 0]);
        assert_eq!(encode(&[], ""), [] as [u32; 0]);
    }

    #[test]
    fn impossible_vocabularies_are_errors() {
        let message = |piece| build(&[piece]).unwrap_err().to_string();
        assert!(message(("a", f32::NAN, Kind::Normal)).contains("piece 0 has the score NaN"));
        assert!(message(("<0xZZ>", 0.0, Kind::Byte)).contains("byte piece 0"));
        assert!(message(("<0x0A>", 0.0, Kind::Byte)).contains("1 byte pieces, not 256"));
        assert!(message(("a", 0.0, Kind::Normal)).contains("neither byte pieces nor an unknown piece"));
    }
}

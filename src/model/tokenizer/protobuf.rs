//! The little of Protocol Buffers that a SentencePiece `tokenizer.model` needs, read within bounds.
//!
//! Field numbers as in `sentencepiece_model.proto` of the SentencePiece project.

use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::sentencepiece::{Kind, Piece};

/// What a `tokenizer.model` says.
#[derive(Debug)]
pub(super) struct ModelFile {
    pub(super) pieces: Vec<Piece>,
    pub(super) bos_piece: String,
    pub(super) eos_piece: String,
    pub(super) unk_surface: String,
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
    Other,
}

/// Reads the fields of one message one after another.
struct Message<'a> {
    name: &'a str,
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    fn malformed(&self, what: &str) -> TokenizerError {
        TokenizerError::Malformed { name: self.name.to_string(), what: what.to_string() }
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut value = 0u64;
        for i in 0..10 {
            let Some((byte, rest)) = self.rest.split_first() else {
                return Err(self.malformed("it ends inside a number"));
            };
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * i).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number has more than 10 bytes"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], TokenizerError> {
        match usize::try_from(n).ok().and_then(|n| self.rest.split_at_checked(n)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.malformed(&format!("a field of {n} bytes reaches past the end"))),
        }
    }

    /// The next field with its number, `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, TokenizerError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n)?)
            }
            5 => match self.take(4)?.first_chunk::<4>() {
                Some(bytes) => Field::Float(f32::from_le_bytes(*bytes)),
                None => Field::Other,
            },
            kind => return Err(self.malformed(&format!("a field has the wire type {kind}"))),
        };
        Ok(Some((tag >> 3, field)))
    }

    fn inner(&self, bytes: &'a [u8]) -> Message<'a> {
        Message { name: self.name, rest: bytes }
    }

    fn text(&self, bytes: &[u8]) -> Result<String, TokenizerError> {
        std::str::from_utf8(bytes).map(str::to_string).map_err(|_| self.malformed("a text is not UTF-8"))
    }
}

/// Reads a `tokenizer.model`.
///
/// Errors: damaged file, a model that is not BPE, or a rule that is not supported.
pub(super) fn read_model(name: &str, bytes: &[u8]) -> Result<ModelFile, TokenizerError> {
    let mut file = ModelFile {
        pieces: Vec::new(),
        bos_piece: "<s>".into(),
        eos_piece: "</s>".into(),
        unk_surface: " \u{2047} ".into(),
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
    };
    let unsupported = |what: &str| TokenizerError::Unsupported { name: name.to_string(), what: what.to_string() };
    let mut model_type = 1;
    let mut message = Message { name, rest: bytes };
    while let Some((number, field)) = message.next()? {
        let Field::Bytes(bytes) = field else { continue };
        let inner = message.inner(bytes);
        match number {
            1 => file.pieces.push(read_piece(inner)?),
            2 => model_type = read_trainer(inner, &mut file)?,
            3 => read_normalizer(inner, &mut file)?,
            5 if has_charsmap(inner)? => return Err(unsupported("rewrites its output with a denormalizer")),
            _ => {}
        }
    }
    if file.pieces.is_empty() {
        return Err(message.malformed("it holds no pieces"));
    }
    match model_type {
        2 => Ok(file),
        1 => Err(unsupported("is a SentencePiece unigram model")),
        3 => Err(unsupported("is a SentencePiece word model")),
        4 => Err(unsupported("is a SentencePiece character model")),
        other => Err(unsupported(&format!("is a SentencePiece model of type {other}"))),
    }
}

fn read_piece(mut message: Message) -> Result<Piece, TokenizerError> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => piece.text = message.text(bytes)?,
            (2, Field::Float(score)) => piece.score = score,
            (3, Field::Number(kind)) => {
                let kind = i32::try_from(kind).ok().and_then(Kind::from_number);
                piece.kind = kind.ok_or_else(|| message.malformed("a piece has an unknown type"))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// Fills in the special pieces and returns the type of the model.
fn read_trainer(mut message: Message, file: &mut ModelFile) -> Result<u64, TokenizerError> {
    let mut model_type = 1;
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (3, Field::Number(kind)) => model_type = kind,
            (24, Field::Number(1)) => {
                let what = "marks the ends of words instead of their beginnings".to_string();
                return Err(TokenizerError::Unsupported { name: message.name.to_string(), what });
            }
            (44, Field::Bytes(bytes)) => file.unk_surface = message.text(bytes)?,
            (46, Field::Bytes(bytes)) => file.bos_piece = message.text(bytes)?,
            (47, Field::Bytes(bytes)) => file.eos_piece = message.text(bytes)?,
            _ => {}
        }
    }
    Ok(model_type)
}

fn read_normalizer(mut message: Message, file: &mut ModelFile) -> Result<(), TokenizerError> {
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (2, Field::Bytes(bytes)) => file.charsmap = bytes.to_vec(),
            (3, Field::Number(flag)) => file.add_dummy_prefix = flag != 0,
            (4, Field::Number(flag)) => file.remove_extra_whitespaces = flag != 0,
            (5, Field::Number(flag)) => file.escape_whitespaces = flag != 0,
            _ => {}
        }
    }
    Ok(())
}

fn has_charsmap(mut message: Message) -> Result<bool, TokenizerError> {
    while let Some((number, field)) = message.next()? {
        if let (2, Field::Bytes(bytes)) = (number, field)
            && !bytes.is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
    }

    fn piece(text: &str, kind: u8) -> Vec<u8> {
        let score = [&[2 << 3 | 5][..], &(-1.5f32).to_le_bytes()].concat();
        field(1, &[field(1, text.as_bytes()), score, vec![3 << 3, kind]].concat())
    }

    const BPE: [u8; 2] = [3 << 3, 2];

    #[test]
    fn pieces_and_rules_are_read() {
        let bytes = [piece("<unk>", 2), piece("▁a", 1), field(2, &BPE), field(3, &[3 << 3, 0, 4 << 3, 0])].concat();
        let file = read_model("m", &bytes).unwrap();
        assert_eq!(file.pieces[1], Piece { text: "▁a".into(), score: -1.5, kind: Kind::Normal });
        assert_eq!(file.pieces[0].kind, Kind::Unknown);
        assert!(!file.add_dummy_prefix && !file.remove_extra_whitespaces && file.escape_whitespaces);
        assert_eq!(file.bos_piece, "<s>");
    }

    #[test]
    fn other_models_are_named() {
        let message = |bytes: &[u8]| read_model("m", bytes).unwrap_err().to_string();
        let head = piece("a", 1);
        let unigram = message(&head);
        assert_eq!(unigram, "the tokenizer of m is a SentencePiece unigram model, which kvscope does not read");
        assert!(message(&[head.clone(), field(2, &[3 << 3, 4])].concat()).contains("character model"));
        assert!(message(&[head.clone(), field(2, &[3 << 3, 9])].concat()).contains("of type 9"));
        let suffix = [head.clone(), field(2, &[3 << 3, 2, 0xc0, 0x01, 1])].concat();
        assert!(message(&suffix).contains("ends of words"));
        assert!(message(&[head, field(5, &field(2, &[1]))].concat()).contains("denormalizer"));
    }

    #[test]
    fn damage_is_an_error() {
        let good = [piece("a", 1), field(2, &BPE)].concat();
        for len in 0..good.len() {
            assert!(read_model("m", &good[..len]).is_err(), "cut to {len} bytes");
        }
        let damaged = |bytes: &[u8]| read_model("m", bytes).unwrap_err().to_string();
        assert!(damaged(&[0xff; 12]).contains("more than 10 bytes"));
        assert!(damaged(&[1 << 3 | 3]).contains("wire type 3"));
        assert!(
            damaged(&[1 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).contains("past the end")
        );
        assert!(damaged(&piece("a", 7)).contains("unknown type"));
        assert!(damaged(&field(1, &field(1, &[0xff]))).contains("not UTF-8"));
    }
}

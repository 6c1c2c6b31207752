//! The messages of a SentencePiece `tokenizer.model`, as far as they decide how a text is encoded.
//!
//! Field numbers and defaults as in `sentencepiece_model.proto` of the SentencePiece project.

use prost::Message;

use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::sentencepiece::{Kind, Piece};

/// What a `tokenizer.model` says.
#[derive(Debug)]
pub(super) struct ModelFile {
    pub(super) pieces: Vec<Piece>,
    pub(super) trainer: TrainerSpec,
    pub(super) normalizer: NormalizerSpec,
}

#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    denormalizer: Option<NormalizerSpec>,
}

#[derive(Message)]
struct SentencePiece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Message)]
pub(super) struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    treat_whitespace_as_suffix: bool,
    #[prost(string, optional, tag = "44", default = " \u{2047} ")]
    unk_surface: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
}

#[derive(Message)]
pub(super) struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    pub(super) charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// Reads a `tokenizer.model`.
///
/// Errors: damaged file, a model that is not BPE, or a rule that is not supported.
pub(super) fn read_model(name: &str, bytes: &[u8]) -> Result<ModelFile, TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let unsupported = |what: &str| Err(TokenizerError::Unsupported { name: name.to_string(), what: what.to_string() });
    let model = ModelProto::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    let trainer = model.trainer.unwrap_or_default();
    if model.pieces.is_empty() {
        return Err(malformed("it holds no pieces".into()));
    }
    if model.denormalizer.is_some_and(|denormalizer| !denormalizer.charsmap.is_empty()) {
        return unsupported("rewrites its output with a denormalizer");
    }
    if trainer.treat_whitespace_as_suffix {
        return unsupported("marks the ends of words instead of their beginnings");
    }
    match trainer.model_type() {
        2 => {}
        1 => return unsupported("is a SentencePiece unigram model"),
        3 => return unsupported("is a SentencePiece word model"),
        4 => return unsupported("is a SentencePiece character model"),
        other => return unsupported(&format!("is a SentencePiece model of type {other}")),
    }
    let piece = |piece: SentencePiece| {
        let kind = Kind::from_number(piece.kind()).ok_or_else(|| malformed("a piece has an unknown type".into()))?;
        Ok(Piece { text: piece.text, score: piece.score, kind })
    };
    let pieces = model.pieces.into_iter().map(piece).collect::<Result<_, TokenizerError>>()?;
    Ok(ModelFile { pieces, trainer, normalizer: model.normalizer.unwrap_or_default() })
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
        let rules = &file.normalizer;
        let rules = [rules.add_dummy_prefix(), rules.remove_extra_whitespaces(), rules.escape_whitespaces()];
        assert_eq!((rules, file.trainer.bos_piece()), ([false, false, true], "<s>"));
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
        let damaged = |bytes: &[u8]| read_model("m", &[bytes, &field(2, &BPE)].concat()).unwrap_err().to_string();
        assert!(damaged(&piece("a", 7)).contains("unknown type"));
        for bad in [
            vec![0xff; 12],
            vec![1 << 3 | 3],
            vec![1 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            field(1, &field(1, &[0xff])),
        ] {
            assert!(damaged(&bad).contains("is not a valid tokenizer"), "{bad:?}");
        }
    }
}

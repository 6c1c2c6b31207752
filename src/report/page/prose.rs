//! Texts on the page, token by token.

use serde::Serialize;

/// Where levels of divergence begin, in nats, with what they are called.
const LEVELS: [(f64, &str); 6] =
    [(0.0, "below 0.001"), (1e-3, "from 0.001"), (1e-2, "0.01"), (1e-1, "0.1"), (0.5, "0.5"), (1.0, "1 or more")];

/// A text with its heading.
#[derive(Serialize)]
pub(super) struct Prose {
    title: &'static str,
    pieces: Vec<Piece>,
}

/// A part of a text.
#[derive(Serialize)]
pub(super) struct Piece {
    pub text: String,
    /// Number of its level of divergence.
    pub level: Option<usize>,
    pub hint: Option<String>,
    /// Whether the other text is another from here on.
    pub is_first_difference: bool,
}

impl Piece {
    pub fn plain(text: String) -> Self {
        Self { text, level: None, hint: None, is_first_difference: false }
    }

    /// The level of a divergence in nats.
    pub fn level_of(kl: f64) -> usize {
        LEVELS.iter().rposition(|(from, _)| kl >= *from).unwrap_or(0)
    }
}

/// The levels' names, in their order.
pub(super) fn levels() -> Vec<&'static str> {
    LEVELS.iter().map(|(_, name)| *name).collect()
}

impl Prose {
    pub fn new(title: &'static str, pieces: Vec<Piece>) -> Self {
        Self { title, pieces }
    }

    pub fn plain(title: &'static str, text: String) -> Self {
        Self::new(title, vec![Piece::plain(text)])
    }

    /// A text that is marked where another one parts from it.
    pub fn split(title: &'static str, text: &str, other: &str) -> Self {
        let same: usize = text.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        if same == text.len() && same == other.len() {
            return Self::plain(title, text.into());
        }
        // The word that differs begins behind the last blank.
        let at = text[..same].rfind(char::is_whitespace).unwrap_or(0);
        let (head, tail) = text.split_at(at);
        let end = tail
            .trim_start()
            .find(char::is_whitespace)
            .map_or(tail.len(), |n| n + tail.len() - tail.trim_start().len());
        let (word, rest) = tail.split_at(end);
        let pieces = vec![
            Piece::plain(head.into()),
            Piece { is_first_difference: true, ..Piece::plain(word.into()) },
            Piece::plain(rest.into()),
        ];
        Self::new(title, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_part_at_a_word() {
        let pieces = |text: &str, other: &str| -> Vec<String> {
            Prose::split("t", text, other).pieces.into_iter().map(|piece| piece.text).collect()
        };
        assert_eq!(pieces("the tides of old", "the tidal wave"), ["the", " tides", " of old"]);
        assert_eq!(pieces("the", "the tidal wave"), ["", "the", ""]);
        assert_eq!(pieces("same ö", "same ö"), ["same ö"]);
        assert_eq!(pieces("ä b", "ö b"), ["", "ä", " b"]);
    }

    #[test]
    fn levels_begin_where_they_say() {
        assert_eq!([0.0, -1e-9, 9e-4, 1e-3, 0.05, 0.5, 7.0].map(Piece::level_of), [0, 0, 0, 1, 2, 4, 5]);
        assert_eq!(levels().len(), 6);
    }
}

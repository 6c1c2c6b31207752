//! What kind of text a token is, so that an analysis needs no tokenizer.

use serde::{Deserialize, Serialize};

/// Kind of a token's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenClass {
    /// Some letter.
    Word,
    /// A digit and no letter.
    Digits,
    /// Neither: punctuation and symbols.
    Punctuation,
    /// Nothing but spaces and line breaks.
    Whitespace,
    /// Special tokens, parts of characters, ids without text.
    Other,
}

impl TokenClass {
    /// All classes, in the order of tables.
    pub const ALL: [Self; 5] = [Self::Word, Self::Digits, Self::Punctuation, Self::Whitespace, Self::Other];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Word => "words",
            Self::Digits => "digits",
            Self::Punctuation => "punctuation",
            Self::Whitespace => "whitespace",
            Self::Other => "other",
        }
    }

    /// Class of a token that stands for this text; a leading space is no part of it unless there is nothing else.
    pub fn of_text(text: &str) -> Self {
        if text.is_empty() || text.contains('\u{fffd}') {
            Self::Other
        } else if text.chars().all(char::is_whitespace) {
            Self::Whitespace
        } else if text.chars().any(char::is_alphabetic) {
            Self::Word
        } else if text.chars().any(char::is_numeric) {
            Self::Digits
        } else {
            Self::Punctuation
        }
    }

    /// Letter in a manifest.
    pub fn letter(self) -> char {
        match self {
            Self::Word => 'w',
            Self::Digits => 'd',
            Self::Punctuation => 'p',
            Self::Whitespace => 's',
            Self::Other => 'o',
        }
    }

    /// The class of that letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.letter() == char::from(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_class() {
        for (text, class) in [
            (" the", TokenClass::Word),
            ("'s", TokenClass::Word),
            ("中", TokenClass::Word),
            ("x2", TokenClass::Word),
            (" 1984", TokenClass::Digits),
            ("3.", TokenClass::Digits),
            (" ,", TokenClass::Punctuation),
            ("{}", TokenClass::Punctuation),
            ("\n\n", TokenClass::Whitespace),
            (" ", TokenClass::Whitespace),
            ("", TokenClass::Other),
            ("\u{fffd}", TokenClass::Other),
        ] {
            assert_eq!(TokenClass::of_text(text), class, "{text:?}");
        }
        for class in TokenClass::ALL {
            assert_eq!(TokenClass::from_letter(class.letter() as u8), Some(class));
        }
        assert_eq!(TokenClass::from_letter(b'x'), None);
    }
}

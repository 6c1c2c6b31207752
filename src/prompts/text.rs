//! Bytes of files into text: the one reader of all that people write.

use std::path::Path;

use crate::prompts::PromptError;

/// Longest line of a JSON lines file, and longest text file, in bytes.
pub const MAX_LINE_BYTES: u64 = 64 << 20;
/// The byte order mark as editors on Windows put it before a text.
const MARK: char = '\u{feff}';

/// All bytes of a text, without its byte order mark; `source_name` is for messages.
///
/// - Errors: larger than [`MAX_LINE_BYTES`], UTF-16, not UTF-8
pub(crate) fn decode<'a>(bytes: &'a [u8], source_name: &str) -> Result<&'a str, PromptError> {
    if bytes.len() as u64 > MAX_LINE_BYTES {
        return Err(PromptError::TooLong { source_name: source_name.into(), line: 1, limit: MAX_LINE_BYTES });
    }
    decode_line(bytes, source_name, 1)
}

/// As [`decode`], of a part that begins with line `line`.
pub(crate) fn decode_line<'a>(bytes: &'a [u8], source_name: &str, line: usize) -> Result<&'a str, PromptError> {
    if line == 1 && is_utf16(bytes) {
        return Err(PromptError::Utf16(source_name.into()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let good = &bytes[..e.valid_up_to()];
        let start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = line + good.iter().filter(|byte| **byte == b'\n').count();
        PromptError::NotUtf8 { source_name: source_name.into(), line, byte: good.len() - start + 1 }
    })?;
    Ok(text.strip_prefix(MARK).filter(|_| line == 1).unwrap_or(text))
}

/// Whether bytes begin as UTF-16 does: with its mark, or with letters of ASCII that have a zero byte each beside them.
fn is_utf16(bytes: &[u8]) -> bool {
    let zeros = |first: usize| bytes.iter().skip(first).step_by(2).take(4).filter(|byte| **byte == 0).count();
    let others = |first: usize| bytes.iter().skip(first).step_by(2).take(4).all(|byte| *byte != 0);
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || bytes.len() >= 8 && (zeros(0) == 4 && others(1) || zeros(1) == 4 && others(0))
}

/// The file's name for [`crate::files::InputHash`], without folders.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    #[test]
    fn marks_go_and_other_encodings_are_named() {
        assert_eq!(decode("\u{feff}é\u{feff}".as_bytes(), "x").unwrap(), "é\u{feff}");
        assert_eq!(decode_line("\u{feff}é".as_bytes(), "x", 2).unwrap(), "\u{feff}é");
        for text in ["\u{feff}a", "{\"input\": \"x\"}"] {
            for bytes in [utf16(text, u16::to_le_bytes), utf16(text, u16::to_be_bytes)] {
                assert!(matches!(decode(&bytes, "x"), Err(PromptError::Utf16(_))), "{bytes:?}");
            }
        }
        assert_eq!(decode(b"a\0b\0", "x").unwrap(), "a\0b\0");
        assert!(matches!(decode(b"one\ntw\xffo", "x"), Err(PromptError::NotUtf8 { line: 2, byte: 3, .. })));
        assert!(matches!(decode_line(b"tw\xffo", "x", 5), Err(PromptError::NotUtf8 { line: 5, byte: 3, .. })));
    }
}

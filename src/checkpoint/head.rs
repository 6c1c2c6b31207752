//! Files that stand where weights or settings should: told by their first bytes.

/// Bytes of a file's beginning that [`instead_of_weights`] looks at.
pub const MAX_HEAD_BYTES: usize = 512;

/// What a file is that begins with these bytes, if it is something that is known to stand in for a real file: a phrase that
/// follows "is".
pub fn instead_of_weights(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&head[..head.len().min(MAX_HEAD_BYTES)]);
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    Some(match head {
        [] => "empty",
        _ if begins(&["version https://git-lfs"]) => "a Git LFS pointer: the file itself was not downloaded",
        _ if text.starts_with("/annex/objects/") || text.contains(".git/annex/objects/") => {
            "a git-annex pointer: the file itself was not downloaded"
        }
        _ if begins(&["<!doctype", "<html", "<head", "<?xml"]) => "a web page, saved in place of the file",
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip archive, as PyTorch's pickled weights are",
        [0x80, 2..=5, 1..=255, ..] => "a Python pickle, which can run code when it is loaded",
        [0x1f, 0x8b, 8, ..] => "compressed with gzip",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_told_by_their_first_bytes() {
        let says = |head: &[u8], word: &str| instead_of_weights(head).is_some_and(|what| what.contains(word));
        assert!(says(b"", "empty"));
        assert!(says(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "LFS pointer"));
        assert!(says(b"/annex/objects/SHA256E-s5--00.safetensors\n", "git-annex"));
        assert!(says(b"\xef\xbb\xbf\n <!DOCTYPE html>", "web page"));
        assert!(says(b"PK\x03\x04....", "zip"));
        assert!(says(b"\x80\x02}q", "pickle"));
        assert!(says(b"GGUF\x03\0\0\0", "GGUF"));
        assert_eq!(instead_of_weights(b"\x10\0\0\0\0\0\0\0{\"a\":{}}"), None);
    }
}

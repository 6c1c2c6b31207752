//! SHA-256 of bytes, files and streams, as lower-case hexadecimal text.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::Digest;

use crate::files::{AtomicFile, FileError, open_own, open_regular};

/// An incremental SHA-256.
#[derive(Clone, Debug, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in 64 lower-case hexadecimal digits.
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Digest of a byte string.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    let mut hash = Sha256::default();
    hash.update(bytes);
    hash.hex()
}

/// Digest of a regular file, read in pieces of 1 MiB.
pub fn sha256_file(path: &Path) -> Result<String, FileError> {
    Ok(sha256_opened(open_regular(path)?, path)?.0)
}

/// Digest and size of a file of our own folders, not one behind a link.
pub fn sha256_own(path: &Path) -> Result<(String, u64), FileError> {
    sha256_opened(open_own(path)?, path)
}

fn sha256_opened(mut file: File, path: &Path) -> Result<(String, u64), FileError> {
    let mut hash = HashingWriter::new(std::io::sink());
    let mut buffer = vec![0u8; 1 << 20];
    let io = |e| FileError::io("read", path, e);
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => break,
            n => hash.write_all(&buffer[..n]).map_err(io)?,
        }
    }
    let (_, sha256, bytes) = hash.finish();
    Ok((sha256, bytes))
}

/// Hashes and counts everything that passes through to `inner`.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts with nothing written.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::default(), bytes: 0 }
    }

    /// The inner writer, the digest and the number of bytes.
    pub fn finish(self) -> (W, String, u64) {
        (self.inner, self.hash.hex(), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Copies a regular file, not one behind a link, and gives the digest and size of what was written.
pub fn copy_hashed(from: &Path, to: &Path) -> Result<(String, u64), FileError> {
    let mut source = open_own(from)?;
    let mut target = HashingWriter::new(AtomicFile::create(to)?);
    std::io::copy(&mut source, &mut target).map_err(|e| FileError::io("copy", from, e))?;
    let (file, sha256, bytes) = target.finish();
    file.commit()?;
    Ok((sha256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_abc_is_the_published_one() {
        // FIPS 180-4, example of SHA-256 on "abc".
        assert_eq!(sha256_bytes(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

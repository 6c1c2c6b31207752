//! A digest of everything that makes a model what it is.

use std::ops::Range;

use rayon::prelude::*;

use crate::files::Sha256;
use crate::files::sha256_bytes;
use crate::model::ModelError;
use crate::model::weights::source::Unmapped;

/// Bytes that are hashed at a time, so that several threads work on a tensor.
const PIECE_BYTES: usize = 4 << 20;

/// What the digest is made of, kept until it is asked for: reading all weights takes time that most runs need not spend.
#[derive(Debug)]
pub(in crate::model) struct Fingerprint {
    pub(super) settings: String,
    pub(super) files: Vec<Unmapped>,
    pub(super) tensors: Vec<Entry>,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Entry {
    /// Name, type and shape.
    pub(super) title: String,
    pub(super) file: usize,
    pub(super) range: Range<usize>,
}

impl Fingerprint {
    /// SHA-256 over the settings and, of every tensor in order of name, its title and the SHA-256 of every 4 MiB of its bytes.
    ///
    /// - Cost: reads all weights once, on all threads
    /// - Errors: a file was changed after the model was loaded
    pub(in crate::model) fn compute(&self) -> Result<String, ModelError> {
        let mut digests: Vec<Vec<String>> = vec![Vec::new(); self.tensors.len()];
        for (index, file) in self.files.iter().enumerate() {
            let of_file = |(entry, _): &(&Entry, &mut Vec<String>)| entry.file == index;
            let mut tensors: Vec<_> = self.tensors.iter().zip(&mut digests).filter(of_file).collect();
            file.read(|bytes| {
                tensors.par_iter_mut().for_each(|(entry, digests)| {
                    // The range was checked when the table was read, and the file has not changed.
                    let bytes = bytes.get(entry.range.clone()).unwrap_or_default();
                    bytes.par_chunks(PIECE_BYTES).map(sha256_bytes).collect_into_vec(digests);
                });
            })?;
        }
        let mut hash = Sha256::default();
        hash.update(self.settings.as_bytes());
        for (entry, digests) in self.tensors.iter().zip(&digests) {
            hash.update(format!("\n{} {}", entry.title, digests.concat()).as_bytes());
        }
        Ok(hash.hex())
    }
}

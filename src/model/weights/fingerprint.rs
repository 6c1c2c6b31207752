//! A digest of everything that makes a model what it is.

use std::ops::Range;

use rayon::prelude::*;

use crate::files::{Sha256, sha256_bytes};
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

impl Entry {
    /// Where its pieces lie in the file.
    fn pieces(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        let Range { start, end } = self.range;
        (0..(end - start).div_ceil(PIECE_BYTES)).map(move |i| {
            let from = start + i * PIECE_BYTES;
            from..(from + PIECE_BYTES).min(end)
        })
    }
}

impl Fingerprint {
    /// SHA-256 over the settings and, of every tensor in order of name, its title and the SHA-256 of every 4 MiB of its bytes.
    ///
    /// - Cost: reads all weights once, on all threads
    /// - Errors: a file was changed after the model was loaded
    pub(in crate::model) fn compute(&self) -> Result<String, ModelError> {
        let check = || self.files.iter().try_for_each(Unmapped::check_unchanged);
        check()?;
        let pieces: Vec<(usize, Range<usize>)> =
            self.tensors.iter().flat_map(|entry| entry.pieces().map(|piece| (entry.file, piece))).collect();
        let digest = |room: &mut Vec<u8>, (file, piece): &(usize, Range<usize>)| -> Result<String, ModelError> {
            room.resize(piece.len(), 0);
            self.files[*file].read_at(room, piece.start)?;
            Ok(sha256_bytes(room))
        };
        let digests: Vec<String> = pieces.par_iter().map_init(Vec::new, digest).collect::<Result<_, _>>()?;
        check()?;
        let mut digests = digests.into_iter();
        let mut hash = Sha256::default();
        hash.update(self.settings.as_bytes());
        for entry in &self.tensors {
            let digests: String = digests.by_ref().take(entry.pieces().len()).collect();
            hash.update(format!("\n{} {digests}", entry.title).as_bytes());
        }
        Ok(hash.hex())
    }
}

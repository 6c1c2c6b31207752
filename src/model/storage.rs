//! How weights are stored.

use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// Bytes of weights.
#[derive(Debug)]
pub(in crate::model) enum Bytes {
    /// Copied, or packed.
    Owned(Vec<u8>),
    /// Where they lie in a file, which is read as they are used.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Bytes {
    /// Lets go of a mapped file's pages, which the next use takes from the file again. A wish: some systems keep them.
    pub(in crate::model) fn release(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map, range) = self {
            #[expect(unsafe_code, reason = "the map is of a file and never written: its bytes come back as they were")]
            let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(error) = released {
                tracing::debug!(%error, "pages of experts stay in memory");
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            // The range was checked when the table of tensors was read.
            Self::Mapped(map, range) => map.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Storage types of weights that are read, as the ggml project's files have them.
///
/// Their names in this form are part of models' fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageType {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Blocks of 32: a scale, 4 bits a weight.
    Q4_0,
    /// Blocks of 32: a scale and a minimum, 4 bits a weight.
    Q4_1,
    /// Blocks of 32: a scale, 5 bits a weight.
    Q5_0,
    /// Blocks of 32: a scale and a minimum, 5 bits a weight.
    Q5_1,
    /// Blocks of 32: a scale, 8 bits a weight.
    Q8_0,
    /// Blocks of 256: scales and minima of their own for runs of 16, 2 bits a weight.
    Q2K,
    /// Blocks of 256: scales of their own for runs of 16, 3 bits a weight.
    Q3K,
    /// Blocks of 256: scales and minima of their own for runs of 32, 4 bits a weight.
    Q4K,
    /// Blocks of 256: scales and minima of their own for runs of 32, 5 bits a weight.
    Q5K,
    /// Blocks of 256: scales of their own for runs of 16, 6 bits a weight.
    Q6K,
    /// Blocks of 32: a scale, 4 bits a weight that name one of 16 uneven steps.
    Iq4Nl,
    /// Blocks of 256: scales of their own for runs of 32, 4 bits a weight that name one of 16 uneven steps.
    Iq4Xs,
    /// Blocks of 256: a scale, weights of -1, 0 or 1, five of them in a byte.
    Tq1_0,
    /// Blocks of 256: a scale, weights of -1, 0 or 1, four of them in a byte.
    Tq2_0,
    /// Blocks of 32: a power of two as scale, floating-point numbers of 4 bits.
    Mxfp4,
}

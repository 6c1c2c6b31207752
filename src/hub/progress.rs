//! Reports of a download to whoever shows them.

/// Told about each file of a download, in order. Files do not overlap.
pub trait Progress {
    /// A file begins. `bytes` is its whole size where known; what an earlier run left is reported by [`Progress::advance`].
    fn start(&mut self, what: &str, bytes: Option<u64>);
    /// That many more bytes of the file are there.
    fn advance(&mut self, bytes: u64);
    /// The file is done, or was given up.
    fn finish(&mut self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _what: &str, _bytes: Option<u64>) {}

    fn advance(&mut self, _bytes: u64) {}

    fn finish(&mut self) {}
}

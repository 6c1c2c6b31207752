//! Vectors that carry their width.

use std::borrow::Cow;
use std::ops::Range;

/// Vectors of one width, one behind the other: `[n, width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows<'a> {
    data: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` numbers.
    ///
    /// # Panics
    ///
    /// When `width` is 0 or the numbers do not fill the last row.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        assert!(width > 0 && data.len().is_multiple_of(width), "{} numbers in rows of {width}", data.len());
        Self { data, width }
    }

    /// Numbers in a row.
    pub fn width(self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn len(self) -> usize {
        self.data.len() / self.width
    }

    /// Whether there is no row.
    pub fn is_empty(self) -> bool {
        self.data.is_empty()
    }

    /// Row `index`.
    pub fn row(self, index: usize) -> &'a [f32] {
        &self.data[index * self.width..][..self.width]
    }

    /// Some of the rows.
    pub fn part(self, rows: Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.width..rows.end * self.width], ..self }
    }

    /// All rows, first to last.
    pub fn iter(self) -> std::slice::ChunksExact<'a, f32> {
        self.data.chunks_exact(self.width)
    }

    /// Every `step`th row from row `first` on: one head's, where tokens have a row for each of `step` heads.
    pub fn every(self, step: usize, first: usize) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.iter().skip(first).step_by(step)
    }

    /// All numbers, row after row.
    pub fn flat(self) -> &'a [f32] {
        self.data
    }
}

/// Rows that may own their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldRows<'a> {
    data: Cow<'a, [f32]>,
    width: usize,
}

impl<'a> HeldRows<'a> {
    /// Rows of `width` numbers.
    ///
    /// # Panics
    ///
    /// Where [`Rows::new`] does.
    pub fn new(data: impl Into<Cow<'a, [f32]>>, width: usize) -> Self {
        let data = data.into();
        Self { width: Rows::new(&data, width).width(), data }
    }

    /// All numbers, row after row.
    pub fn flat(&self) -> &[f32] {
        &self.data
    }

    /// The rows.
    pub fn rows(&self) -> Rows<'_> {
        Rows { data: &self.data, width: self.width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_uneven_case() {
        let rows = Rows::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        assert_eq!((rows.len(), rows.width(), rows.is_empty()), (3, 2, false));
        assert_eq!((rows.row(1), rows.part(1..3)), (&[3.0, 4.0][..], Rows::new(&[3.0, 4.0, 5.0, 6.0], 2)));
        assert_eq!(rows.iter().map(|row| row[1]).sum::<f32>(), 12.0);
        assert_eq!(rows.every(2, 0).collect::<Vec<_>>(), [[1.0, 2.0], [5.0, 6.0]]);
    }
}

//! Vectors that carry their width.

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

    /// The first `n` rows.
    pub fn first(self, n: usize) -> Self {
        Self { data: &self.data[..n * self.width], ..self }
    }

    /// All rows, first to last.
    pub fn iter(self) -> std::slice::ChunksExact<'a, f32> {
        self.data.chunks_exact(self.width)
    }

    /// All numbers, row after row.
    pub fn flat(self) -> &'a [f32] {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_uneven_case() {
        let rows = Rows::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        assert_eq!((rows.len(), rows.width(), rows.is_empty()), (3, 2, false));
        assert_eq!((rows.row(1), rows.first(1).flat()), (&[3.0, 4.0][..], &[1.0, 2.0][..]));
        assert_eq!(rows.iter().map(|row| row[1]).sum::<f32>(), 12.0);
    }
}

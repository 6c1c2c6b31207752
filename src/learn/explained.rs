//! How much of what varies is predicted.

/// Squares of some numbers about their mean, and of what a prediction misses of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Explained {
    n: f64,
    mean: f64,
    squares: f64,
    missed: f64,
}

impl Explained {
    pub fn add(&mut self, value: f32, predicted: f32) {
        let (value, predicted) = (f64::from(value), f64::from(predicted));
        self.n += 1.0;
        let apart = value - self.mean;
        self.mean += apart / self.n;
        self.squares += apart * (value - self.mean);
        self.missed += (value - predicted).powi(2);
    }

    /// Share of the variance that is predicted, 1 at most; `None` where nothing varies.
    pub fn r2(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| 1.0 - self.missed / self.squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_variance_by_hand() {
        // 1, 2 and 6 about 3: 4 + 1 + 9. Predictions miss by 1, 0 and 2: 5 of 14.
        let mut explained = Explained::default();
        assert_eq!(explained.r2(), None);
        for (value, predicted) in [(1.0, 2.0), (2.0, 2.0), (6.0, 4.0)] {
            explained.add(value, predicted);
        }
        assert!((explained.r2().unwrap() - 9.0 / 14.0).abs() < 1e-12);
    }
}

//! What the numbers of a captured state are like.

use crate::format::dump::{DumpError, Sample, State};

/// Range, mean and root mean square of many numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    n: u64,
    min: f32,
    max: f32,
    sum: f64,
    sum_of_squares: f64,
}

impl Statistics {
    fn add(&mut self, values: &[f32]) {
        for value in values {
            (self.min, self.max) =
                if self.n == 0 { (*value, *value) } else { (self.min.min(*value), self.max.max(*value)) };
            self.n += 1;
            self.sum += f64::from(*value);
            self.sum_of_squares += f64::from(*value).powi(2);
        }
    }

    /// Smallest and largest number; `None` of no number, as all that follows.
    pub fn range(&self) -> Option<[f32; 2]> {
        (self.n > 0).then_some([self.min, self.max])
    }

    /// Mean.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }

    /// Root mean square.
    pub fn rms(&self) -> Option<f64> {
        (self.n > 0).then(|| (self.sum_of_squares / self.n as f64).sqrt())
    }
}

impl Sample<'_> {
    /// Adds all numbers of a state, of every layer and head.
    ///
    /// - Memory: one head
    pub fn measure(&self, state: State, statistics: &mut Statistics) -> Result<(), DumpError> {
        let manifest = self.manifest();
        for layer in &manifest.layers {
            for head in manifest.held_heads(state) {
                match state {
                    State::Mass => statistics.add(&self.mass(*layer, head)?),
                    _ => statistics.add(self.vectors(*layer, state, head)?.flat()),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_by_hand() {
        let mut statistics = Statistics::default();
        assert_eq!((statistics.range(), statistics.mean(), statistics.rms()), (None, None, None));
        statistics.add(&[3.0, -4.0]);
        statistics.add(&[-5.0]);
        assert_eq!((statistics.range(), statistics.mean()), (Some([-5.0, 3.0]), Some(-2.0)));
        assert!((statistics.rms().unwrap() - (50.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}

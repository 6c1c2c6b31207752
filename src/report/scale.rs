//! Scales of colours that are the same in every report, so that two can be compared by eye.

use crate::report::axes::Axis;
use crate::report::raster::NO_DATA;

/// Values of the first and the last colour. What lies beyond has the colour of the end, and the bar says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub log: bool,
}

impl Scale {
    /// Cosines, where what is below 0 is as little alike as can be.
    pub const COSINE: Self = Self::linear(0.0, 1.0);
    /// Correlations.
    pub const CORRELATION: Self = Self::linear(-1.0, 1.0);
    /// Shares in percent.
    pub const PERCENT: Self = Self::linear(0.0, 100.0);
    /// Logit gaps in nats.
    pub const GAP: Self = Self { low: 0.1, high: 10.0, log: true };

    pub const fn linear(low: f64, high: f64) -> Self {
        Self { low, high, log: false }
    }

    /// Number of a value's colour; [`NO_DATA`] when it is not a number.
    pub fn index(self, value: f64) -> u8 {
        if !value.is_finite() {
            return NO_DATA;
        }
        let part = match self.log {
            true => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        let part = if self.high > self.low { part.clamp(0.0, 1.0) } else { 0.5 };
        (part * f64::from(NO_DATA - 1)).round() as u8
    }

    /// The axis of the colour bar beside such values: its ends tell what lies beyond them.
    pub fn axis(self, values: impl Iterator<Item = f64>, title: &str) -> Axis {
        let mut axis = if self.log {
            Axis::powers_between(self.low, self.high, title)
        } else {
            Axis::linear((self.low, self.high), 5, title)
        };
        let (mut below, mut above) = (false, false);
        for value in values {
            below |= value < self.low;
            above |= value > self.high;
        }
        for (value, label) in &mut axis.ticks {
            let is_end = |end: f64| (*value - end).abs() < 1e-9 * (self.high - self.low);
            if below && is_end(self.low) {
                *label = format!("≤ {label}");
            }
            if above && is_end(self.high) {
                *label = format!("≥ {label}");
            }
        }
        axis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_map_to_colours_and_what_is_no_number_to_no_data() {
        let unit = Scale::linear(0.0, 1.0);
        assert_eq!([-9.0, 0.25, 9.0, f64::NAN].map(|value| unit.index(value)), [0, 64, 254, NO_DATA]);
        assert_eq!(Scale::linear(1.0, 1.0).index(1.0), 127);
        assert_eq!([0.0, 0.1, 1.0, 10.0].map(|value| Scale::GAP.index(value)), [0, 0, 127, 254]);
    }

    #[test]
    fn the_ends_of_a_bar_say_what_lies_beyond() {
        let labels = |values: &[f64]| -> Vec<String> {
            Scale::COSINE.axis(values.iter().copied(), "").ticks.into_iter().map(|tick| tick.1).collect()
        };
        assert_eq!(labels(&[0.0, 1.0]).first().unwrap(), "0.0");
        assert_eq!(labels(&[-0.2, 0.5]).first().unwrap(), "≤ 0.0");
        assert_eq!(labels(&[1.2]).last().unwrap(), "≥ 1.0");
    }
}

//! What every head costs at every size under every setting.

use crate::format::profile::HeadProfile;

/// Units of size that a whole head has; sizes are whole numbers of them, so that sums are exact.
pub(super) const UNITS: usize = 10_000;

/// A head's part of a solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Place of the setting.
    pub setting: usize,
    /// Size, of [`UNITS`].
    pub units: usize,
}

impl Choice {
    /// Slots per token.
    pub fn share(self) -> f64 {
        self.units as f64 / UNITS as f64
    }
}

/// Costs `[head][size][setting]`; `None` where a setting cannot reach a size. A whole head costs nothing.
#[derive(Clone, Debug)]
pub(super) struct Curves {
    /// Sizes in units, rising, all below [`UNITS`].
    pub sizes: Vec<usize>,
    pub costs: Vec<Vec<Vec<Option<f64>>>>,
    /// Shares of the heads by LU-KV where all together keep each of the sizes, `[size][head]`; `None` where that is too few slots.
    pub utility: Vec<Option<Vec<f64>>>,
}

impl Curves {
    /// From what a profile keeps; `None` when it keeps no curve.
    pub fn of_heads(heads: &[HeadProfile]) -> Option<Self> {
        let units = |share: f64| (share * UNITS as f64).round() as usize;
        let sizes: Vec<usize> = heads.first()?.curve.iter().map(|point| units(point.kept_fraction)).collect();
        let costs = heads
            .iter()
            .map(|head| {
                let row = |errors: &Vec<Option<f32>>| errors.iter().map(|x| x.map(f64::from)).collect();
                head.curve.iter().map(|point| row(&point.errors)).collect()
            })
            .collect();
        if sizes.is_empty() || heads.iter().any(|head| head.curve.len() != sizes.len()) {
            return None;
        }
        let of_size = |i: usize| heads.iter().map(|head| head.curve[i].utility_fraction).collect();
        let utility = (0..sizes.len()).map(of_size).collect();
        Some(Self { sizes, costs, utility })
    }

    /// Those of some heads.
    pub fn of(&self, heads: &[usize]) -> Self {
        let shares = |all: &Option<Vec<f64>>| all.as_ref().map(|all| heads.iter().map(|head| all[*head]).collect());
        Self {
            sizes: self.sizes.clone(),
            costs: heads.iter().map(|head| self.costs[*head].clone()).collect(),
            utility: self.utility.iter().map(shares).collect(),
        }
    }

    /// Multiplies every head's costs by its weight.
    pub fn scale(&mut self, weights: &[f64]) {
        for (head, weight) in self.costs.iter_mut().zip(weights) {
            head.iter_mut().flatten().flatten().for_each(|cost| *cost *= weight);
        }
    }

    pub fn n_heads(&self) -> usize {
        self.costs.len()
    }

    pub fn n_settings(&self) -> usize {
        self.costs.first().and_then(|head| head.first()).map_or(0, Vec::len)
    }

    /// Cost of a head at any size, straight between the measured ones; `None` below what the setting reaches.
    pub fn cost(&self, head: usize, Choice { setting, units }: Choice) -> Option<f64> {
        if units >= UNITS {
            return Some(0.0);
        }
        let above = self.sizes.partition_point(|size| *size < units);
        let at = |i: usize| -> Option<(usize, f64)> {
            match self.sizes.get(i) {
                Some(size) => Some((*size, self.costs[head][i][setting]?)),
                None => Some((UNITS, 0.0)),
            }
        };
        let (high, cost_high) = at(above)?;
        if high == units {
            return Some(cost_high);
        }
        let (low, cost_low) = at(above.checked_sub(1)?)?;
        Some(cost_low + (cost_high - cost_low) * (units - low) as f64 / (high - low) as f64)
    }

    /// Sizes of all heads by LU-KV where they keep so many units in the mean, straight between those that were solved; not whole.
    pub fn utility_units(&self, units: usize) -> Option<Vec<f64>> {
        let above = self.sizes.partition_point(|size| *size < units);
        let at = |i: usize| -> Option<(usize, Vec<f64>)> {
            match self.sizes.get(i) {
                Some(size) => Some((*size, self.utility.get(i)?.clone()?)),
                None => Some((UNITS, vec![1.0; self.n_heads()])),
            }
        };
        let (high, of_high) = at(above)?;
        let (low, of_low) = if high == units { (0, vec![0.0; self.n_heads()]) } else { at(above.checked_sub(1)?)? };
        let part = (units - low) as f64 / (high - low) as f64;
        let between = |(low, high): (&f64, &f64)| UNITS as f64 * (low + (high - low) * part);
        Some(of_low.iter().zip(&of_high).map(between).collect())
    }

    /// The setting of least cost at a size, the first of equals.
    pub fn best(&self, head: usize, units: usize) -> Option<Choice> {
        let all = (0..self.n_settings()).map(|setting| Choice { setting, units });
        let costs = all.filter_map(|choice| Some((self.cost(head, choice)?, choice)));
        costs.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, choice)| choice)
    }

    /// Cost of a whole solution.
    pub fn total(&self, choices: &[Choice]) -> Option<f64> {
        choices.iter().enumerate().map(|(head, choice)| self.cost(head, *choice)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_between_sizes_by_hand() {
        // One head; setting 0 reaches both sizes, setting 1 the larger only.
        let costs = vec![vec![vec![Some(8.0), None], vec![Some(2.0), Some(1.0)]]];
        let curves = Curves { sizes: vec![2000, 5000], costs, utility: vec![None, Some(vec![0.5])] };
        let cost = |setting, units| curves.cost(0, Choice { setting, units });
        // A third of the way from 2,000 to 5,000: 8 - 6/3. Two fifths from 5,000 to 10,000: 2 - 2 · 2/5.
        assert_eq!((cost(0, 3000), cost(0, 7000), cost(0, UNITS)), (Some(6.0), Some(1.2), Some(0.0)));
        assert_eq!((cost(0, 1999), cost(1, 3000), cost(1, 5000)), (None, None, Some(1.0)));
        assert_eq!(curves.best(0, 3000), Some(Choice { setting: 0, units: 3000 }));
        assert_eq!(curves.best(0, 6000), Some(Choice { setting: 1, units: 6000 }));
        assert_eq!(curves.best(0, 100), None);
        assert_eq!((curves.utility_units(7500), curves.utility_units(5000)), (Some(vec![7500.0]), Some(vec![5000.0])));
        assert_eq!((curves.utility_units(4000), curves.utility_units(1000)), (None, None));
    }
}

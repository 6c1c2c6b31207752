//! What is to be analysed, and the checks on it.

use serde::Serialize;
use serde_json::Value;

use crate::analyze::AnalyzeError;
use crate::format::dump::State;
use crate::merge::Shares;

/// A similarity map that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapRequest {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// A key or value state.
    pub state: State,
}

/// Options of [`crate::analyze::analyze`].
#[derive(Clone, Debug, PartialEq)]
pub struct AnalyzeOptions {
    /// Thresholds on the cosine of neighbours, rising, in [-1, 1).
    pub eps_grid: Vec<f32>,
    /// The threshold of the grid that single figures are given for.
    pub reference_eps: f32,
    /// Distances in tokens of the locality curve, rising, from 1 on.
    pub lags: Vec<usize>,
    /// Shares of the tokens that are never merged.
    pub shares: Shares,
    /// Whether chains run on across protected tokens.
    pub bridge: bool,
    /// Budgets, slots kept per token, at which each head is merged alone to see what that does to its attention output;
    /// rising, in (0, 1). Without any, queries are not looked at.
    pub budgets: Vec<f64>,
    /// Heads to draw maps of.
    pub maps: Vec<MapRequest>,
    /// Samples of each data set, from its first, that every map is made of, and that the page's explorer shows.
    pub map_samples: usize,
    /// Heads whose states the page's explorer shows; without any there is no explorer.
    pub explore: usize,
    /// Largest distance of a data set's mean set ratio from a head's mean at which the head counts as persistent.
    pub tolerance: f64,
    /// Seed of the bootstrap and the permutations.
    pub seed: u64,
}

impl Default for AnalyzeOptions {
    /// The paper's threshold 0.75 in a grid from 0.30 to 0.95, and its protected shares at half the cache.
    fn default() -> Self {
        Self {
            eps_grid: (6..=19).map(|step| (f64::from(step) / 20.0) as f32).collect(),
            reference_eps: 0.75,
            lags: Self::lags_up_to(256),
            shares: Shares::of_paper(0.5),
            bridge: false,
            budgets: vec![0.2, 0.35, 0.5, 0.65, 0.8],
            maps: Vec::new(),
            map_samples: 1,
            explore: 6,
            tolerance: 0.05,
            seed: 0,
        }
    }
}

impl AnalyzeOptions {
    /// Distances 1, 2, 3, 4, 6, 8, 12 and so on, two for each power of two, up to `most` and with it.
    pub fn lags_up_to(most: usize) -> Vec<usize> {
        let powers = std::iter::successors(Some(2usize), |power| power.checked_mul(2));
        let both = powers.flat_map(|power| [power, power + power / 2]);
        let mut lags: Vec<usize> = std::iter::once(1).chain(both.take_while(|lag| *lag < most)).collect();
        if most > 1 {
            lags.push(most);
        }
        lags
    }

    /// Checks the options on their own; returns the index of the reference threshold.
    pub(crate) fn check(&self) -> Result<usize, AnalyzeError> {
        let fault = |option, what| Err(AnalyzeError::Option { option, what });
        let rising = self.eps_grid.windows(2).all(|pair| pair[0] < pair[1]);
        // A NaN fails both comparisons of the range.
        if !rising || !self.eps_grid.iter().all(|eps| (-1.0..1.0).contains(eps)) || self.eps_grid.len() > 1000 {
            return fault("eps", format!("{:?} is not rising within [-1, 1)", self.eps_grid));
        }
        let Some(reference) = self.eps_grid.iter().position(|eps| *eps == self.reference_eps) else {
            return fault("reference_eps", format!("{} is not in the grid {:?}", self.reference_eps, self.eps_grid));
        };
        let rising = self.lags.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || self.lags.first().is_none_or(|lag| *lag == 0) || self.lags.len() > 1000 {
            return fault("lags", format!("{:?} is not rising from 1", self.lags));
        }
        for (option, share) in [("shares.recent", self.shares.recent), ("shares.heavy", self.shares.heavy)] {
            if !(0.0..=1.0).contains(&share) {
                return fault(option, format!("{share} is not in [0, 1]"));
            }
        }
        let rising = self.budgets.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || !self.budgets.iter().all(|budget| *budget > 0.0 && *budget < 1.0) || self.budgets.len() > 100 {
            return fault("budgets", format!("{:?} is not rising within (0, 1)", self.budgets));
        }
        if !(0.0..=1.0).contains(&self.tolerance) {
            return fault("tolerance", format!("{} is not in [0, 1]", self.tolerance));
        }
        if !self.maps.is_empty() && self.map_samples == 0 {
            return fault("map_samples", "0 samples leave no map to draw".into());
        }
        Ok(reference)
    }

    /// The options as provenance, and with them what of each dump there was.
    pub(crate) fn to_json(&self, dumps: Vec<Value>) -> Value {
        serde_json::json!({
            "eps_grid": self.eps_grid.iter().copied().map(decimal).collect::<Vec<_>>(),
            "reference_eps": decimal(self.reference_eps),
            "lags": self.lags,
            "shares": self.shares,
            "bridge": self.bridge,
            "budgets": self.budgets,
            "maps": self.maps,
            "map_samples": self.map_samples,
            "explore": self.explore,
            "tolerance": self.tolerance,
            "dumps": dumps,
        })
    }
}

/// The f64 that prints as `x` does: 0.3 and not 0.30000001192092896.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_double_in_two_steps_up_to_the_last() {
        assert_eq!(AnalyzeOptions::lags_up_to(1), [1]);
        assert_eq!(AnalyzeOptions::lags_up_to(3), [1, 2, 3]);
        assert_eq!(AnalyzeOptions::lags_up_to(20), [1, 2, 3, 4, 6, 8, 12, 16, 20]);
        assert_eq!(AnalyzeOptions::default().lags[8..], [24, 32, 48, 64, 96, 128, 192, 256]);
        assert!(AnalyzeOptions::lags_up_to(usize::MAX).windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn the_default_holds_the_papers_threshold() {
        let options = AnalyzeOptions::default();
        assert_eq!(options.check().unwrap(), 9);
        assert_eq!(options.eps_grid.first(), Some(&0.3));
        assert_eq!(options.eps_grid.last(), Some(&0.95));
        assert_eq!(options.to_json(vec![])["eps_grid"][0].to_string(), "0.3");
    }

    #[test]
    fn unusable_options_are_named() {
        let refused = |change: &dyn Fn(&mut AnalyzeOptions)| {
            let mut options = AnalyzeOptions::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(refused(&|o| o.eps_grid = vec![0.75, 0.75]).starts_with("eps "));
        assert!(refused(&|o| o.eps_grid = vec![0.75, f32::NAN]).starts_with("eps "));
        assert!(refused(&|o| o.eps_grid = vec![]).starts_with("reference_eps"));
        assert!(refused(&|o| o.reference_eps = 0.76).starts_with("reference_eps"));
        assert!(refused(&|o| o.lags = vec![0, 1]).starts_with("lags"));
        assert!(refused(&|o| o.lags = vec![]).starts_with("lags"));
        assert!(refused(&|o| o.shares.heavy = 1.5).starts_with("shares.heavy"));
        assert!(refused(&|o| o.budgets = vec![0.5, 0.5]).starts_with("budgets"));
        assert!(refused(&|o| o.budgets = vec![0.5, 1.0]).starts_with("budgets"));
        assert!(refused(&|o| o.tolerance = f64::NAN).starts_with("tolerance"));
        let map = MapRequest { layer: 0, kv_head: 0, state: State::K };
        assert!(
            refused(&|o| {
                o.maps = vec![map];
                o.map_samples = 0;
            })
            .starts_with("map_samples")
        );
    }
}

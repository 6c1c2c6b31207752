//! Ways to choose thresholds for a budget. Adding one is a file and a line in [`SEARCHES`].

mod per_head;
mod shared;

use crate::tune::links::HeadLinks;

/// A line of the search table.
#[derive(Clone, Copy, Debug)]
pub struct SearchEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// From each head's links in every calibration sample, and a kept_fraction, one eps per head.
    pub(super) solve: fn(&[Vec<HeadLinks>], f64) -> Vec<f32>,
}

/// Every search, the default first.
pub const SEARCHES: &[SearchEntry] = &[per_head::ENTRY, shared::ENTRY];

/// The largest eps at which the mean kept_fraction over all given links is at most `kept_fraction`; -1, at which
/// everything joins, when none is.
///
/// Each link frees 1/T of its sample and head. Source: ours.
fn threshold<'a>(all: impl Iterator<Item = &'a HeadLinks> + Clone, kept_fraction: f64) -> f32 {
    let n = all.clone().count() as f64;
    let mut freed: Vec<(f32, f64)> =
        all.flat_map(|head| head.falling().iter().map(|s| (*s, 1.0 / head.n_tokens() as f64))).collect();
    freed.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    // A share that is met but for the last bits of a sum is met.
    let wanted = (1.0 - kept_fraction) * n - 1e-9;
    let mut total = 0.0;
    for (similarity, share) in freed {
        total += share;
        if total >= wanted {
            // Joining is strictly above eps. Equal similarities join together.
            return similarity.next_down();
        }
    }
    -1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Shares;

    fn head(degrees: &[f32]) -> HeadLinks {
        let keys: Vec<f32> = degrees.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        HeadLinks::new(&keys, 2, &vec![1.0; degrees.len()], Shares { recent: 0.0, heavy: 0.0 }, false)
    }

    fn kept(samples: &[HeadLinks], eps: f32) -> f64 {
        samples.iter().map(|s| s.kept_fraction(eps)).sum::<f64>() / samples.len() as f64
    }

    #[test]
    fn the_threshold_is_the_largest_that_meets_the_budget() {
        // Gaps 10°, 30°, 1° in a sample of 4 tokens; 5°, 20° in one of 3.
        let samples = [head(&[0.0, 10.0, 40.0, 41.0]), head(&[0.0, 5.0, 25.0])];
        for budget in [0.9, 0.7, 0.6, 0.5, 0.3] {
            let eps = threshold(samples.iter(), budget);
            assert!(kept(&samples, eps) <= budget + 1e-9, "budget {budget}: eps {eps} keeps {}", kept(&samples, eps));
            assert!(kept(&samples, eps.next_up()) > budget, "budget {budget}: eps {eps} is not the largest");
        }
        assert_eq!(threshold(samples.iter(), 0.2), -1.0);
    }

    #[test]
    fn searches_differ_where_heads_do() {
        let heads = vec![vec![head(&[0.0, 1.0, 2.0, 3.0])], vec![head(&[0.0, 60.0, 120.0, 180.0])]];
        let per_head = (SEARCHES[0].solve)(&heads, 0.5);
        assert!(per_head[0] > 0.99 && per_head[1] < 0.5001, "{per_head:?}");
        let shared = (SEARCHES[1].solve)(&heads, 0.625);
        assert_eq!(shared[0], shared[1]);
        assert_eq!((heads[0][0].kept_fraction(shared[0]), heads[1][0].kept_fraction(shared[1])), (0.25, 1.0));
        for entry in SEARCHES {
            let file = format!("{}/src/tune/search/{}.rs", env!("CARGO_MANIFEST_DIR"), entry.name.replace('-', "_"));
            assert!(std::path::Path::new(&file).exists(), "{file}");
        }
    }
}

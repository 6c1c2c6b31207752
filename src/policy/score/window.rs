//! Attention from the last window of queries, pooled over neighbours; the window itself stays.

use serde::{Deserialize, Serialize};

use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "window",
    summary: "attention from the last 32 queries (window=), over 5 neighbours (pool=) their mean or largest (pooling=mean, max)",
    source: "Li et al. 2024, arXiv 2404.14469",
    build: |params| {
        let window: Window = params.read()?;
        if window.window == 0 || window.pool.is_multiple_of(2) {
            return Err(params.bad("window must be at least 1 and pool odd"));
        }
        part(window, |window| Box::new(window))
    },
};

/// How neighbours share what they received.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    /// Their mean, zeros beyond the ends counted.
    Mean,
    /// The largest of them.
    Max,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    window: usize,
    pool: usize,
    pooling: Pooling,
}

impl Default for Window {
    fn default() -> Self {
        Self { window: 32, pool: 5, pooling: Pooling::Mean }
    }
}

impl Score for Window {
    fn needs(&self) -> Needs {
        Needs { mass_window: Some(self.window), ..Needs::default() }
    }

    fn depends_on_budget(&self) -> bool {
        true
    }

    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        let n = view.n_slots();
        let older = n - self.window.min(budget_tokens);
        let mut worth = pooled(&view.mass_window[..older], self.pool, self.pooling);
        worth.resize(n, f32::INFINITY);
        worth
    }
}

/// Each number with its neighbours within `width`, as `avg_pool1d` and `max_pool1d` with padding do.
fn pooled(x: &[f32], width: usize, pooling: Pooling) -> Vec<f32> {
    let half = width / 2;
    let near = |i: usize| &x[i.saturating_sub(half)..(i + half + 1).min(x.len())];
    (0..x.len())
        .map(|i| match pooling {
            Pooling::Mean => near(i).iter().sum::<f32>() / width as f32,
            Pooling::Max => crate::math::max(near(i)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn neighbours_of_a_peak_share_it() {
        let x = [3.0, 0.0, 6.0, 0.0];
        assert_eq!(pooled(&x, 3, Pooling::Mean), [1.0, 3.0, 2.0, 2.0]);
        assert_eq!(pooled(&x, 3, Pooling::Max), [3.0, 6.0, 6.0, 6.0]);
        let mass_window = [0.0, 3.0, 9.0];
        let view = HeadView { mass_window: &mass_window, ..HeadView::new(Rows::new(&[0.0; 3], 1)) };
        let window = Window { window: 1, pool: 3, ..Window::default() };
        assert_eq!(window.worth(&view, 2), [1.0, 1.0, f32::INFINITY]);
    }
}

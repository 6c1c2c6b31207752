//! What a linear map makes of the vector that a token's key and value are made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::format::scorer::Scorer;
use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part, PolicyError};

pub(super) const PART: Part<dyn Score> = Part {
    name: LEARNED,
    summary: "what a linear map of the token's vector predicts of its repetition score (by=output), in logarithms (weights= a file of `kvscope learn`); the last window=128 tokens stay, half of the head's share of the budget at most",
    source: "KVzap 2026, arXiv 2601.07891, its linear map",
    build: |params| {
        let Typed { weights, window } = params.read()?;
        let Some(path) = weights else { return Err(PolicyError::NoWeights { policy: params.policy() }) };
        let scorer = Scorer::read(Path::new(&path))?;
        // Artifacts name the file and not where it stands.
        let recorded = serde_json::json!({ WEIGHTS: scorer.file, "window": window });
        Ok((Box::new(Learned { scorer: Arc::new(scorer), window }), recorded))
    },
};

/// The score's name.
pub const LEARNED: &str = "learned";
/// The parameter that names a file.
pub const WEIGHTS: &str = "weights";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Typed {
    weights: Option<PathBuf>,
    window: usize,
}

impl Default for Typed {
    fn default() -> Self {
        Self { weights: None, window: 128 }
    }
}

#[derive(Debug)]
struct Learned {
    scorer: Arc<Scorer>,
    window: usize,
}

impl Score for Learned {
    fn needs(&self) -> Needs {
        Needs { learned: Some(self.scorer.clone()), ..Needs::default() }
    }

    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let mut worth = view.predicted.to_vec();
        let n = worth.len();
        // The same at every size, so that a head keeps the tokens that won its slots.
        let most = if view.share_tokens < n { view.share_tokens.div_ceil(2) } else { n };
        worth[n - self.window.min(most)..].fill(f32::INFINITY);
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::scorer::Scorer;
    use crate::math::Rows;

    #[test]
    fn the_newest_stay_up_to_half_of_the_share() {
        let scorer = Arc::new(Scorer::toy(1, 1, 2));
        let predicted = [-3.0, -1.0, -2.0, -5.0, -4.0];
        let keys = [0.0; 5];
        let worth = |window, share_tokens| {
            let view = HeadView { predicted: &predicted, share_tokens, ..HeadView::new(Rows::new(&keys, 1)) };
            Learned { scorer: scorer.clone(), window }.worth(&view, 1)
        };
        let stays = f32::INFINITY;
        assert_eq!(worth(1, 4), [-3.0, -1.0, -2.0, -5.0, stays]);
        assert_eq!(worth(100, 3), [-3.0, -1.0, -2.0, stays, stays]);
        // A threshold has no share: the whole window stays.
        assert_eq!(worth(4, 5), [-3.0, stays, stays, stays, stays]);
    }
}

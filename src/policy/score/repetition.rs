//! Attention from a repetition of the prompt.

use crate::merge::Repetition;
use crate::policy::part::part;
use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "repetition",
    summary: "largest attention from the model's repetition of the prompt (chunk=2048 tokens at a time), which sees the first tokens, its own chunk and itself; by=output: times the projected value's length, over the length of the token's input; by=gradient: times that length, times the gradient of the last states' squares by the token's attention output; sinks=4 tokens stay",
    source: "Kim et al. 2025, arXiv 2505.23416; by=output: KVzap 2026, arXiv 2601.07891; by=gradient: KVgrad, openreview.net/forum?id=cg1wTCJjjk",
    build: |params| {
        let repetition: Repetition = params.read()?;
        if repetition.chunk == 0 {
            return Err(params.bad("chunk is at least 1"));
        }
        part(repetition, |repetition| Box::new(Repeated(repetition)))
    },
};

#[derive(Debug)]
struct Repeated(Repetition);

impl Score for Repeated {
    fn needs(&self) -> Needs {
        Needs { repetition: Some(self.0), projection: self.0.projects(), ..Needs::default() }
    }

    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let mut worth = view.repetition.to_vec();
        let sinks = self.0.sinks.min(worth.len());
        worth[..sinks].fill(f32::INFINITY);
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn sinks_stay_whatever_they_received() {
        let repetition = [0.1, 0.3, 0.2];
        let view = HeadView { repetition: &repetition, ..HeadView::new(Rows::new(&[0.0; 3], 1)) };
        let score = Repeated(Repetition { sinks: 1, ..Repetition::default() });
        assert_eq!(score.worth(&view, 2), [f32::INFINITY, 0.3, 0.2]);
    }
}

//! How the next token is drawn from the logits.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as CandleSampling};
use candle_transformers::utils::apply_repeat_penalty;
use serde::{Deserialize, Serialize};

use crate::math::{argmax, max};
use crate::model::ModelError;
use crate::runtime::RuntimeError;

/// How the next token is drawn from the logits: repetition penalty, temperature, the k best, the best of a share, the
/// least share, in this order, as transformers has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Draw among this many most likely tokens; 0 for all.
    pub top_k: Option<usize>,
    /// Draw among the most likely of these that together have this share of their probability; 0 takes the best one.
    pub top_p: Option<f64>,
    /// Draw among tokens of at least this share of the most likely one's probability.
    pub min_p: Option<f32>,
    /// Divides positive logits of tokens that are in the prompt or came since, and multiplies negative ones.
    pub repetition_penalty: Option<f32>,
    /// Seed of the draw.
    pub seed: u64,
}

impl Sampling {
    /// Checks every number.
    ///
    /// - Errors: [`RuntimeError::Sampling`]
    pub fn check(&self) -> Result<(), RuntimeError> {
        let fault = |option, range, found: f64| Err(RuntimeError::Sampling { option, range, found });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return fault("temperature", "a number of at least 0", self.temperature);
        }
        for (option, share) in [("top-p", self.top_p), ("min-p", self.min_p.map(f64::from))] {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return fault(option, "a share in [0, 1]", share);
            }
        }
        match self.repetition_penalty {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                fault("repetition-penalty", "a number above 0; 1 changes nothing", f64::from(x))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn processor(&self) -> LogitsProcessor {
        // Temperature and cuts are ours: the library's cuts do not share out again what the one before left.
        LogitsProcessor::from_sampling(self.seed, CandleSampling::All { temperature: 1.0 })
    }

    /// Draws a token from finite logits; `text` is what a repetition may repeat.
    pub(super) fn draw(
        &self,
        processor: &mut LogitsProcessor,
        mut logits: Vec<f32>,
        text: &[u32],
    ) -> Result<u32, ModelError> {
        let n = logits.len();
        if let Some(penalty) = self.repetition_penalty {
            logits = apply_repeat_penalty(&Tensor::from_vec(logits, n, &Device::Cpu)?, penalty, text)?.to_vec1()?;
            logits.iter_mut().for_each(|x| *x = x.clamp(f32::MIN, f32::MAX));
        }
        if self.temperature == 0.0 || self.top_k == Some(1) || self.top_p == Some(0.0) {
            return Ok(argmax(&logits) as u32);
        }
        // From the largest on, so that no temperature makes a number that is none.
        let top = f64::from(max(&logits));
        logits.iter_mut().for_each(|x| *x = ((f64::from(*x) - top) / self.temperature) as f32);
        Ok(processor.sample_f(&Tensor::from_vec(logits, n, &Device::Cpu)?, |p| self.cut(p))?)
    }

    /// Sets the probabilities of tokens that are not to be drawn to 0. Of equal ones the first is the likelier.
    fn cut(&self, p: &mut [f32]) {
        let k = self.top_k.filter(|k| *k > 0).map_or(p.len(), |k| k.min(p.len()));
        let share = self.top_p.filter(|share| *share < 1.0);
        if k < p.len() || share.is_some() {
            let by_rank = |a: &usize, b: &usize| p[*b].total_cmp(&p[*a]).then(a.cmp(b));
            let mut order: Vec<usize> = (0..p.len()).collect();
            if k < p.len() {
                order.select_nth_unstable_by(k, by_rank);
            }
            let (best, _) = order.split_at_mut(k);
            let mut kept = k;
            if let Some(share) = share {
                best.sort_unstable_by(by_rank);
                let wanted = share * best.iter().map(|i| f64::from(p[*i])).sum::<f64>();
                let mut sum = 0.0;
                let enough = best.iter().position(|i| {
                    sum += f64::from(p[*i]);
                    sum >= wanted
                });
                kept = enough.map_or(k, |last| last + 1);
            }
            order[kept..].iter().for_each(|i| p[*i] = 0.0);
        }
        if let Some(share) = self.min_p {
            let least = share * max(p);
            p.iter_mut().filter(|p| **p < least).for_each(|p| *p = 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sampling: Sampling) -> Vec<usize> {
        let mut p = [0.1, 0.4, 0.05, 0.2, 0.2, 0.05];
        sampling.cut(&mut p);
        (0..p.len()).filter(|i| p[*i] > 0.0).collect()
    }

    #[test]
    fn cuts_by_hand() {
        let none = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(left(none).len(), 6);
        assert_eq!(left(Sampling { top_k: Some(0), ..none }).len(), 6);
        assert_eq!(left(Sampling { top_k: Some(usize::MAX), ..none }).len(), 6);
        // The first of equals.
        assert_eq!(left(Sampling { top_k: Some(2), ..none }), [1, 3]);
        assert_eq!(left(Sampling { top_p: Some(0.5), ..none }), [1, 3]);
        assert_eq!(left(Sampling { top_p: Some(1e-30), ..none }), [1]);
        assert_eq!(left(Sampling { top_p: Some(1.0), ..none }).len(), 6);
        // Of the three best, 0.4 and 0.2 are three quarters: 0.7 of the whole would need all three.
        assert_eq!(left(Sampling { top_k: Some(3), top_p: Some(0.7), ..none }), [1, 3]);
        assert_eq!(left(Sampling { min_p: Some(0.3), ..none }), [1, 3, 4]);
    }

    #[test]
    fn numbers_that_are_none_are_refused_by_name() {
        let faulty = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        let good = Sampling::default();
        for x in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(faulty(Sampling { temperature: x, ..good }).starts_with("temperature"), "{x}");
            assert!(faulty(Sampling { top_p: Some(x), ..good }).starts_with("top-p"), "{x}");
            assert!(faulty(Sampling { min_p: Some(x as f32), ..good }).starts_with("min-p"), "{x}");
            assert!(faulty(Sampling { repetition_penalty: Some(x as f32), ..good }).starts_with("repetition"), "{x}");
        }
        assert!(
            Sampling { top_p: Some(0.0), min_p: Some(1.0), repetition_penalty: Some(1e-30), ..good }.check().is_ok()
        );
    }

    #[test]
    fn any_temperature_and_penalty_leave_something_to_draw() {
        let logits = vec![1.0, 5.0, 4.9, -3.0];
        for (temperature, penalty) in [(1e-40, 1.0), (1e-300, 1e-30), (1e38, 1e30), (1e308, 1e-38), (1.0, f32::MAX)] {
            let sampling = Sampling { temperature, repetition_penalty: Some(penalty), ..Sampling::default() };
            let drawn = sampling.draw(&mut sampling.processor(), logits.clone(), &[1, 3]).unwrap();
            assert!(drawn < 4);
        }
        let cold = Sampling { temperature: 1e-40, ..Sampling::default() };
        assert_eq!(cold.draw(&mut cold.processor(), logits, &[]).unwrap(), 1);
    }
}

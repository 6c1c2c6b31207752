//! Which samples choices are made on, and which are only measured.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::format::dump::Dump;
use crate::tune::TuneOptions;

/// Splits samples into calibration and held-out ones, seeded, the same share of every data set (rounded down, so that a
/// data set of one sample calibrates). A sample is one document; no document is split.
///
/// - Shape: data set name per sample → two rising lists of indices
pub(super) fn split(datasets: &[&str], hold_out: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut by_dataset: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, dataset) in datasets.iter().enumerate() {
        by_dataset.entry(dataset).or_default().push(i);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut calibration, mut held_out) = (Vec::new(), Vec::new());
    for samples in by_dataset.values_mut() {
        samples.shuffle(&mut random);
        let n_out = (samples.len() as f64 * hold_out + 1e-9) as usize;
        held_out.extend(&samples[..n_out]);
        calibration.extend(&samples[n_out..]);
    }
    calibration.sort_unstable();
    held_out.sort_unstable();
    (calibration, held_out)
}

/// The samples that choices are made on, as places of dumps and of samples within them.
pub fn calibration_samples(dumps: &[Dump], options: &TuneOptions) -> Vec<(usize, usize)> {
    let samples = |(dump, place): (&Dump, usize)| (0..dump.manifest().samples.len()).map(move |index| (place, index));
    let places: Vec<(usize, usize)> = dumps.iter().zip(0..).flat_map(samples).collect();
    let names: Vec<&str> =
        places.iter().map(|(dump, index)| dumps[*dump].manifest().samples[*index].dataset.as_str()).collect();
    split(&names, options.hold_out, options.seed).0.into_iter().map(|at| places[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_gives_its_share() {
        let datasets = ["b", "a", "a", "b", "a", "c", "a", "a", "a"];
        let (calibration, held_out) = split(&datasets, 1.0 / 3.0, 1);
        let count = |list: &[usize], name| list.iter().filter(|i| datasets[**i] == name).count();
        assert_eq!((count(&held_out, "a"), count(&held_out, "b"), count(&held_out, "c")), (2, 0, 0));
        assert_eq!(calibration.len() + held_out.len(), datasets.len());
        assert_eq!(split(&datasets, 1.0 / 3.0, 1), (calibration, held_out));
        assert_eq!(split(&datasets, 0.0, 1).1, [0; 0]);
    }
}

//! Which samples choices are made on, and which are only measured.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::format::dump::{Dump, DumpError, Sample, SampleEntry};
use crate::tune::TuneOptions;

/// Splits samples into calibration and held-out ones, seeded, the same share of every data set (rounded down, so that a
/// data set of one sample calibrates). A sample is one document; no document is split.
///
/// - Shape: data set name per sample → two rising lists of indices
fn split(datasets: &[&str], hold_out: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
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

/// Where a sample is. Opened when it is read, so that a run of many has few files open.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its dump.
    pub dump: &'a Dump,
    /// Its place there.
    pub index: usize,
}

impl<'a> Place<'a> {
    pub(super) fn open(&self) -> Result<Sample<'a>, DumpError> {
        self.dump.sample(self.index)
    }

    pub(super) fn entry(&self) -> &'a SampleEntry {
        &self.dump.manifest().samples[self.index]
    }
}

/// All samples, dump by dump.
pub(super) fn places(dumps: &[Dump]) -> Vec<Place<'_>> {
    dumps.iter().flat_map(|dump| (0..dump.manifest().samples.len()).map(move |index| Place { dump, index })).collect()
}

/// Calibration and held-out ones of all samples, by their indices.
pub(super) fn split_places(places: &[Place<'_>], options: &TuneOptions) -> (Vec<usize>, Vec<usize>) {
    let names: Vec<&str> = places.iter().map(|place| place.entry().dataset.as_str()).collect();
    split(&names, options.hold_out, options.seed)
}

/// The samples that choices are made on.
pub fn calibration_samples<'a>(dumps: &'a [Dump], options: &TuneOptions) -> Vec<Place<'a>> {
    let places = places(dumps);
    split_places(&places, options).0.into_iter().map(|at| places[at]).collect()
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

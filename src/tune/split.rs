//! Which samples choices are made on, and which are only measured.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::format::dump::{Dump, DumpError, Sample, SampleEntry};

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
        let n_out = ((samples.len() as f64 * hold_out + 1e-9) as usize).min(samples.len());
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
    /// Opens it, checked but for its digest.
    pub fn open(&self) -> Result<Sample<'a>, DumpError> {
        self.dump.sample(self.index)
    }

    /// The manifest's line about it.
    pub fn entry(&self) -> &'a SampleEntry {
        &self.dump.manifest().samples[self.index]
    }
}

/// All samples, dump by dump.
pub(super) fn places(dumps: &[Dump]) -> Vec<Place<'_>> {
    dumps.iter().flat_map(|dump| (0..dump.manifest().samples.len()).map(move |index| Place { dump, index })).collect()
}

/// Calibration and held-out ones of all samples, by their indices.
pub(super) fn split_places(places: &[Place<'_>], hold_out: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let names: Vec<&str> = places.iter().map(|place| place.entry().dataset.as_str()).collect();
    split(&names, hold_out, seed)
}

/// The samples that choices are made on, and the held-out ones.
pub fn split_samples(dumps: &[Dump], hold_out: f64, seed: u64) -> (Vec<Place<'_>>, Vec<Place<'_>>) {
    let places = places(dumps);
    let (calibration, held_out) = split_places(&places, hold_out, seed);
    let of = |indices: Vec<usize>| indices.into_iter().map(|at| places[at]).collect();
    (of(calibration), of(held_out))
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

//! Cosines between the tokens of one head: those of neighbours, and how they fall with distance.

use crate::format::analysis::{Neighbours, QUANTILES};
use crate::math::{
    Mean, Rows, add_gram, axpy, centred_gram, counts_above, effective_rank, lagged_sums, neighbour_products, range,
    sum, unit_factor,
};

/// Bins of a head's histogram over [-1, 1]. Quantiles are read from it: they are off by at most a bin, 0.0005.
const BINS: usize = 4000;
/// Vectors of a sample, evenly spaced, that effective rank is taken of: 4 for each direction of a head of dimension 128.
const RANK_ROWS: usize = 512;
/// Bins of the histogram that goes into the document; divides [`BINS`].
pub(crate) const COARSE_BINS: usize = 40;

/// Rows and what scales them to length 1.
///
/// A row has no direction when its squared length in f32 is 0 or not finite, as for [`crate::merge::links`].
#[derive(Debug)]
struct Directions<'a> {
    rows: Rows<'a>,
    /// 0 of a row without direction.
    factors: Vec<f32>,
    /// Inner products with the next row.
    products: Vec<f32>,
    all_defined: bool,
}

impl<'a> Directions<'a> {
    /// - Shape: rows `[T, D]`
    fn new(rows: Rows<'a>) -> Self {
        let (mut factors, mut products) = (vec![0f32; rows.len()], vec![0f32; rows.len()]);
        neighbour_products(rows, &mut factors, &mut products);
        factors.iter_mut().for_each(|square| *square = unit_factor(*square).unwrap_or(0.0));
        let all_defined = factors.iter().all(|factor| *factor > 0.0);
        Self { rows, factors, products, all_defined }
    }

    /// cos(x_i, x_{i+1}) for every i where both have a direction.
    fn neighbours(&self) -> Vec<f32> {
        let pairs = self.factors.windows(2).zip(&self.products);
        let cosine = |(factors, product): (&[f32], &f32)| {
            let factor = f64::from(factors[0]) * f64::from(factors[1]);
            (factor > 0.0).then_some((factor * f64::from(*product)).clamp(-1.0, 1.0) as f32)
        };
        pairs.filter_map(cosine).collect()
    }

    /// Sums of cos(x_{i-lag}, x_i) for every lag, over every i where both have a direction.
    fn sums_at(&self, lags: &[usize]) -> impl Iterator<Item = Mean> {
        let factors = &self.factors;
        let n = factors.len();
        let pairs = move |lag: usize| {
            factors.iter().zip(&factors[lag.min(n)..]).filter(|(a, b)| **a > 0.0 && **b > 0.0).count()
        };
        let totals = lagged_sums(self.rows, factors, lags).into_iter();
        totals.zip(lags).map(move |(total, lag)| {
            let n = if self.all_defined { n.saturating_sub(*lag) } else { pairs(*lag) };
            Mean::of_sum(total, n as u64)
        })
    }
}

/// Counters of one head and state over the samples of a data set.
#[derive(Clone, Debug)]
pub(crate) struct HeadCounters {
    neighbours: Mean,
    bins: Vec<u64>,
    lowest: f32,
    highest: f32,
    /// Pairs above each threshold.
    above: Vec<u64>,
    by_lag: Vec<Mean>,
    rank: RankCounters,
}

impl HeadCounters {
    pub(crate) fn new(n_lags: usize, n_thresholds: usize) -> Self {
        Self {
            neighbours: Mean::default(),
            bins: vec![0; BINS],
            lowest: 1.0,
            highest: -1.0,
            above: vec![0; n_thresholds],
            by_lag: vec![Mean::default(); n_lags],
            rank: RankCounters::default(),
        }
    }

    /// Counts one sample's vectors `[T, D]`; returns the sum over its neighbours.
    ///
    /// - Cost: O(T·D·lags)
    pub(crate) fn add(&mut self, rows: Rows<'_>, lags: &[usize], eps_grid: &[f32]) -> Mean {
        self.rank.add(rows);
        let sample = Directions::new(rows);
        let cosines = sample.neighbours();
        let neighbours = Mean::of_sum(sum(&cosines), cosines.len() as u64);
        for cosine in &cosines {
            self.bins[bin(*cosine)] += 1;
        }
        let [lowest, highest] = range(&cosines);
        (self.lowest, self.highest) = (self.lowest.min(lowest), self.highest.max(highest));
        self.above.iter_mut().zip(counts_above(&cosines, eps_grid)).for_each(|(above, n)| *above += n);
        self.neighbours.join(neighbours);
        for ((by_lag, sum), lag) in self.by_lag.iter_mut().zip(sample.sums_at(lags)).zip(lags) {
            // The neighbours have been summed already.
            by_lag.join(if *lag == 1 { neighbours } else { sum });
        }
        neighbours
    }

    /// Share of the pairs above each threshold; `None` without pairs.
    pub(crate) fn share_above(&self) -> Vec<Option<f64>> {
        let n = self.neighbours.n();
        self.above.iter().map(|above| (n > 0).then(|| *above as f64 / n as f64)).collect()
    }

    /// Effective rank as the vectors are, and about their mean.
    pub(crate) fn effective_ranks(&self) -> [Option<f64>; 2] {
        self.rank.finish()
    }

    pub(crate) fn neighbours(&self) -> Neighbours {
        let n = self.neighbours.n() as usize;
        let quantiles = (n > 0).then(|| QUANTILES.map(|q| self.quantile(q)));
        Neighbours { n, mean: self.neighbours.get(), quantiles }
    }

    pub(crate) fn locality(&self) -> Vec<Option<f64>> {
        self.by_lag.iter().map(|mean| mean.get()).collect()
    }

    /// Adds this head's pairs to a histogram of [`COARSE_BINS`] bins.
    pub(crate) fn add_to(&self, coarse: &mut [u64]) {
        for (coarse, fine) in coarse.iter_mut().zip(self.bins.chunks_exact(BINS / COARSE_BINS)) {
            *coarse += fine.iter().sum::<u64>();
        }
    }

    /// Linear interpolation at q·(n - 1) between order statistics, each within a bin of the true one.
    fn quantile(&self, q: f64) -> f64 {
        let at = q * self.neighbours.n().saturating_sub(1) as f64;
        let (low, high) = (self.order_statistic(at.floor() as u64), self.order_statistic(at.ceil() as u64));
        low + (high - low) * at.fract()
    }

    /// The value of that rank (from 0), taking the values of a bin as evenly spread over it.
    fn order_statistic(&self, rank: u64) -> f64 {
        let mut before = 0;
        for (index, count) in self.bins.iter().enumerate() {
            if rank < before + count {
                let within = ((rank - before) as f64 + 0.5) / *count as f64;
                let value = -1.0 + 2.0 * (index as f64 + within) / BINS as f64;
                return value.clamp(f64::from(self.lowest), f64::from(self.highest));
            }
            before += count;
        }
        f64::from(self.highest)
    }
}

/// Gram matrix and sum of some of a head's vectors.
#[derive(Clone, Debug, Default)]
struct RankCounters {
    /// `[D, D]`.
    gram: Vec<f32>,
    sum: Vec<f32>,
    n: usize,
}

impl RankCounters {
    /// Adds at most [`RANK_ROWS`] of a sample's rows.
    fn add(&mut self, rows: Rows<'_>) {
        let (d, every) = (rows.width(), rows.len().div_ceil(RANK_ROWS).max(1));
        let chosen = rows.iter().step_by(every).collect::<Vec<_>>().concat();
        let chosen = Rows::new(&chosen, d);
        self.gram.resize(d * d, 0.0);
        self.sum.resize(d, 0.0);
        add_gram(chosen, &mut self.gram);
        for row in chosen.iter() {
            axpy(1.0, row, &mut self.sum);
            self.n += 1;
        }
    }

    fn finish(&self) -> [Option<f64>; 2] {
        let widen = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let (gram, sum, dim) = (widen(&self.gram), widen(&self.sum), self.sum.len());
        let centred = centred_gram(&gram, &sum, self.n as f64);
        [effective_rank(&gram, dim), effective_rank(&centred, dim)]
    }
}

/// The bin of a cosine: half-open, the last one closed.
fn bin(cosine: f32) -> usize {
    (((cosine + 1.0) * (BINS as f32 / 2.0)) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_lags_of_an_uneven_row_by_hand() {
        // Directions 0°, 0°, 90°, none, 180°: one pair of neighbours at 0°, one at 90°, two undefined.
        let rows = [2.0, 0.0, 5.0, 0.0, 0.0, 3.0, 0.0, 0.0, -1.0, 0.0];
        let mut head = HeadCounters::new(4, 3);
        let neighbours = head.add(Rows::new(&rows, 2), &[1, 2, 4, 5], &[-0.5, 0.0, 0.5]);
        assert_eq!((neighbours.n(), neighbours.get()), (2, Some(0.5)));
        // Lag 2: (0, 2) 90° and (2, 4) 90°, (1, 3) undefined; lag 4: (0, 4) 180°; lag 5: no pair.
        assert_eq!(head.locality(), [Some(0.5), Some(0.0), Some(-1.0), None]);
        let found = head.neighbours();
        assert_eq!((found.n, found.mean), (2, Some(0.5)));
        for (quantile, exact) in found.quantiles.unwrap().iter().zip(QUANTILES) {
            assert!((quantile - exact).abs() <= 2.0 / BINS as f64, "{quantile} for {exact}");
        }
        let mut coarse = vec![0; COARSE_BINS];
        head.add_to(&mut coarse);
        assert_eq!((coarse[20], coarse[39], coarse.iter().sum::<u64>()), (1, 1, 2));
        // A cosine of exactly 0 is not above 0.
        assert_eq!(head.share_above(), [Some(1.0), Some(0.5), Some(0.5)]);
    }

    #[test]
    fn quantiles_are_within_a_bin_of_the_sorted_ones() {
        // Unit vectors whose steps grow: cosines spread unevenly over [-1, 1].
        let mut angle = 0f64;
        let rows: Vec<f32> = (0..301)
            .flat_map(|i| {
                angle += std::f64::consts::PI * (f64::from(i) / 300.0).powi(2);
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        let mut head = HeadCounters::new(1, 0);
        head.add(Rows::new(&rows, 2), &[1], &[]);
        let cosines = Directions::new(Rows::new(&rows, 2)).neighbours();
        for (quantile, q) in head.neighbours().quantiles.unwrap().iter().zip(QUANTILES) {
            let exact = crate::math::quantile(cosines.iter().map(|x| f64::from(*x)), q).unwrap();
            assert!((quantile - exact).abs() <= 2.0 / BINS as f64 + 1e-6, "{quantile} for {exact}");
        }
    }

    #[test]
    fn one_token_has_no_neighbours() {
        let mut head = HeadCounters::new(1, 1);
        head.add(Rows::new(&[1.0, 2.0], 2), &[1], &[0.5]);
        assert_eq!(head.neighbours(), Neighbours { n: 0, mean: None, quantiles: None });
        assert_eq!((head.locality(), head.share_above()), (vec![None], vec![None]));
        assert_eq!(head.effective_ranks(), [Some(1.0), None]);
    }

    #[test]
    fn ranks_of_vectors_that_lie_on_a_line_and_in_a_plane() {
        // Multiples of (3, 4, 0) about a mean of (0, 0, 7): two directions, one about the mean.
        let mut head = HeadCounters::new(1, 0);
        for factor in [1.0, 2.0] {
            let row = |t: i32| [3.0, 4.0, 0.0].map(|x| x * factor * t as f32);
            let rows: Vec<f32> = (-600..=600).flat_map(|t| [row(t)[0], row(t)[1], 7.0]).collect();
            head.add(Rows::new(&rows, 3), &[1], &[]);
        }
        let [plain, centred] = head.effective_ranks();
        assert!(plain.unwrap() > 1.01 && plain.unwrap() < 2.0, "{plain:?}");
        assert!((centred.unwrap() - 1.0).abs() < 1e-2, "{centred:?}");
    }
}

//! Merging sets of one head: how many at every threshold of a grid, how large, and where they lie.

use multiversion::multiversion;

use crate::format::analysis::{HeadSparsity, Placed};
use crate::format::dump::TokenClass;
use crate::math::{Mean, Rows, THRESHOLDS, threshold_lanes};
use crate::merge::{Link, MergingSets, Shares, links, protect, sets_above};

/// Smallest set of every bin of the distribution of set sizes; the last bin has no upper end.
pub(crate) const SIZE_BINS: [usize; 9] = [1, 2, 3, 4, 5, 9, 17, 33, 65];
/// Equal parts of a prompt.
pub(crate) const POSITION_BINS: usize = 10;

/// Which tokens are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetRule<'a> {
    pub(crate) shares: Shares,
    pub(crate) bridge: bool,
    pub(crate) eps_grid: &'a [f32],
    /// Index into the grid of the threshold that sizes and places are given for.
    pub(crate) reference_eps: usize,
    /// Tokens of the sample that the layer's window has left behind.
    pub(crate) n_passed: usize,
}

/// One sample's sets in one head, one entry per threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GridSets {
    /// Sets per unprotected token; `None` when every token is protected.
    pub(crate) set_ratio: Vec<Option<f64>>,
    /// (sets + protected) / T.
    pub(crate) kept_fraction: Vec<f64>,
    /// Tokens in the largest set.
    pub(crate) largest_set: Vec<usize>,
}

/// One sample's sets in one head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleSets {
    /// As the options say.
    pub(crate) grid: GridSets,
    /// With bridging the other way.
    pub(crate) other: GridSets,
    /// Sets by [`SIZE_BINS`] at the reference threshold, as all that follows.
    pub(crate) sizes: [u64; SIZE_BINS.len()],
    /// Unprotected and merged tokens by tenth of the prompt.
    pub(crate) positions: [Placed; POSITION_BINS],
    /// The same by [`TokenClass::ALL`]; `None` when classes are unknown.
    pub(crate) classes: Option<[Placed; TokenClass::ALL.len()]>,
    /// Tokens that were joined to the one before them, one bit each.
    pub(crate) joined: Vec<u64>,
}

impl SampleSets {
    /// - Shape: keys `[T, D]`, mass `[T]`, classes `[T]`, T > 0
    /// - Cost:  O(T·(D + log T + thresholds))
    pub(crate) fn of(keys: Rows<'_>, mass: &[f32], classes: Option<&[TokenClass]>, rule: SetRule<'_>) -> Self {
        let n_tokens = mass.len();
        let (n_recent, n_heavy) = rule.shares.counts(n_tokens);
        let (tokens, all) = links(keys, &protect(mass, n_recent, n_heavy), true);
        // Without bridging, the same links but for those across a protected token.
        let is_near = |link: &&Link| tokens[link.rank as usize] + 1 == tokens[link.rank as usize + 1];
        let near: Vec<Link> = all.iter().filter(is_near).copied().collect();
        let (chosen, other) = if rule.bridge { (&all, &near) } else { (&near, &all) };
        let of = |links: &[Link]| GridSets::of(links, tokens.len(), n_tokens, rule.eps_grid);
        let (grid, other) = (of(chosen), of(other));
        let sets = sets_above(tokens.clone(), chosen, rule.eps_grid[rule.reference_eps]);
        let mut sample = Self {
            grid,
            other,
            sizes: [0; SIZE_BINS.len()],
            positions: [Placed::default(); POSITION_BINS],
            classes: classes.map(|_| [Placed::default(); TokenClass::ALL.len()]),
            joined: vec![0; (rule.n_passed + n_tokens).div_ceil(64)],
        };
        sample.place(&sets, [rule.n_passed, rule.n_passed + n_tokens], classes);
        sample
    }

    fn place(&mut self, sets: &MergingSets, [n_passed, end]: [usize; 2], classes: Option<&[TokenClass]>) {
        for set in sets.iter() {
            self.sizes[SIZE_BINS.partition_point(|smallest| *smallest <= set.len()) - 1] += 1;
            let merged = u64::from(set.len() > 1);
            for (place, token) in set.iter().map(|token| *token as usize).enumerate() {
                let add = |placed: &mut Placed| {
                    placed.free += 1;
                    placed.merged += merged;
                };
                if let Some((counts, classes)) = self.classes.as_mut().zip(classes) {
                    add(&mut counts[classes[token] as usize]);
                }
                let token = n_passed + token;
                add(&mut self.positions[token * POSITION_BINS / end]);
                if place > 0 {
                    self.joined[token / 64] |= 1 << (token % 64);
                }
            }
        }
    }
}

impl GridSets {
    /// Counts sets from links of falling rank, without making them.
    fn of(links: &[Link], n_free: usize, n_tokens: usize, eps_grid: &[f32]) -> Self {
        let mut grid = Self::default();
        for (thresholds, n) in threshold_lanes(eps_grid) {
            for (joined, longest) in joined_above(links, &thresholds).into_iter().take(n) {
                let n_sets = n_free - joined as usize;
                grid.set_ratio.push((n_free > 0).then(|| n_sets as f64 / n_free as f64));
                grid.kept_fraction.push((n_sets + n_tokens - n_free) as f64 / n_tokens as f64);
                grid.largest_set.push(n_free.min(1) + longest as usize);
            }
        }
        grid
    }
}

/// Links above each threshold, and the most of them in a row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn joined_above(links: &[Link], thresholds: &[f32; THRESHOLDS]) -> [(u32, u32); THRESHOLDS] {
    let (mut joined, mut run, mut longest) = ([0u32; THRESHOLDS], [0u32; THRESHOLDS], [0u32; THRESHOLDS]);
    let mut next = None;
    for link in links {
        if next != Some(link.rank) {
            run = [0; THRESHOLDS];
        }
        next = link.rank.checked_sub(1);
        for lane in 0..THRESHOLDS {
            let above = u32::from(link.similarity > thresholds[lane]);
            joined[lane] += above;
            run[lane] = (run[lane] + 1) * above;
            longest[lane] = longest[lane].max(run[lane]);
        }
    }
    std::array::from_fn(|lane| (joined[lane], longest[lane]))
}

/// Means over the samples of a data set, the sample as unit.
#[derive(Clone, Debug)]
struct GridCounters {
    ratio: Vec<Mean>,
    kept: Vec<Mean>,
    largest: Vec<usize>,
}

/// A head's sets over the samples of a data set.
#[derive(Clone, Debug)]
pub(crate) struct SetCounters {
    grid: GridCounters,
    other: GridCounters,
    sizes: [u64; SIZE_BINS.len()],
}

impl SetCounters {
    pub(crate) fn new(n_thresholds: usize) -> Self {
        let empty = vec![Mean::default(); n_thresholds];
        let grid = GridCounters { ratio: empty.clone(), kept: empty, largest: vec![0; n_thresholds] };
        Self { grid: grid.clone(), other: grid, sizes: [0; SIZE_BINS.len()] }
    }

    pub(crate) fn add(&mut self, sample: &SampleSets) {
        self.grid.add(&sample.grid);
        self.other.add(&sample.other);
        self.sizes.iter_mut().zip(sample.sizes).for_each(|(sum, n)| *sum += n);
    }

    /// With the options' bridging, and with the other.
    pub(crate) fn finish(self, layer: usize, kv_head: usize) -> [HeadSparsity; 2] {
        let Self { grid, other, sizes } = self;
        [grid.finish(layer, kv_head, sizes.to_vec()), other.finish(layer, kv_head, Vec::new())]
    }
}

impl GridCounters {
    fn add(&mut self, sample: &GridSets) {
        for (index, kept) in sample.kept_fraction.iter().enumerate() {
            self.ratio[index].extend(sample.set_ratio[index]);
            self.kept[index].add(*kept);
            self.largest[index] = self.largest[index].max(sample.largest_set[index]);
        }
    }

    fn finish(self, layer: usize, kv_head: usize, sizes: Vec<u64>) -> HeadSparsity {
        let means = |means: Vec<Mean>| means.into_iter().map(Mean::get).collect();
        HeadSparsity {
            layer,
            kv_head,
            set_ratio: means(self.ratio),
            kept_fraction: means(self.kept),
            largest_set: self.largest,
            sizes,
        }
    }
}

/// How far the heads of two layers merge the same tokens.
///
/// Sums over all pairs of heads follow from how many heads of a layer join each token, so that no pair is looked at.
#[derive(Clone, Debug)]
pub(crate) struct OverlapCounters {
    n_heads: usize,
    /// Σ over samples and tokens of the product of two layers' counts, on and above the diagonal; on it, of n (n - 1).
    both: Vec<Vec<f64>>,
    /// The same if tokens were joined at random: Σ over samples of the product of the sums over T.
    chance: Vec<Vec<f64>>,
    /// Σ of each layer's counts.
    alone: Vec<f64>,
}

impl OverlapCounters {
    pub(crate) fn new(n_layers: usize, n_heads: usize) -> Self {
        let square = vec![vec![0.0; n_layers]; n_layers];
        Self { n_heads, both: square.clone(), chance: square, alone: vec![0.0; n_layers] }
    }

    /// Counts one sample: the bits of every head, by layer and head.
    ///
    /// - Cost: O(layers²·T + heads·T)
    pub(crate) fn add(&mut self, joined: &[&[u64]], n_tokens: usize) {
        let counts: Vec<Vec<f32>> = joined.chunks(self.n_heads).map(|heads| layer_counts(heads, n_tokens)).collect();
        let sums: Vec<f64> = counts.iter().map(|layer| layer.iter().map(|n| f64::from(*n)).sum()).collect();
        for a in 0..counts.len() {
            self.alone[a] += sums[a];
            for b in a..counts.len() {
                // Products of counts are integers below 2^24 in any one partial sum of a few thousand tokens.
                let product = f64::from(crate::math::dot(&counts[a], &counts[b]));
                self.both[a][b] += if a == b { product - sums[a] } else { product };
                let pairs = if a == b { (self.n_heads as f64 - 1.0) / self.n_heads as f64 } else { 1.0 };
                self.chance[a][b] += pairs * sums[a] * sums[b] / n_tokens as f64;
            }
        }
    }

    /// Dice coefficient 2 |A ∩ B| / (|A| + |B|), pooled over the pairs of different heads of two layers, and what chance
    /// gives: `[layers][layers]`, `None` where nothing was joined or a layer has one head only.
    pub(crate) fn finish(&self) -> [Vec<Vec<Option<f64>>>; 2] {
        let n_layers = self.alone.len();
        let of = |sums: &Vec<Vec<f64>>| {
            let cell = |a: usize, b: usize| {
                let (a, b) = (a.min(b), a.max(b));
                let heads = if a == b { self.n_heads as f64 - 1.0 } else { self.n_heads as f64 };
                let sizes = heads * (self.alone[a] + self.alone[b]);
                (sizes > 0.0).then(|| 2.0 * sums[a][b] / sizes)
            };
            (0..n_layers).map(|a| (0..n_layers).map(|b| cell(a, b)).collect()).collect()
        };
        [of(&self.both), of(&self.chance)]
    }
}

/// How many heads join each token.
fn layer_counts(heads: &[&[u64]], n_tokens: usize) -> Vec<f32> {
    let mut counts = vec![0f32; n_tokens];
    for bits in heads {
        for (word, counts) in bits.iter().zip(counts.chunks_mut(64)) {
            for (bit, count) in counts.iter_mut().enumerate() {
                *count += (word >> bit & 1) as f32;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_an_uneven_head_by_hand() {
        // Seven tokens: 17 % recent is 1 (token 6), 12 % heavy is 1 (token 2), which cuts the chain 0-1 | 3-4-5.
        // Cosines: 0-1 is 0.96, 3-4 is 1, 4-5 is 0.6.
        let keys =
            [3.0, 4.0, 4.0, 3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 5.0, 4.0, 3.0, 1.0, 1.0].map(|x: f32| x * 0.5).to_vec();
        let mass = [0.1, 0.2, 9.0, 0.1, 0.3, 0.1, 20.0];
        let shares = Shares::of_paper(0.5);
        let rule = SetRule { shares, bridge: false, eps_grid: &[0.5, 0.75, 0.99], reference_eps: 1, n_passed: 0 };
        use TokenClass::*;
        let classes = [Word, Digits, Word, Word, Whitespace, Word, Other];
        let sets = SampleSets::of(Rows::new(&keys, 2), &mass, Some(&classes), rule);
        assert_eq!(sets.grid.set_ratio, [Some(2.0 / 5.0), Some(3.0 / 5.0), Some(4.0 / 5.0)]);
        assert_eq!(sets.grid.kept_fraction, [4.0 / 7.0, 5.0 / 7.0, 6.0 / 7.0]);
        assert_eq!(sets.grid.largest_set, [3, 2, 2]);
        // At 0.75 the sets are 0-1, 3-4 and 5.
        assert_eq!(sets.sizes, [1, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sets.joined, [0b10010]);
        let placed = |free, merged| Placed { free, merged };
        let by_class = [placed(3, 2), placed(1, 1), placed(0, 0), placed(1, 1), placed(0, 0)];
        assert_eq!(sets.classes, Some(by_class));
        // Tokens 0, 1, 3, 4 and 5 of 7 lie in the tenths 0, 1, 4, 5 and 7.
        let mut by_position = [placed(0, 0); POSITION_BINS];
        (by_position[0], by_position[1], by_position[4]) = (placed(1, 1), placed(1, 1), placed(1, 1));
        (by_position[5], by_position[7]) = (placed(1, 1), placed(1, 0));
        assert_eq!(sets.positions, by_position);
        // Bridged, 1 and 3 are neighbours too: cos = 0.6.
        let bridged = SampleSets::of(Rows::new(&keys, 2), &mass, None, SetRule { bridge: true, ..rule });
        assert_eq!(bridged.grid.set_ratio[0], Some(1.0 / 5.0));
        assert_eq!(bridged.grid.largest_set[0], 5);
        assert_eq!((&bridged.grid, &bridged.other), (&sets.other, &sets.grid));
        assert_eq!(bridged.classes, None);
    }

    #[test]
    fn sizes_fall_into_their_bins() {
        // Runs of 1, 5, 8, 9 and 70 equal keys, each run at right angles to the next.
        let keys: Vec<f32> = [1usize, 5, 8, 9, 70]
            .iter()
            .enumerate()
            .flat_map(|(run, n)| vec![if run % 2 == 0 { [1.0f32, 0.0] } else { [0.0, 1.0] }; *n])
            .flatten()
            .collect();
        let shares = Shares { recent: 0.0, heavy: 0.0 };
        let rule = SetRule { shares, bridge: false, eps_grid: &[0.75], reference_eps: 0, n_passed: 0 };
        let sets = SampleSets::of(Rows::new(&keys, 2), &[0.1; 93], None, rule);
        assert_eq!(sets.sizes, [1, 0, 0, 0, 2, 1, 0, 0, 1]);
        assert_eq!(sets.grid.largest_set, [70]);
        assert_eq!(sets.joined.iter().map(|word| word.count_ones()).sum::<u32>(), 93 - 5);
    }

    #[test]
    fn means_leave_out_samples_without_free_tokens() {
        let shares = Shares { recent: 1.0, heavy: 0.0 };
        let rule = SetRule { shares, bridge: false, eps_grid: &[0.75], reference_eps: 0, n_passed: 0 };
        let all_protected = SampleSets::of(Rows::new(&[1.0, 2.0], 1), &[0.5, 0.5], None, rule);
        assert_eq!((all_protected.grid.set_ratio[0], all_protected.grid.kept_fraction[0]), (None, 1.0));
        assert_eq!(all_protected.grid.largest_set, [0]);
        let rule = SetRule { shares: Shares { recent: 0.0, heavy: 0.0 }, ..rule };
        let none_protected = SampleSets::of(Rows::new(&[1.0, 2.0], 1), &[0.5, 0.5], None, rule);
        let mut counters = SetCounters::new(1);
        counters.add(&all_protected);
        assert_eq!(counters.clone().finish(0, 0)[0].set_ratio, [None]);
        counters.add(&none_protected);
        let [head, other] = counters.finish(3, 1);
        assert_eq!((head.layer, head.kv_head), (3, 1));
        assert_eq!((head.set_ratio[0], head.kept_fraction[0], head.largest_set[0]), (Some(0.5), Some(0.75), 2));
        assert_eq!((head.sizes[1], other.set_ratio[0]), (1, Some(0.5)));
    }

    #[test]
    fn overlap_of_uneven_heads_by_hand() {
        // Two layers of two heads over 5 tokens. Layer 0: {1, 2} and {2}; layer 1: {2, 4} and {}.
        let bits: [&[u64]; 4] = [&[0b00110], &[0b00100], &[0b10100], &[0]];
        let mut counters = OverlapCounters::new(2, 2);
        counters.add(&bits, 5);
        let [overlap, chance] = counters.finish();
        // Within layer 0: 2·1 / (2 + 1); between: intersections 1, 0, 1, 0 of sizes 4, 2, 3, 1; within layer 1 none.
        assert_eq!(overlap[0], [Some(2.0 / 3.0), Some(2.0 * 2.0 / 10.0)]);
        assert_eq!(overlap[1], [Some(2.0 * 2.0 / 10.0), Some(0.0)]);
        // Counts 3 and 2 of 5 tokens: 3·2/5 expected joint ones.
        assert_eq!(chance[0][1], Some(2.0 * (6.0 / 5.0) / 10.0));
        let mut lone = OverlapCounters::new(1, 1);
        lone.add(&[&[0b1010]], 5);
        assert_eq!(lone.finish()[0], [[None]]);
    }
}

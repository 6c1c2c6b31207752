//! What the page's explorer shows of the first samples: every head's links and masses, and the states of a few telling heads.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use crate::analyze::plan::{DatasetPlan, RunPlan, entry};
use crate::analyze::{AnalyzeError, AnalyzeOptions};
use crate::fates;
use crate::files::{Document, FileError, InputHash, ModelIdentity};
use crate::format::analysis::{DatasetAnalysis, NotExplored};
use crate::format::dump::{Dump, DumpError, Sample, State};
use crate::format::explorer::{ExploredSample, Explorer, ExplorerTensor, ExplorerWriter, FILE, MAX_TOKENS, blocks};
use crate::math::{Mean, Rows, TILE, Tile, UnitRows};
use crate::merge::links;
use crate::policy;
use crate::policy::{Policy, PolicyError};

/// Links and masses of all heads of a sample take so much memory at most; of larger ones only the heads with states have them.
const MAX_SERIES_BYTES: usize = 64 << 20;
/// A block without two tokens whose cosine is defined.
const NO_CELL: u8 = 255;

/// Which samples are explored.
#[derive(Default)]
pub(crate) struct Explored {
    /// Dump and index within it, by data set.
    places: Vec<Vec<(usize, usize)>>,
    /// Those that would be if they could.
    pub(crate) left_out: Vec<NotExplored>,
}

impl Explored {
    /// The first samples of every data set that are not too long and that some layer's cache holds whole; none where no explorer is
    /// wanted.
    pub(crate) fn new(dumps: &[Dump], plan: &RunPlan, options: &AnalyzeOptions, model: &ModelIdentity) -> Self {
        let wanted = if options.explore > 0 { options.map_samples.max(1) } else { 0 };
        let mut found = Self::default();
        for dataset in &plan.datasets {
            let mut places = Vec::new();
            for place in &dataset.samples {
                if places.len() == wanted {
                    break;
                }
                let entry = entry(dumps, *place);
                let why = match entry.n_tokens {
                    0 => "has no token".into(),
                    n if n > MAX_TOKENS => format!("has {n} tokens, and samples of at most {MAX_TOKENS} are explored"),
                    n if !plan.heads().any(|(layer, _)| is_whole(model, layer, n)) => {
                        format!("has {n} tokens, more than the window of any layer")
                    }
                    _ => {
                        places.push(*place);
                        continue;
                    }
                };
                let (dataset, id, n_tokens) = (dataset.dataset.clone(), entry.id.clone(), entry.n_tokens);
                found.left_out.push(NotExplored { dataset, id, n_tokens, why });
            }
            found.places.push(places);
        }
        found
    }

    /// How many they are.
    pub(crate) fn n_samples(&self) -> usize {
        self.places.iter().map(Vec::len).sum()
    }
}

/// Removes the explorer's file of an earlier run.
pub(crate) fn remove(out_dir: &Path) -> Result<(), FileError> {
    let path = out_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// Whether a layer's cache holds all of so many tokens: of one whose window has left some behind there is no map of all.
fn is_whole(model: &ModelIdentity, layer: usize, n_tokens: usize) -> bool {
    model.within_reach(layer, n_tokens).start == 0
}

/// The samples to be explored, and what the file will hold of them.
pub(crate) struct ExplorerPlan {
    /// Dump and index within it.
    samples: Vec<(usize, usize)>,
    explorer: Explorer,
}

impl ExplorerPlan {
    /// What is told of the samples; `None` where there is none.
    ///
    /// - Errors: dumps that cannot be read
    pub(crate) fn new(
        dumps: &[Dump],
        (plan, explored): (&RunPlan, &Explored),
        datasets: &[DatasetAnalysis],
        options: &AnalyzeOptions,
        model: &ModelIdentity,
    ) -> Result<Option<Self>, AnalyzeError> {
        let ranked = heads(plan, datasets, options);
        let mut found = Self {
            samples: Vec::new(),
            explorer: Explorer { schema: Explorer::schema_id(), model: model.clone(), samples: Vec::new() },
        };
        for (dataset, places) in plan.datasets.iter().zip(&explored.places) {
            for place in places.iter().copied() {
                let sample = dumps[place.0].sample(place.1)?;
                let n_tokens = sample.entry().n_tokens;
                let of_whole = |head: &[usize; 2]| is_whole(model, head[0], n_tokens);
                let all: Vec<[usize; 2]> = plan.heads().map(|(layer, head)| [layer, head]).filter(of_whole).collect();
                let shown: Vec<[usize; 2]> = ranked.iter().copied().filter(of_whole).take(options.explore).collect();
                let fits = all.len() * n_tokens * 2 * size_of::<f32>() <= MAX_SERIES_BYTES;
                let heads = match dataset.has_sets {
                    true if fits => all,
                    true => shown.clone(),
                    false => Vec::new(),
                };
                let orders =
                    if heads.is_empty() { Vec::new() } else { orders(&dumps[place.0], &sample, dataset, plan)? };
                found.explorer.samples.push(ExploredSample {
                    dataset: dataset.dataset.clone(),
                    id: sample.entry().id.clone(),
                    n_tokens,
                    token_texts: sample.token_texts()?,
                    heads,
                    dtype: dumps[place.0].manifest().dtype,
                    n_queries: if dataset.has_queries { n_queries(&sample, &shown)? } else { 0 },
                    states: dataset.states.clone(),
                    shown,
                    orders,
                });
                found.samples.push(place);
            }
        }
        Ok((!found.samples.is_empty()).then_some(found))
    }

    /// Writes the file; `step` is called after every sample.
    ///
    /// - Memory: [`MAX_SERIES_BYTES`], and per thread one head's states
    /// - Cost:   O(T·D) per head and sampled query, and O(T²·D) per head with states of a sample that has blocks
    pub(crate) fn write(
        self,
        dumps: &[Dump],
        out_dir: &Path,
        step: &mut dyn FnMut(),
    ) -> Result<InputHash, AnalyzeError> {
        let open = |place: &(usize, usize)| dumps[place.0].sample(place.1);
        let samples: Vec<Sample<'_>> = self.samples.iter().map(open).collect::<Result<_, _>>()?;
        let mut writer = ExplorerWriter::create(out_dir, &self.explorer)?;
        let (mut unit, mut room) = (UnitRows::default(), Vec::new());
        let mut last = None;
        for tensor in self.explorer.tensors() {
            let number = tensor.sample();
            let (sample, explored) = (&samples[number], &self.explorer.samples[number]);
            match tensor {
                // Those of all samples stand before the rest.
                ExplorerTensor::Positions(_, layer) => {
                    writer.positions(tensor, &sample.query_positions(layer)?)?;
                    continue;
                }
                // Those of all samples stand behind the rest.
                ExplorerTensor::Order(_, which) => {
                    let spec = &explored.orders[which];
                    let (dump, policy) = (&dumps[self.samples[number].0], parse(spec)?);
                    let order = |head: &[usize; 2]| fates::order(dump, sample, *head, (spec, policy.as_ref()));
                    let orders = explored.heads.par_iter().map(order).collect::<Result<Vec<_>, _>>()?.concat();
                    writer.order(tensor, &orders.into_iter().map(|token| token as u16).collect::<Vec<_>>())?;
                    continue;
                }
                ExplorerTensor::Links(_) => writer.numbers(tensor, &of_heads(sample, explored, neighbours)?)?,
                ExplorerTensor::Mass(_) => {
                    let mass = |sample: &Sample<'_>, [layer, head]: [usize; 2]| sample.mass(layer, head);
                    writer.numbers(tensor, &of_heads(sample, explored, mass)?)?;
                }
                ExplorerTensor::State(_, [layer, head], State::Q) => {
                    writer.numbers(tensor, sample.queries(layer, head)?.flat())?;
                }
                ExplorerTensor::State(_, [layer, head], state) => {
                    let rows = sample.vectors_into(layer, state, head..head + 1, &mut room)?;
                    writer.numbers(tensor, rows.flat())?;
                }
                ExplorerTensor::Highest(_, [layer, head], state) => {
                    let rows = sample.vectors_into(layer, state, head..head + 1, &mut room)?;
                    if let Some((block, side)) = blocks(rows.len()) {
                        writer.blocks(tensor, &highest(&mut unit, rows, block, side))?;
                    }
                }
            }
            if last.replace(number).is_some_and(|last| last != number) {
                step();
            }
        }
        step();
        Ok(writer.finish()?)
    }
}

/// The policies whose scores rank tokens by what the dump holds, beside attention mass: what profiles and their rivals rank by.
fn orders(
    dump: &Dump,
    sample: &Sample<'_>,
    dataset: &DatasetPlan,
    plan: &RunPlan,
) -> Result<Vec<String>, AnalyzeError> {
    let mut found = Vec::new();
    if dataset.has_queries {
        let n_tokens = sample.entry().n_tokens;
        let mut has = plan.layers.iter().map(|layer| sample.has_queries_before(*layer, n_tokens));
        if has.try_fold(true, |all, has| Ok::<_, DumpError>(all && has?))? {
            found.push("restkv".into());
        }
    }
    if dataset.has_sets {
        found.push(format!("snapkv:window={}", dump.manifest().window_tokens));
    }
    Ok(found)
}

fn parse(spec: &str) -> Result<Box<dyn Policy>, PolicyError> {
    Ok(policy::parse(spec)?.1)
}

/// Kept queries of a query head, where all layers have as many; else 0.
fn n_queries(sample: &Sample<'_>, shown: &[[usize; 2]]) -> Result<usize, DumpError> {
    let counts = shown.iter().map(|[layer, _]| Ok(sample.query_positions(*layer)?.len()));
    let counts = counts.collect::<Result<HashSet<usize>, DumpError>>()?;
    Ok(if counts.len() == 1 { counts.into_iter().next().unwrap_or(0) } else { 0 })
}

/// Numbers of all heads of a sample, one head behind the other.
fn of_heads(
    sample: &Sample<'_>,
    explored: &ExploredSample,
    of: impl Fn(&Sample<'_>, [usize; 2]) -> Result<Vec<f32>, DumpError> + Sync,
) -> Result<Vec<f32>, DumpError> {
    Ok(explored.heads.par_iter().map(|head| of(sample, *head)).collect::<Result<Vec<_>, _>>()?.concat())
}

/// Cosines of neighbouring keys, from the first pair on.
fn neighbours(sample: &Sample<'_>, [layer, head]: [usize; 2]) -> Result<Vec<f32>, DumpError> {
    let keys = sample.vectors(layer, State::K, head)?;
    let (_, found) = links(keys.rows(), &vec![false; sample.entry().n_tokens], false);
    Ok(found.iter().rev().map(|link| link.similarity).collect())
}

/// All heads, those first whose states are to be kept: those that maps were asked for, then the one whose neighbours are most
/// alike in all data sets, the one where they are least, the middle one, and so on between them.
fn heads(plan: &RunPlan, datasets: &[DatasetAnalysis], options: &AnalyzeOptions) -> Vec<[usize; 2]> {
    let mut means: BTreeMap<[usize; 2], Mean> = BTreeMap::new();
    for state in datasets.iter().filter_map(|dataset| dataset.similarity.first()) {
        for head in &state.heads {
            means.entry([head.layer, head.kv_head]).or_default().extend(head.neighbours.mean);
        }
    }
    let mut ranked: Vec<([usize; 2], f64)> = plan
        .heads()
        .map(|(layer, head)| ([layer, head], means.get(&[layer, head]).and_then(|m| m.get())))
        .map(|(head, mean)| (head, mean.unwrap_or(f64::NEG_INFINITY)))
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let asked = options.maps.iter().map(|map| [map.layer, map.kv_head]);
    let spread = spread(ranked.len()).into_iter().map(|place| ranked[place].0);
    let mut seen = HashSet::new();
    asked.chain(spread).filter(|head| seen.insert(*head)).collect()
}

/// All places of a list: first, last, middle, quarters, eighths and so on.
fn spread(n: usize) -> Vec<usize> {
    let (mut seen, mut places) = (HashSet::new(), Vec::new());
    let ends = [0, n.wrapping_sub(1)];
    let parts = (1..=n.next_power_of_two().trailing_zeros() + 1).flat_map(|level| {
        (1..1usize << level).step_by(2).map(move |odd| (odd * n.saturating_sub(1) + (1 << (level - 1))) >> level)
    });
    for place in ends.into_iter().chain(parts) {
        if place < n && seen.insert(place) {
            places.push(place);
        }
    }
    places
}

/// The highest cosine of two different tokens in every square of `block` x `block` pairs, as cells from 0 for -1 to 254 for 1.
///
/// - Shape: rows `[T, D]` → `[side, side]`
/// - Cost:  O(T²·D)
fn highest(unit: &mut UnitRows, rows: Rows<'_>, block: usize, side: usize) -> Vec<u8> {
    unit.set(rows);
    let (unit, n_tokens) = (&*unit, rows.len());
    let (n_tiles, per_tile) = (n_tokens.div_ceil(TILE), TILE / block);
    let places: Vec<[usize; 2]> = (0..n_tiles).flat_map(|i| (i..n_tiles).map(move |j| [i, j])).collect();
    let tiles: Vec<Vec<f32>> = places
        .par_iter()
        .map_init(Tile::default, |tile, place| {
            unit.tile(*place, tile, &mut || {});
            let size = place.map(|at| (n_tokens - at * TILE).min(TILE));
            let mut most = vec![f32::NEG_INFINITY; per_tile * per_tile];
            for i in 0..size[0] {
                let from = if place[0] == place[1] { i + 1 } else { 0 };
                let row = &tile.cells()[i * TILE..][..size[1]];
                for (j, cell) in row.iter().enumerate().skip(from) {
                    let most = &mut most[i / block * per_tile + j / block];
                    *most = most.max(cell.to_f32());
                }
            }
            most
        })
        .collect();
    let mut cells = vec![NO_CELL; side * side];
    for (place, most) in places.iter().zip(tiles) {
        for (at, most) in most.into_iter().enumerate().filter(|(_, most)| most.is_finite()) {
            let (i, j) = (place[0] * per_tile + at / per_tile, place[1] * per_tile + at % per_tile);
            let cell = ((most.clamp(-1.0, 1.0) + 1.0) * 127.0).round() as u8;
            cells[i * side + j] = cell;
            cells[j * side + i] = cell;
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_a_list() {
        assert_eq!(spread(0), [0usize; 0]);
        assert_eq!(spread(1), [0]);
        assert_eq!(spread(5), [0, 4, 2, 1, 3]);
        let mut all = spread(90);
        assert_eq!(all[..5], [0, 89, 45, 22, 67]);
        all.sort_unstable();
        assert_eq!(all, (0..90).collect::<Vec<_>>());
    }

    #[test]
    fn the_highest_cosine_of_a_block_is_of_two_different_tokens() {
        // Tokens 0 and 5 are alike, token 3 has no direction, the others are at right angles or opposite.
        let keys = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 2.0, 0.0];
        let cells = highest(&mut UnitRows::default(), Rows::new(&keys, 2), 2, 3);
        // Of blocks (0, 1), (2, 3), (4, 5): within the first only cos 0, within the second none.
        let [none, right] = [NO_CELL, 127];
        assert_eq!(cells, [right, right, 254, right, none, right, 254, right, right]);
    }
}

//! One data set while its samples are read: the heads of a sample in parallel, their counters, their rows of the table.

use rayon::iter::{IntoParallelRefIterator, IntoParallelRefMutIterator, ParallelIterator};

use crate::analyze::plan::{DatasetPlan, RunPlan, entry};
use crate::analyze::queries::{QueryCounters, RULES, SampleErrors, SampleQueries};
use crate::analyze::similarity::{COARSE_BINS, HeadCounters};
use crate::analyze::sparsity::{OverlapCounters, POSITION_BINS, SampleSets, SetCounters, SetRule};
use crate::analyze::{AnalyzeError, AnalyzeOptions};
use crate::format::analysis::{DatasetAnalysis, GapByCosine, HeadSimilarity, Placed, SetPlaces, StateSimilarity};
use crate::format::dump::{Dump, Sample, State, TokenClass};
use crate::format::stats::{StatsRow, StatsTable};
use crate::math::{Mean, Resamples, bootstrap_ratio};
use crate::merge::HeadStates;

/// What is measured of every head of a data set.
#[derive(Clone, Copy, Debug)]
struct Measures<'a> {
    states: &'a [State],
    has_sets: bool,
    has_queries: bool,
    options: &'a AnalyzeOptions,
    reference_eps: usize,
}

/// Counters of one head.
#[derive(Debug)]
struct HeadRun {
    layer: usize,
    kv_head: usize,
    similarity: Vec<HeadCounters>,
    sets: SetCounters,
    queries: QueryCounters,
}

/// What one sample adds in one head.
struct HeadSample {
    layer: usize,
    kv_head: usize,
    neighbours: Vec<Mean>,
    sets: Option<SampleSets>,
    queries: Option<SampleQueries>,
}

/// A data set while its samples are read.
pub(crate) struct DatasetRun<'a> {
    measures: Measures<'a>,
    heads: Vec<HeadRun>,
    /// Every sample's places, all heads together: by tenth, then by class where the dump tells them.
    places: Vec<[Vec<Placed>; 2]>,
    /// Every sample's mean kept fraction over its heads at the reference threshold.
    pub(crate) kept_fractions: Vec<f64>,
    /// Tokens and set ratios at the reference threshold of every sample with unprotected tokens.
    pub(crate) ratios: Vec<(usize, Vec<f64>)>,
    /// Query-aware measures of every sample, means over heads.
    pub(crate) errors: Vec<SampleErrors>,
}

impl<'a> DatasetRun<'a> {
    pub(crate) fn new(
        plan: &RunPlan,
        dataset: &'a DatasetPlan,
        options: &'a AnalyzeOptions,
        reference_eps: usize,
    ) -> Self {
        let head = |layer, kv_head| HeadRun {
            layer,
            kv_head,
            similarity: vec![HeadCounters::new(options.lags.len(), options.eps_grid.len()); dataset.states.len()],
            sets: SetCounters::new(options.eps_grid.len()),
            queries: QueryCounters::new(options.budgets.len()),
        };
        let heads = plan.heads().map(|(layer, h)| head(layer, h)).collect();
        let measures = Measures {
            states: &dataset.states,
            has_sets: dataset.has_sets,
            has_queries: dataset.has_queries && !options.budgets.is_empty(),
            options,
            reference_eps,
        };
        Self { measures, heads, places: Vec::new(), kept_fractions: Vec::new(), ratios: Vec::new(), errors: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        sample: &Sample<'_>,
        overlap: Option<&mut OverlapCounters>,
        table: &mut StatsTable,
    ) -> Result<(), AnalyzeError> {
        let measures = self.measures;
        let classes = if measures.has_sets { sample.token_classes()? } else { None };
        let found: Vec<HeadSample> = self
            .heads
            .par_iter_mut()
            .map_init(Vec::new, |room, head| head.add(sample, classes.as_deref(), measures, room))
            .collect::<Result<_, AnalyzeError>>()?;
        let n_tokens = sample.entry().n_tokens;
        let sets: Vec<&SampleSets> = found.iter().filter_map(|head| head.sets.as_ref()).collect();
        if measures.has_sets {
            let at = measures.reference_eps;
            // A layer with a window counts by the slots that its whole cache has.
            let counts_by = |layer| sample.model().within_reach(layer, n_tokens).len() as f64 / n_tokens as f64;
            let of_heads = found.iter().filter_map(|head| Some((counts_by(head.layer), head.sets.as_ref()?)));
            let (kept, all) = of_heads.fold((0.0, 0.0), |(kept, all), (weight, sets)| {
                (kept + weight * sets.grid.kept_fraction[at], all + weight)
            });
            self.kept_fractions.extend((all > 0.0).then(|| kept / all));
            // Protected tokens are as many in every head, so that all have a ratio or none has.
            if let Some(ratios) = sets.iter().map(|sets| sets.grid.set_ratio[at]).collect::<Option<Vec<f64>>>() {
                self.ratios.push((n_tokens, ratios));
            }
            if let Some(overlap) = overlap {
                overlap.add(&sets.iter().map(|sets| sets.joined.as_slice()).collect::<Vec<_>>(), n_tokens);
            }
            self.place(&sets);
        }
        if measures.has_queries {
            let queries: Vec<&SampleQueries> = found.iter().filter_map(|head| head.queries.as_ref()).collect();
            self.errors.push(SampleErrors::over_heads(&queries, measures.options.budgets.len()));
        }
        found.iter().try_for_each(|head| self.tabulate(sample, head, table))
    }

    fn place(&mut self, sets: &[&SampleSets]) {
        let mut positions = vec![Placed::default(); POSITION_BINS];
        let mut classes = Vec::new();
        for sets in sets {
            positions.iter_mut().zip(sets.positions).for_each(|(sum, placed)| sum.add(placed));
            if let Some(found) = sets.classes {
                classes.resize(TokenClass::ALL.len(), Placed::default());
                classes.iter_mut().zip(found).for_each(|(sum, placed)| sum.add(placed));
            }
        }
        self.places.push([positions, classes]);
    }

    fn tabulate(&self, sample: &Sample<'_>, head: &HeadSample, table: &mut StatsTable) -> Result<(), AnalyzeError> {
        let options = self.measures.options;
        let row = |state, metric, value| StatsRow {
            sample: sample.entry(),
            layer: head.layer,
            kv_head: head.kv_head,
            state,
            metric,
            eps: None,
            budget: None,
            rule: None,
            value,
        };
        for (state, sum) in self.measures.states.iter().zip(&head.neighbours) {
            table.push(&row(*state, "neighbour_cosine_mean", sum.get()))?;
            table.push(&row(*state, "neighbour_pairs", Some(sum.n() as f64)))?;
        }
        if let Some(sets) = &head.sets {
            let metrics = [
                (&sets.grid, ["set_ratio", "kept_fraction", "largest_set"]),
                (&sets.other, ["set_ratio_other_bridge", "kept_fraction_other_bridge", "largest_set_other_bridge"]),
            ];
            for (grid, [ratio, kept, largest]) in metrics {
                for (index, eps) in options.eps_grid.iter().enumerate() {
                    let at = |metric, value| StatsRow { eps: Some(*eps), ..row(State::K, metric, value) };
                    table.push(&at(ratio, grid.set_ratio[index]))?;
                    table.push(&at(kept, Some(grid.kept_fraction[index])))?;
                    table.push(&at(largest, Some(grid.largest_set[index] as f64)))?;
                }
            }
        }
        let Some(queries) = &head.queries else { return Ok(()) };
        table.push(&row(State::Q, "logit_gap", queries.gap))?;
        table.push(&row(State::Q, "cosine_predicts_gap", queries.cosine_predicts))?;
        for (budget, errors) in options.budgets.iter().zip(&queries.errors) {
            for (index, (rule, ..)) in RULES.iter().enumerate() {
                let value = errors.map(|errors| errors[index]);
                let error = row(State::Q, "output_error", value);
                table.push(&StatsRow { budget: Some(*budget), rule: Some(rule), ..error })?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self, plan: &DatasetPlan, dumps: &[Dump]) -> DatasetAnalysis {
        let similarity = self.measures.states.iter().enumerate().map(|(index, state)| {
            let mut histogram = vec![0; COARSE_BINS];
            self.heads.iter().for_each(|head| head.similarity[index].add_to(&mut histogram));
            let of_head = |head: &HeadRun| {
                let counters = &head.similarity[index];
                let [effective_rank, effective_rank_centred] = counters.effective_ranks();
                HeadSimilarity {
                    layer: head.layer,
                    kv_head: head.kv_head,
                    neighbours: counters.neighbours(),
                    locality: counters.locality(),
                    share_above: counters.share_above(),
                    effective_rank,
                    effective_rank_centred,
                }
            };
            let heads = self.heads.par_iter().map(of_head).collect();
            StateSimilarity { state: *state, histogram, heads }
        });
        let similarity = similarity.collect();
        let gap_by_cosine = self.measures.has_queries.then(|| {
            let mut all = GapByCosine::new(COARSE_BINS);
            self.heads.iter().for_each(|head| all.join(head.queries.pairs()));
            all
        });
        let queries = self.heads.iter().map(|head| head.queries.finish(head.layer, head.kv_head));
        let queries = if self.measures.has_queries { queries.collect() } else { Vec::new() };
        let seed = self.measures.options.seed;
        let (mut sparsity, mut sparsity_other_bridge) = (Vec::new(), Vec::new());
        if self.measures.has_sets {
            for head in self.heads {
                let [chosen, other] = head.sets.finish(head.layer, head.kv_head);
                sparsity.push(chosen);
                sparsity_other_bridge.push(other);
            }
        }
        DatasetAnalysis {
            dataset: plan.dataset.clone(),
            n_samples: plan.samples.len(),
            n_tokens: plan.samples.iter().map(|sample| entry(dumps, *sample).n_tokens).sum(),
            similarity,
            sparsity,
            sparsity_other_bridge,
            places: places(&self.places, seed),
            queries,
            gap_by_cosine,
        }
    }
}

/// Where the sets of all samples lie; `None` without a sample that has sets.
fn places(samples: &[[Vec<Placed>; 2]], seed: u64) -> Option<SetPlaces> {
    if samples.is_empty() {
        return None;
    }
    // Samples of dumps that tell no classes have none.
    let of = |which: usize| {
        let n = samples.iter().map(|sample| sample[which].len()).max().unwrap_or(0);
        let at = |i: usize| samples.iter().filter_map(|sample| sample[which].get(i).copied()).collect::<Vec<Placed>>();
        let sum = |all: Vec<Placed>| {
            let mut sum = Placed::default();
            all.into_iter().for_each(|placed| sum.add(placed));
            sum
        };
        let share = |all: Vec<Placed>| {
            let units: Vec<(f64, f64)> = all.iter().map(|placed| (placed.merged as f64, placed.free as f64)).collect();
            bootstrap_ratio(&units, Resamples::of_tables(seed))
        };
        let sums: Vec<Placed> = (0..n).map(|i| sum(at(i))).collect();
        (sums, (0..n).map(|i| share(at(i))).collect())
    };
    let ((positions, position_shares), (classes, class_shares)) = (of(0), of(1));
    Some(SetPlaces { positions, classes, position_shares, class_shares })
}

impl HeadRun {
    fn add(
        &mut self,
        sample: &Sample<'_>,
        classes: Option<&[TokenClass]>,
        measures: Measures<'_>,
        room: &mut Vec<f32>,
    ) -> Result<HeadSample, AnalyzeError> {
        let (layer, kv_head, options) = (self.layer, self.kv_head, measures.options);
        let mass = if measures.has_sets { sample.mass(layer, kv_head)? } else { Vec::new() };
        let model = sample.model();
        let held = model.within_reach(layer, sample.entry().n_tokens);
        let mass = mass.get(held.clone()).unwrap_or_default();
        let mut neighbours = Vec::with_capacity(measures.states.len());
        let (mut sets, mut queries) = (None, None);
        for (state, counters) in measures.states.iter().zip(&mut self.similarity) {
            // Of a layer with a window, what its cache holds at the end.
            let rows = sample.vectors_into(layer, *state, kv_head..kv_head + 1, room)?.part(held.clone());
            if *state == State::K && measures.has_sets {
                let (shares, bridge, eps_grid) = (options.shares, options.bridge, options.eps_grid.as_slice());
                let (reference_eps, n_passed) = (measures.reference_eps, held.start);
                let rule = SetRule { shares, bridge, eps_grid, reference_eps, n_passed };
                let classes = classes.map(|classes| &classes[held.clone()]);
                let found = SampleSets::of(rows, mass, classes, rule);
                self.sets.add(&found);
                sets = Some(found);
            }
            if *state == State::K && measures.has_queries {
                let (values, group) = (sample.vectors(layer, State::V, kv_head)?, sample.queries(layer, kv_head)?);
                let query_positions = &sample.query_positions(layer)?;
                let states = HeadStates {
                    keys: rows,
                    values: values.rows().part(held.clone()),
                    first_position: held.start,
                    window: model.window(layer),
                    queries: group.rows(),
                    query_positions,
                };
                let found = SampleQueries::of(states, mass, &options.budgets, options.bridge);
                self.queries.add(&found);
                queries = Some(found);
            }
            neighbours.push(counters.add(rows, &options.lags, &options.eps_grid));
        }
        Ok(HeadSample { layer, kv_head, neighbours, sets, queries })
    }
}

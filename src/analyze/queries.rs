//! Does similarity matter? What real queries make of neighbouring keys, and what merging does to a head's output.

use crate::analyze::AnalyzeOptions;
use crate::analyze::similarity::COARSE_BINS;
use crate::format::analysis::{GapByCosine, HeadQueries, QUANTILES, QueryAware, RuleError};
use crate::math::{
    Mean, Paired, Resamples, Rhs, bootstrap_mean, cosine, mean, paired, product, quantiles, spearman, squared_distance,
};
use crate::merge::{HeadStates, Kernel, MergeRule, Merging, OutputProbe, Protection, Shares, SlotStates, ValueRule};
use crate::say::{interval, outcome, percent};

/// Tokens whose logits are held at a time: with 192 queries 192 KiB, which a core's cache holds.
const BLOCK: usize = 256;

/// Name of the control: the same slots, nothing merged into them.
pub(crate) const CONTROL: &str = "evict";

/// What a set becomes: each value rule with the published kernel, and the control.
pub(crate) const RULES: [(&str, MergeRule); 5] = [
    ("paper", MergeRule::new(Kernel::Gaussian, ValueRule::Paper)),
    ("convex", MergeRule::new(Kernel::Gaussian, ValueRule::Convex)),
    ("log-count", MergeRule::new(Kernel::Gaussian, ValueRule::LogCount)),
    ("mass", MergeRule::new(Kernel::Gaussian, ValueRule::Mass)),
    (CONTROL, MergeRule::EVICT),
];

/// One sample's measures in one head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleQueries {
    /// Mean logit gap over pairs of neighbours, nats; `None` without a pair, as the next two.
    pub(crate) gap: Option<f64>,
    /// Its quantiles at 5, 25, 50, 75 and 95 %.
    pub(crate) gap_quantiles: Option<[f64; 5]>,
    /// Spearman's rho of the pairs' cosines and gaps.
    pub(crate) cosine_predicts: Option<f64>,
    /// Cosine and gap of every pair that has both.
    pub(crate) pairs: Vec<(f32, f32)>,
    /// Error by budget, then rule of [`RULES`]; `None` where the budget cannot be met or no late query was kept.
    pub(crate) errors: Vec<Option<[f64; RULES.len()]>>,
    /// Budgets that cannot be met.
    pub(crate) unreachable: Vec<bool>,
}

impl SampleQueries {
    /// - Cost: O(group · n_q · T · D · (1 + budgets · rules))
    /// - Memory: that of the states, and for the errors late queries x T
    pub(crate) fn of(states: HeadStates<'_>, mass: &[f32], budgets: &[f64], bridge: bool) -> Self {
        let gaps = neighbour_gaps(states);
        let (mut cosines, mut known) = (Vec::new(), Vec::new());
        for (token, gap) in gaps.iter().enumerate() {
            if let Some((cosine, gap)) = cosine(states.keys.row(token), states.keys.row(token + 1)).zip(*gap) {
                cosines.push(f64::from(cosine));
                known.push(gap);
            }
        }
        let (errors, unreachable) = errors(states, mass, budgets, bridge);
        Self {
            gap: mean(&known),
            gap_quantiles: quantiles(&known, QUANTILES),
            cosine_predicts: spearman(&cosines, &known),
            pairs: cosines.iter().zip(&known).map(|(cosine, gap)| (*cosine as f32, *gap as f32)).collect(),
            errors,
            unreachable,
        }
    }
}

/// Root mean square over the queries of q·(k_i - k_{i+1})/√D, for every pair of neighbours.
///
/// About zero and not about its mean: a gap that is the same for all queries sets two tokens apart as well. Only queries
/// that see both tokens count, and only pairs that at least half of the kept queries see.
///
/// - Shape: `[T - 1]`; `None` for a pair that too few queries see
/// - Unit:  nats
/// - Cost:  O(group · n_q · T · D)
fn neighbour_gaps(states: HeadStates<'_>) -> Vec<Option<f64>> {
    let (n_tokens, d) = (states.keys.len(), states.keys.width());
    let (rows, positions) = by_position(states);
    let n_rows = positions.len();
    let factor = 1.0 / d as f64;
    let mut gaps = Vec::with_capacity(n_tokens);
    let mut logits = vec![0f32; (BLOCK + 1) * n_rows];
    for start in (0..n_tokens.saturating_sub(1)).step_by(BLOCK) {
        let end = (start + BLOCK + 1).min(n_tokens);
        let keys = states.keys.part(start..end);
        product(keys.flat(), &rows, &mut logits, [keys.len(), n_rows, d], Rhs::Transposed);
        for token in start..end - 1 {
            let first = positions.partition_point(|position| *position < token + 1);
            let past = states.window.map_or(n_rows, |w| positions.partition_point(|position| *position < token + w));
            let n_seeing = past.saturating_sub(first);
            let row = |token: usize| &logits[(token - start) * n_rows..][first..past];
            let seen_enough = n_seeing > 0 && 2 * n_seeing >= n_rows;
            gaps.push(seen_enough.then(|| {
                let squares = f64::from(squared_distance(row(token), row(token + 1)));
                (factor * squares / n_seeing as f64).sqrt()
            }));
        }
    }
    gaps
}

/// The queries of the whole group in one list `[group · n_q, D]` by rising place, and the places of their tokens.
fn by_position(states: HeadStates<'_>) -> (Vec<f32>, Vec<usize>) {
    let mut order: Vec<(usize, &[f32])> = states.placed_queries().collect();
    order.sort_by_key(|(position, _)| *position);
    let (positions, queries): (Vec<usize>, Vec<&[f32]>) = order.into_iter().unzip();
    (queries.concat(), positions)
}

/// Attention-output error of every rule at every budget, on the same queries at all budgets: those among the recent tokens
/// of the budget that protects fewest.
fn errors(
    states: HeadStates<'_>,
    mass: &[f32],
    budgets: &[f64],
    bridge: bool,
) -> (Vec<Option<[f64; RULES.len()]>>, Vec<bool>) {
    let n_tokens = mass.len();
    let n_recent = |budget: &f64| Shares::of_paper(*budget).counts(n_tokens).0;
    let probe = OutputProbe::new(states, n_tokens - budgets.iter().map(n_recent).min().unwrap_or(0), None);
    let slots = SlotStates::new(states.keys, mass);
    let protection = Protection { bridge, ..Protection::default() };
    let (mut all, mut unreachable) = (Vec::new(), Vec::new());
    for budget in budgets {
        let budget_tokens = ((budget * n_tokens as f64).round() as usize).max(1);
        let merging = Merging::at_budget(states.keys, mass, n_tokens, budget_tokens, protection).ok();
        unreachable.push(merging.is_none());
        all.push(
            probe
                .as_ref()
                .zip(merging)
                .map(|(probe, merging)| RULES.map(|(_, rule)| probe.error(&merging.plan(slots, mass, &rule)))),
        );
    }
    (all, unreachable)
}

/// Means over the samples of a data set, the sample as unit.
#[derive(Clone, Debug)]
pub(crate) struct QueryCounters {
    gap: Mean,
    gap_quantiles: [Mean; 5],
    cosine_predicts: Mean,
    pairs: GapByCosine,
    errors: Vec<[Mean; RULES.len()]>,
}

impl QueryCounters {
    pub(crate) fn new(n_budgets: usize) -> Self {
        Self {
            gap: Mean::default(),
            gap_quantiles: [Mean::default(); 5],
            cosine_predicts: Mean::default(),
            pairs: GapByCosine::new(COARSE_BINS),
            errors: vec![[Mean::default(); RULES.len()]; n_budgets],
        }
    }

    pub(crate) fn add(&mut self, sample: &SampleQueries) {
        self.gap.extend(sample.gap);
        self.cosine_predicts.extend(sample.cosine_predicts);
        for (cosine, gap) in &sample.pairs {
            self.pairs.add(f64::from(*cosine), f64::from(*gap));
        }
        for (index, mean) in self.gap_quantiles.iter_mut().enumerate() {
            mean.extend(sample.gap_quantiles.map(|quantiles| quantiles[index]));
        }
        for (means, errors) in self.errors.iter_mut().zip(&sample.errors) {
            for (rule, mean) in means.iter_mut().enumerate() {
                mean.extend(errors.map(|errors| errors[rule]));
            }
        }
    }

    /// Pairs by cosine and gap.
    pub(crate) fn pairs(&self) -> &GapByCosine {
        &self.pairs
    }

    pub(crate) fn finish(&self, layer: usize, kv_head: usize) -> HeadQueries {
        let quantiles: Option<Vec<f64>> = self.gap_quantiles.iter().map(|mean| mean.get()).collect();
        HeadQueries {
            layer,
            kv_head,
            gap: self.gap.get(),
            gap_quantiles: quantiles.and_then(|quantiles| quantiles.try_into().ok()),
            cosine_predicts: self.cosine_predicts.get(),
            errors: self.errors.iter().map(|rules| rules.iter().map(|mean| mean.get()).collect()).collect(),
        }
    }
}

/// One sample's measures, means over heads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleErrors {
    cosine_predicts: Option<f64>,
    /// By budget.
    errors: Vec<Option<[f64; RULES.len()]>>,
    /// Heads that cannot be merged to the budget.
    unreachable: Vec<usize>,
}

impl SampleErrors {
    pub(crate) fn over_heads(heads: &[&SampleQueries], n_budgets: usize) -> Self {
        let errors = |budget: usize| {
            let mut means = [Mean::default(); RULES.len()];
            for errors in heads.iter().filter_map(|head| head.errors[budget]) {
                means.iter_mut().zip(errors).for_each(|(mean, error)| mean.add(error));
            }
            (means[0].n() > 0).then(|| means.map(|mean| mean.get().unwrap_or_default()))
        };
        Self {
            cosine_predicts: mean(heads.iter().filter_map(|head| head.cosine_predicts)),
            errors: (0..n_budgets).map(errors).collect(),
            unreachable: (0..n_budgets).map(|b| heads.iter().filter(|head| head.unreachable[b]).count()).collect(),
        }
    }
}

/// The measures of all samples with their intervals; `None` without a sample.
pub(crate) fn query_aware(samples: &[SampleErrors], options: &AnalyzeOptions) -> Option<QueryAware> {
    if samples.is_empty() {
        return None;
    }
    let resamples = Resamples::of_means(options.seed);
    let cosine_predicts: Vec<f64> = samples.iter().filter_map(|sample| sample.cosine_predicts).collect();
    let cosine_predicts = bootstrap_mean(&cosine_predicts, resamples);
    let mut verdict = match cosine_predicts {
        Some(rho) => format!(
            "The cosine of neighbouring keys ranks how interchangeable they are to real queries with a correlation of \
             {:.2} ({}) over {} samples (-1 would be perfect, 0 none).",
            rho.estimate,
            interval(rho, 2),
            rho.n
        ),
        None => "Too few queries were kept to tell what similarity means to them.".into(),
    };
    let mut all = Vec::with_capacity(options.budgets.len() * RULES.len());
    for (b, budget) in options.budgets.iter().enumerate() {
        let of_rule = |rule: usize| -> Vec<f64> {
            samples.iter().filter_map(|sample| sample.errors[b]).map(|errors| errors[rule]).collect()
        };
        let evict = of_rule(RULES.len() - 1);
        let found: Vec<Option<Paired>> = (0..RULES.len()).map(|r| paired(&of_rule(r), &evict, resamples)).collect();
        let errors: Vec<RuleError> = (0..RULES.len())
            .map(|r| RuleError {
                budget: *budget,
                rule: RULES[r].0.into(),
                error: bootstrap_mean(&of_rule(r), resamples),
                against_evict: found[r].as_ref().map(|found| found.difference),
                unreachable: samples.iter().map(|sample| sample.unreachable[b]).sum(),
            })
            .collect();
        verdict += &at_budget(*budget, &errors, &found).unwrap_or_default();
        all.extend(errors);
    }
    Some(QueryAware {
        verdict,
        budgets: options.budgets.clone(),
        rules: RULES.map(|(rule, ..)| rule.to_string()).to_vec(),
        errors: all,
        cosine_predicts,
    })
}

/// What the best rule at a budget comes to, beside the control; `None` where nothing was measured.
fn at_budget(budget: f64, errors: &[RuleError], found: &[Option<Paired>]) -> Option<String> {
    let (control, rules) = errors.split_last()?;
    let measured = rules.iter().zip(found).filter_map(|(rule, found)| Some((rule, rule.error?, found.as_ref()?)));
    let (rule, error, found) = measured.min_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate))?;
    let points = found.difference.times(100.0);
    Some(format!(
        " At {} kept, {}: the best of {} rules, {}, errs by {} and evicting by {} (difference {:+.2} points, {}).",
        percent(budget, 0),
        outcome("merging", "evicting the same tokens", found, true),
        rules.len(),
        rule.rule,
        percent(error.estimate, 1),
        percent(control.error?.estimate, 1),
        points.estimate,
        interval(points, 2),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    /// Of a head that sees all its tokens.
    fn of_all<'a>(keys: Rows<'a>, values: Rows<'a>, queries: Rows<'a>, query_positions: &'a [usize]) -> HeadStates<'a> {
        HeadStates { keys, values, first_position: 0, window: None, queries, query_positions }
    }

    #[test]
    fn gaps_of_uneven_queries_by_hand() {
        // D = 4, so that logits are halved. Keys (1..), token t has first component t²: 0, 1, 4, 9.
        let keys: Vec<f32> = (0..4).flat_map(|t| [(t * t) as f32, 0.0, 0.0, 5.0]).collect();
        // Two query heads with first components 2 and 4 at position 1, 6 and 0 at position 3.
        let query = |x: f32| [x, 7.0, 7.0, 1.0];
        let queries = [query(2.0), query(6.0), query(4.0), query(0.0)].concat();
        let keys = Rows::new(&keys, 4);
        let states = of_all(keys, keys, Rows::new(&queries, 4), &[1, 3]);
        let gaps = neighbour_gaps(states);
        // Pair 0-1, all four queries: gaps 1, 3, 2, 0 of squares 14. Pairs 1-2 and 2-3, those at 3: 9, 0 and 15, 0.
        let expected = [14f64 / 4.0, 81.0 / 2.0, 225.0 / 2.0].map(f64::sqrt);
        for (gap, expected) in gaps.iter().zip(expected) {
            assert!((gap.unwrap() - expected).abs() < 1e-6, "{gaps:?}");
        }
        // With one late query of three per head, pairs after token 1 are seen by too few.
        let queries = [query(2.0), query(3.0), query(6.0)].concat();
        let late = HeadStates { queries: Rows::new(&queries, 4), query_positions: &[0, 1, 3], ..states };
        let seen: Vec<bool> = neighbour_gaps(late).iter().map(Option::is_some).collect();
        assert_eq!(seen, [true, false, false]);
        // A window of 3 hides token 0 from the queries at 3: only those at 1 see the first pair, and they are half of all.
        let windowed = HeadStates { window: Some(3), ..states };
        let first = neighbour_gaps(windowed)[0].unwrap();
        assert!((first - (5f64 / 2.0).sqrt()).abs() < 1e-6, "{first}");
    }

    #[test]
    fn blocks_join_without_a_seam() {
        let n = 2 * BLOCK + 3;
        let keys: Vec<f32> = (0..n).map(|t| (t as f32 * 0.7).sin()).collect();
        let [rows, queries] = [&keys, &[2.0, -1.0][..]].map(|x| Rows::new(x, 1));
        let positions = [n - 1, n - 1];
        let states = of_all(rows, rows, queries, &positions);
        let gaps = neighbour_gaps(states);
        assert_eq!(gaps.len(), n - 1);
        for (token, gap) in gaps.iter().enumerate() {
            let expected = f64::from(keys[token] - keys[token + 1]).abs() * (5f64 / 2.0).sqrt();
            assert!((gap.unwrap() - expected).abs() < 1e-5, "{token}");
        }
    }

    #[test]
    fn what_merging_loses_and_what_it_does_not() {
        // Twin tokens: equal keys, values that differ only between pairs. Every rule but the published value scale and the
        // eviction of the twin's mass is exact; counting the twins repairs the softmax.
        let n = 40;
        let twin = |t: usize| (t / 2) as f32;
        let keys: Vec<f32> = (0..n).flat_map(|t| [(twin(t) * 0.9).cos(), (twin(t) * 0.9).sin()]).collect();
        let values: Vec<f32> = (0..n).flat_map(|t| [twin(t), 1.0]).collect();
        let [keys, values, queries] = [&keys, &values, &[1.0, 0.5, 0.2, -1.0][..]].map(|x| Rows::new(x, 2));
        let positions = [n - 2, n - 1];
        let states = of_all(keys, values, queries, &positions);
        let mass = vec![1.0; n];
        let found = SampleQueries::of(states, &mass, &[0.9, 0.75, 0.3], false);
        let [paper, convex, log_count, by_mass, evict] = found.errors[1].unwrap();
        assert!(log_count < 1e-6 && by_mass < 1e-6, "{found:?}");
        assert!(convex > 1e-3 && (convex - evict).abs() < 1e-6 && paper > convex, "{found:?}");
        let mut counters = QueryCounters::new(3);
        counters.add(&found);
        // 20 twins of cosine 1 and gap 0, of which the queries at the end see all but the last; 19 pairs of cosine cos 0.9 = 0.62.
        let bins = &counters.pairs().pairs;
        assert_eq!((bins[39][0], bins[32].iter().sum::<u64>()), (20, 19), "{bins:?}");
        assert_eq!(bins.iter().flatten().sum::<u64>() as usize, found.pairs.len());
        // Cosines of neighbours are 1 or cos 0.9; gaps are 0 for twins: cosine tells all.
        assert!(found.cosine_predicts.unwrap() < -0.8, "{found:?}");
        assert_eq!(found.unreachable, [false; 3]);
        // 17 % and 12 % protected cannot go below 29 %, and the shares of a smaller budget are smaller.
        let cut = SampleQueries::of(states, &[9.0, 0.1].repeat(n / 2), &[0.5], false);
        assert!(cut.errors[0].is_some());
        let none = HeadStates { queries: Rows::new(&[], 2), query_positions: &[], ..states };
        let none = SampleQueries::of(none, &mass, &[0.5], false);
        assert_eq!((none.gap, none.cosine_predicts, none.errors), (None, None, vec![None]));
    }
}

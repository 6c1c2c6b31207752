//! Runs beside each other, and head by head where their heads correspond.

use crate::format::comparison::{
    Against, ComparedRun, Comparison, FigureDifference, FigureId, HeadDifference, HeadSets,
};
use crate::report::page::grid::{Grid, HeadValue, Scale};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, columns, diverging, explained, interval, numeric, text, tint, whole};
use crate::report::page::{Block, Figures};
use crate::report::theme::{capitalised, number, threshold};
use crate::report::{Build, Named, Report};
use crate::say;

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "comparison", title: "Comparison", build };

/// Heads named of a run.
const NAMED_HEADS: usize = 3;

fn build(report: &Report, all: &mut Figures) -> Made {
    let mut blocks = Vec::new();
    for (at, Named { name, content: comparison }) in report.comparisons.iter().enumerate() {
        if report.comparisons.len() > 1 {
            blocks.push(Block::Heading(name.clone()));
        }
        blocks.push(Block::Verdict(comparison.verdict()));
        let own = all.take_all(|build, of| matches!(build, Build::Comparison(_)) && of == at);
        blocks.extend(own.map(Block::Figures));
        blocks.push(Block::Table(runs(at, name, comparison)));
        blocks.push(Block::Table(figures(at, name, comparison)));
        for (first, run, against) in comparison.pairs() {
            let place = Place { id: format!("comparison-{at}-{}", against.run), first, run };
            blocks.extend(place.blocks(against));
        }
    }
    Ok(blocks)
}

/// What every run is, and whether its merging sets are the model's or the data's.
fn runs(at: usize, name: &str, comparison: &Comparison) -> Table {
    let head = |head: &HeadSets| format!("L{} H{}", head.layer, head.kv_head);
    let row = |run: &ComparedRun| {
        let sets = run.sets.as_ref();
        let shares = sets.and_then(|sets| sets.variance);
        let percent = |share: Option<f64>| numeric(share.map(|share| 100.0 * share), 0);
        let most: Vec<String> =
            sets.map(|sets| sets.most_merging(NAMED_HEADS).into_iter().map(head).collect()).unwrap_or_default();
        vec![
            text(&run.name).hint(run.model.name.clone()),
            text(&run.shape()),
            whole(run.datasets.len()).hint(run.datasets.join(", ")),
            whole(run.n_samples),
            whole(run.n_tokens),
            interval(run.set_ratio().map(|figure| figure.mean), 3),
            percent(shares.map(|v| v.head.estimate)),
            percent(shares.map(|v| v.of_datasets())),
            percent(shares.map(|v| v.of_samples())),
            interval(sets.and_then(|sets| sets.kendall_w), 2),
            interval(sets.and_then(|sets| sets.between_datasets), 3),
            text(&most.join(", ")),
        ]
    };
    let titles = vec![
        column("Run"),
        column("Heads"),
        column("Data sets"),
        column("Samples"),
        column("Tokens"),
        explained(
            "Sets per token",
            "Merging sets per unprotected token, mean over heads and samples; 1 when nothing merges",
        ),
        explained("Heads, %", "Share of the variance that heads account for, alike in all data sets"),
        explained("Data sets, %", "Share of the variance that data sets account for, in all heads or in single ones"),
        explained("Rest, %", "Share of the variance between samples of one data set"),
        explained("Kendall's W", "Agreement of the data sets on the heads' order: 1 when all order them alike"),
        explained("Data sets apart", "Mean distance of the lines of two data sets at equal depth"),
        explained("Merge most", "The heads with the fewest sets per token"),
    ];
    let caption =
        format!("{name}: merging sets at threshold {}, with 95 % intervals over samples", threshold(comparison.eps));
    Table::new(format!("comparison-{at}-runs"), caption, titles, comparison.runs.iter().map(row).collect())
}

/// Every figure, a column for each run.
fn figures(at: usize, name: &str, comparison: &Comparison) -> Table {
    let row = |id: &FigureId| {
        let values = comparison.runs.iter().map(|run| interval(run.figure(id), 3));
        std::iter::once(text(&capitalised(&id.explained())).hint(id.name())).chain(values).collect()
    };
    let mut titles = columns(&["Figure"]);
    titles.extend(comparison.runs.iter().map(|run| column(&run.name)));
    let caption = format!("{name}: every figure, mean over heads and samples with its 95 % interval over samples");
    Table::new(format!("comparison-{at}"), caption, titles, comparison.figures().into_iter().map(row).collect())
}

/// A run against the first one.
struct Place<'a> {
    id: String,
    first: &'a ComparedRun,
    run: &'a ComparedRun,
}

impl Place<'_> {
    fn blocks(&self, against: &Against) -> Vec<Block> {
        let (first, run) = (&self.first.name, &self.run.name);
        let mut blocks = vec![Block::Heading(format!("{run} against {first}"))];
        let samples = if against.paired { "The same samples, compared pair by pair." } else { "Different samples." };
        let has_heads = self.run.has_heads_of(self.first);
        let heads = if has_heads {
            String::new()
        } else {
            let (these, those) = (self.run.shape(), self.first.shape());
            format!(" {run} has {these}, {first} {those}: no head of one is compared with a head of the other.")
        };
        blocks.push(Block::text("note", format!("{samples}{heads}")));
        blocks
            .push(Block::folded("Every figure's difference", vec![Block::Table(self.differences(against, has_heads))]));
        if let Some(sets) = against.sets().filter(|sets| !sets.heads.is_empty()) {
            blocks.extend(self.grid(sets).map(Block::Grid));
            blocks.push(Block::folded("Every head's merging sets", vec![Block::Table(self.heads(sets))]));
        }
        blocks
    }

    fn differences(&self, against: &Against, has_heads: bool) -> Table {
        let row = |figure: &FigureDifference| {
            let n_heads = figure.heads.len();
            let share = has_heads.then(|| 100.0 * figure.n_differ as f64 / n_heads.max(1) as f64);
            let differ = numeric(share, 0);
            let differ =
                if has_heads { differ.hint(format!("{} of {n_heads} heads", figure.n_differ)) } else { differ };
            vec![
                text(&capitalised(&figure.id.explained())).hint(figure.id.name()),
                numeric(Some(figure.first), 3),
                numeric(Some(figure.other), 3),
                interval(Some(figure.difference), 3),
                text(if figure.differs() { "yes" } else { "not shown" }),
                differ,
                interval(figure.rank_agreement, 2),
            ]
        };
        let (first, run) = (&self.first.name, &self.run.name);
        let titles = vec![
            column("Figure"),
            explained(first, "Mean over heads and samples"),
            explained(run, "Mean over heads and samples"),
            explained("Difference", format!("{run} less {first}, with its 95 % interval over samples")),
            explained("Differs", "A difference is shown where its interval leaves out 0"),
            explained("Heads that differ, %", "Whose own interval leaves out 0, as 5 % of them do by chance"),
            explained("Rank agreement", "Rank correlation of the heads in both runs: 1 when both order them alike"),
        ];
        let caption = format!("{run} against {first}: every figure that both have");
        Table::new(self.id.clone(), caption, titles, against.figures.iter().map(row).collect())
    }

    /// Where the runs differ.
    fn grid(&self, sets: &FigureDifference) -> Option<Grid> {
        let (first, run) = (&self.first.name, &self.run.name);
        let largest = sets.heads.iter().map(|head| head.difference.estimate.abs()).fold(0.0, f64::max);
        // Of equal tenths, so that two pages have the same colours more often than not.
        let end = (10.0 * largest).ceil().max(1.0) / 10.0;
        let value = |head: &HeadDifference| {
            let ends = say::bracketed(head.difference, 3);
            let by = number(head.difference.estimate, 3);
            let sign = match head.difference.estimate {
                d if !head.differs || d == 0.0 => "",
                d if d > 0.0 => "+",
                _ => "−",
            };
            HeadValue {
                head: (head.layer, head.kv_head),
                tint: diverging(Some(head.difference.estimate), end),
                text: sign.into(),
                hint: format!(
                    "Layer {}, KV head {}: {:.3} in {first}, {:.3} in {run}, difference {by}{ends}",
                    head.layer, head.kv_head, head.first, head.other
                ),
            }
        };
        let values = sets.heads.iter().map(value).collect();
        let scale = Scale { range: (-end, end), tint: &|value| diverging(Some(value), end), decimals: 1, unit: "" };
        let caption = format!(
            "Merging sets per unprotected token of every head, {run} less {first}; + and − where a difference is shown"
        );
        let mut grid = Grid::new(format!("{}-grid", self.id), caption, values, scale)?;
        grid.letters =
            vec![("+".into(), format!("merges less in {run}")), ("−".into(), format!("merges more in {run}"))];
        Some(grid)
    }

    fn heads(&self, sets: &FigureDifference) -> Table {
        let row = |head: &HeadDifference| {
            let value = |value: f64| numeric(Some(value), 3).tint(tint(Some(value), (0.0, 1.0)));
            vec![
                whole(head.layer),
                whole(head.kv_head),
                value(head.first),
                value(head.other),
                interval(Some(head.difference), 3),
                text(if head.differs { "differs" } else { "no difference shown" }),
            ]
        };
        let (first, run) = (self.first.name.as_str(), self.run.name.as_str());
        let titles = columns(&["Layer", "KV head", first, run, "Difference", "Verdict"]);
        let caption =
            format!("{run} against {first}: merging sets per unprotected token, with 95 % intervals of the difference");
        Table::new(format!("{}-heads", self.id), caption, titles, sets.heads.iter().map(row).collect())
    }
}

//! Two analyses head by head.

use crate::format::comparison::{ComparedRun, Comparison, FigureDifference, HeadDifference};
use crate::report::page::grid::{Grid, HeadValue, Scale};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, diverging, explained, interval, numeric, text, whole};
use crate::report::page::{Block, Facts, Figures};
use crate::report::theme::{capitalised, count, number, thousands};
use crate::report::{Named, Report};
use crate::say;

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "comparison", title: "Comparison", build };

fn build(report: &Report, _: &mut Figures) -> Made {
    let mut blocks = Vec::new();
    for (at, named) in report.comparisons.iter().enumerate() {
        let comparison = &named.content;
        if report.comparisons.len() > 1 {
            blocks.push(Block::Heading(named.name.clone()));
        }
        blocks.push(Block::Verdict(comparison.verdict()));
        blocks.push(Block::Facts(runs(comparison)));
        blocks.push(Block::Table(figures(at, named)));
        let sets = comparison.figures.iter().find(|figure| figure.metric == "set_ratio");
        if let Some(sets) = sets {
            blocks.extend(grid(at, &named.name, sets).map(Block::Grid));
            let title = "Every head's merging sets in both runs";
            blocks.push(Block::folded(title, vec![Block::Table(heads(at, &named.name, sets))]));
        }
    }
    Ok(blocks)
}

fn runs(comparison: &Comparison) -> Facts {
    let run = |run: &ComparedRun| {
        format!(
            "{}: {}, {} tokens of {}",
            run.model.name,
            count(run.n_samples, "sample"),
            thousands(run.n_tokens as u64),
            run.datasets.join(", ")
        )
    };
    let paired = if comparison.paired { "the same, compared pair by pair" } else { "different ones" };
    vec![("A", run(&comparison.a)), ("B", run(&comparison.b)), ("Samples", paired.into())]
}

/// Every figure, with what it is.
fn figures(at: usize, Named { name, content: comparison }: &Named<Comparison>) -> Table {
    let row = |figure: &FigureDifference| {
        let n_heads = figure.heads.len().max(1) as f64;
        vec![
            text(&capitalised(&figure.explained())).hint(figure.name()),
            numeric(Some(figure.a), 3),
            numeric(Some(figure.b), 3),
            interval(Some(figure.difference), 3),
            text(if figure.differs() { "yes" } else { "not shown" }),
            numeric(Some(100.0 * figure.n_differ as f64 / n_heads), 0)
                .hint(format!("{} of {n_heads} heads", figure.n_differ)),
            interval(figure.rank_agreement, 2),
        ]
    };
    let columns = vec![
        column("Figure"),
        explained("A", "Mean over heads and samples"),
        explained("B", "Mean over heads and samples"),
        explained("B less A", "With its 95 % interval over samples"),
        explained("Differs", "A difference is shown where its interval leaves out 0"),
        explained("Heads that differ, %", "Whose own interval leaves out 0, as 5 % of them do by chance"),
        explained("Rank agreement", "Rank correlation of the heads in both runs: 1 when both order them alike"),
    ];
    let caption = format!("{name}: every figure that both runs have");
    Table::new(format!("comparison-{at}"), caption, columns, comparison.figures.iter().map(row).collect())
}

/// Where the runs differ.
fn grid(at: usize, name: &str, sets: &FigureDifference) -> Option<Grid> {
    let largest = sets.heads.iter().map(|head| head.difference.estimate.abs()).fold(0.0, f64::max);
    // Of equal tenths, so that two pages have the same colours more often than not.
    let end = (10.0 * largest).ceil().max(1.0) / 10.0;
    let value = |head: &HeadDifference| {
        let ends = say::ends(head.difference, 3).map_or_else(String::new, |ends| format!(" ({ends})"));
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
                "Layer {}, KV head {}: {:.3} in A, {:.3} in B, difference {by}{ends}",
                head.layer, head.kv_head, head.a, head.b
            ),
        }
    };
    let values = sets.heads.iter().map(value).collect();
    let scale = Scale { range: (-end, end), tint: &|value| diverging(Some(value), end), decimals: 1, unit: "" };
    let caption = format!(
        "{name}: merging sets per unprotected token, B less A, of every head; + and − where a difference is shown"
    );
    let mut grid = Grid::new(format!("comparison-{at}-grid"), caption, values, scale)?;
    grid.letters = vec![("+".into(), "merges less in B".into()), ("−".into(), "merges more in B".into())];
    Some(grid)
}

fn heads(at: usize, name: &str, sets: &FigureDifference) -> Table {
    let row = |head: &HeadDifference| {
        vec![
            whole(head.layer),
            whole(head.kv_head),
            numeric(Some(head.a), 3),
            numeric(Some(head.b), 3),
            interval(Some(head.difference), 3),
            text(if head.differs { "differs" } else { "no difference shown" }),
        ]
    };
    let columns = ["Layer", "KV head", "A", "B", "B less A", "Verdict"].map(column).into_iter().collect();
    let caption = format!("{name}: merging sets per unprotected token, with 95 % intervals of the difference");
    Table::new(format!("comparison-{at}-heads"), caption, columns, sets.heads.iter().map(row).collect())
}

//! What compression costs: every policy at every budget, text by text, with what was answered.

use std::collections::{BTreeSet, HashMap};

use crate::format::evaluation::{ArmEntry, Evaluation, FULL, Row, TextEntry};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Cell, Table, column, columns, explained, interval, numeric, text, tint, whole};
use crate::report::page::words::{percent, short};
use crate::report::page::{Block, Figures};
use crate::report::{Build, Evaluated, Report, pool};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "evaluation", title: "Evaluation", build };

/// Sentences of the verdict that stand out: those of the largest budget.
const SENTENCES: usize = 3;
/// Texts of one family that are listed.
const MOST_TEXTS: usize = 400;
/// Bytes of answers that are shown side by side.
const MOST_ANSWERS: usize = 1_500_000;
/// The lowest and the highest KL that colours tell apart, in nats.
const KL_RANGE: (f64, f64) = (1e-4, 1.0);

fn build(report: &Report, figures: &mut Figures) -> Made {
    let Some(evaluated) = &report.evaluation else { return Ok(Vec::new()) };
    let evaluation = &evaluated.evaluation;
    let (first, rest) = evaluation.verdict.split_at(evaluation.verdict.len().min(SENTENCES));
    let mut blocks = vec![Block::Verdict(first.to_vec())];
    if !rest.is_empty() {
        blocks.push(Block::folded("All that was compared", vec![Block::Findings(rest.to_vec())]));
    }
    blocks.push(Block::text("note", evaluation.evaluated.clone()));
    blocks.extend(figures.take_all(|build, _| matches!(build, Build::Evaluation(_))).map(Block::Figures));
    blocks.push(Block::Table(policies(evaluation)));
    let rows = Rows::new(evaluated);
    for task in pool::tasks(evaluation) {
        blocks.extend(by_text(evaluation, &rows, task));
    }
    blocks.extend(answers(evaluation, &rows));
    Ok(blocks)
}

/// Rows by text and arm.
struct Rows<'a>(HashMap<(&'a str, &'a str, &'a str, &'a str, Option<u64>), &'a Row>);

impl<'a> Rows<'a> {
    fn new(evaluated: &'a Evaluated) -> Self {
        let key = |row: &'a Row| {
            let budget = row.budget.map(f64::to_bits);
            ((row.task.as_str(), row.dataset.as_str(), row.id.as_str(), row.policy.as_str(), budget), row)
        };
        Self(evaluated.rows.iter().map(key).collect())
    }

    fn of(&self, text: &'a TextEntry, arm: &'a ArmEntry) -> Option<&'a Row> {
        let budget = arm.budget.map(f64::to_bits);
        self.0.get(&(text.task.as_str(), text.dataset.as_str(), text.id.as_str(), arm.policy.as_str(), budget)).copied()
    }
}

/// Every policy at every budget, over all data sets of a family and by data set.
fn policies(evaluation: &Evaluation) -> Table {
    let rows = evaluation.summary.iter().map(|entry| {
        let metric = |name: &str| entry.metrics.get(name).copied();
        vec![
            text(&entry.task),
            text(entry.dataset.as_deref().unwrap_or("all")),
            text(&entry.policy),
            numeric(entry.budget.map(|budget| 100.0 * budget), 0),
            numeric(entry.kept_fraction.map(|kept| 100.0 * kept.estimate), 2),
            whole(entry.n),
            interval(evaluation.headline(&entry.task).and_then(|headline| metric(&headline.metric)), 5),
            numeric(metric("top1_agreement").map(|i| i.estimate), 4),
            numeric(metric("perplexity_ratio").map(|i| i.estimate), 4),
        ]
    });
    let columns = vec![
        column("Task"),
        column("Data set"),
        column("Policy"),
        column("Budget, %"),
        explained("Kept, %", "Slots of the prompt that stayed"),
        column("Texts"),
        explained("KL in nats, or score", "With its 95 % interval over texts; a score is in [0, 1]"),
        explained("Top-1 agreement", "Share of tokens whose most likely successor is that of the full cache"),
        explained("Perplexity ratio", "Over that of the full cache"),
    ];
    Table::new("policies-caption", "Every policy at every budget", columns, rows.collect())
}

/// A family's headline of every text, a column for each policy, by budget.
fn by_text(evaluation: &Evaluation, rows: &Rows<'_>, task: &str) -> Vec<Block> {
    let Some(headline) = evaluation.headline(task) else { return Vec::new() };
    let texts: Vec<&TextEntry> = evaluation.texts.iter().filter(|text| text.task == task).take(MOST_TEXTS).collect();
    let budgets: BTreeSet<u64> = evaluation.arms.iter().filter_map(|arm| arm.budget).map(f64::to_bits).collect();
    let mut variants = Vec::new();
    for budget in budgets.iter().map(|bits| Some(f64::from_bits(*bits))).chain([None]) {
        // What no budget decides stands beside every budget, and by itself where there is none.
        let of_budget = |arm: &&ArmEntry| arm.budget == budget && arm.policy != FULL;
        if !evaluation.arms.iter().any(|arm| of_budget(&arm)) {
            continue;
        }
        let is_shown = |arm: &&ArmEntry| of_budget(arm) || (arm.policy == FULL && !headline.less_is_better);
        let arms: Vec<&ArmEntry> = evaluation.arms.iter().filter(is_shown).collect();
        let cell = |text: &TextEntry, arm: &ArmEntry| -> Cell {
            let Some(row) = rows.of(text, arm) else { return Cell::default() };
            let value = pool::known(row.metrics.get(&headline.metric).copied());
            let shown = if headline.less_is_better {
                let log = |value: f64| value.max(1e-12).log10();
                numeric(value, 4).tint(tint(value.map(log), (log(KL_RANGE.0), log(KL_RANGE.1))))
            } else {
                numeric(value, 2).tint(tint(value, (0.0, 1.0)))
            };
            match &row.unmet {
                Some(why) => shown.hint(why.clone()),
                None => shown,
            }
        };
        let mut titles = columns(&["Data set", "Text", "Tokens"]);
        titles.extend(arms.iter().map(|arm| column(&arm.policy)));
        let row = |entry: &&TextEntry| {
            let mut row = vec![
                text(&entry.dataset),
                text(&short(&entry.id)).hint(entry.id.clone()),
                whole(entry.n_prompt_tokens),
            ];
            row.extend(arms.iter().map(|arm| cell(entry, arm)));
            row
        };
        let name = budget.map_or_else(|| "by thresholds".to_string(), |budget| format!("{} kept", percent(budget)));
        let bright = if headline.less_is_better { "bright costs more" } else { "bright is better" };
        let caption = format!("{task}, {name}: {} of every text; {bright}", headline.title);
        let id = format!("texts-{task}-{}", variants.len());
        variants.push((name, vec![Block::Table(Table::new(id, caption, titles, texts.iter().map(row).collect()))]));
    }
    if variants.is_empty() || rows.0.is_empty() {
        return Vec::new();
    }
    vec![
        Block::Heading(format!("Text by text: {task}")),
        Block::Variants { id: format!("texts-{task}"), label: "Budget", variants },
    ]
}

/// What every policy answered, text by text.
fn answers(evaluation: &Evaluation, rows: &Rows<'_>) -> Vec<Block> {
    let mut folded = Vec::new();
    let (mut bytes, mut n_texts) = (0, 0);
    for (at, entry) in evaluation.texts.iter().enumerate() {
        let of_arm = |arm| Some((arm, rows.of(entry, arm)?)).filter(|(_, row): &(&ArmEntry, &Row)| row.pred.is_some());
        let of_text: Vec<(&ArmEntry, &Row)> = evaluation.arms.iter().filter_map(of_arm).collect();
        let Some((_, first)) = of_text.first() else { continue };
        n_texts += 1;
        bytes += of_text.iter().map(|(_, row)| row.pred.as_ref().map_or(0, String::len)).sum::<usize>();
        if bytes > MOST_ANSWERS {
            continue;
        }
        let whole_cache = of_text.iter().find(|(arm, _)| arm.policy == FULL).and_then(|(_, row)| row.pred.as_deref());
        let row = |(arm, row): &(&ArmEntry, &Row)| {
            let answer = row.pred.as_deref().unwrap_or_default();
            let same = arm.policy != FULL && Some(answer) == whole_cache;
            vec![
                text(&arm.policy),
                numeric(arm.budget.map(|budget| 100.0 * budget), 0),
                numeric(row.metrics.get("score").copied(), 2).tint(tint(row.metrics.get("score").copied(), (0.0, 1.0))),
                text(if same { "as the full cache" } else { answer.trim() }),
            ]
        };
        let expected = match first.answers.as_slice() {
            [] => "no reference answer".into(),
            answers => format!("expected: {}", answers.join(" | ")),
        };
        let titles = ["Policy", "Budget, %", "Score", "Answer"];
        let caption = format!("{} {}; {expected}", entry.dataset, entry.id);
        let table = Table::new(format!("answers-{at}"), caption, columns(&titles), of_text.iter().map(row).collect());
        let title = format!("{} · {} · {} tokens", entry.dataset, short(&entry.id), entry.n_prompt_tokens);
        folded.push(Block::folded(title, vec![Block::Table(table)]));
    }
    if folded.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Heading("Answers side by side".into())];
    if folded.len() < n_texts {
        let note = format!("The answers to {} of {n_texts} texts are shown; all are in rows.jsonl.", folded.len());
        blocks.push(Block::text("note", note));
    }
    blocks.extend(folded);
    blocks
}

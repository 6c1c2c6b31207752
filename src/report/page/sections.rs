//! What stands on the page of an analysis, and on that of an evaluation.

use crate::files::{ModelIdentity, Provenance};
use crate::format::evaluation::Evaluation;
use crate::format::profile::Profile;
use crate::report::ReportInput;
use crate::report::page::summary::{percent, percent_interval};
use crate::report::page::tables;
use crate::report::page::{Block, Facts, Figures, Page, Section, summary};
use crate::report::theme::{count, thousands};

/// The figure that stands at the top.
const PICTURE: &str = "similarity-heads";

/// The page of an analysis, with the profile and the generation beside it.
pub(super) fn of_analysis(input: &ReportInput, mut figures: Figures) -> Page {
    let analysis = &input.analysis;
    let section = |id, title, blocks| Section { id, title, blocks };
    let note =
        "These numbers are of this model and these samples. The figures below show how far heads and data sets differ.";
    let mut summary = vec![Block::Verdict(summary::verdict(input))];
    summary.extend(figures.take(PICTURE).map(Block::Figures));
    summary.extend([
        Block::Folded(
            "All findings",
            vec![Block::Findings(summary::findings(input)), Block::Text("note", note.into())],
        ),
        Block::Folded("The run", vec![Block::Facts(run_facts(input))]),
    ]);
    let mut sections = vec![
        section("summary", "Summary", summary),
        section("figures", "Figures", vec![Block::Figures(figures)]),
        section("datasets", "Data sets", vec![Block::Table(tables::datasets(input))]),
        section("heads", "Heads", vec![Block::Table(tables::heads(input))]),
    ];
    let mut made = provenance("Analysis", &analysis.provenance, &analysis.schema, &analysis.model);
    if let Some(profile) = &input.profile {
        sections.push(section("profile", "Profile", of_profile(input, profile)));
        made.extend(provenance("Profile", &profile.provenance, &profile.schema, &profile.model));
    }
    if let Some(facts) = input.generation.as_ref().map(tables::generation) {
        sections.push(section("generation", "Generation with the compressed cache", vec![Block::Facts(facts)]));
    }
    sections.push(section("provenance", "How it was made", made));
    Page { title: format!("KV cache similarity of {}", analysis.model.name), facts: Vec::new(), sections }
}

/// The page of an evaluation.
pub(in crate::report) fn of_evaluation(evaluation: &Evaluation, figures: Figures) -> Page {
    let Evaluation { model, verdict, evaluated, .. } = evaluation;
    let verdict = vec![Block::Findings(verdict.clone()), Block::Text("note", evaluated.clone())];
    let made = provenance("Evaluation", &evaluation.provenance, &evaluation.schema, model);
    let mut facts = tables::model(model);
    facts.push(("Measured on", count(evaluation.texts.len(), "text")));
    facts.push(("Rows", format!("{} of {}", evaluation.rows, evaluation.planned_rows)));
    let section = |id, title, blocks| Section { id, title, blocks };
    let sections = vec![
        section("summary", "Verdict", verdict),
        section("figures", "Figures", vec![Block::Figures(figures)]),
        section("policies", "Policies", vec![Block::Table(tables::policies(evaluation))]),
        section("provenance", "How it was made", made),
    ];
    Page { title: format!("KV cache compression of {}", model.name), facts, sections }
}

fn run_facts(input: &ReportInput) -> Facts {
    let analysis = &input.analysis;
    let mut facts = tables::model(&analysis.model);
    let samples: usize = analysis.datasets.iter().map(|d| d.n_samples).fold(0, usize::saturating_add);
    let tokens: usize = analysis.datasets.iter().map(|d| d.n_tokens).fold(0, usize::saturating_add);
    let datasets = count(analysis.datasets.len(), "data set");
    let measured = format!("{datasets}, {}, {} tokens", count(samples, "sample"), thousands(tokens as u64));
    facts.push(("Measured on", measured));
    if analysis.layers.len() != analysis.model.n_layers {
        facts.push(("Layers measured", format!("{} of {}", analysis.layers.len(), analysis.model.n_layers)));
    }
    facts.push(("Never merged", summary::protected(analysis)));
    let bridge = if analysis.bridge { "run on across protected tokens" } else { "end at protected tokens" };
    facts.push(("Merging sets", bridge.into()));
    facts
}

fn of_profile(input: &ReportInput, profile: &Profile) -> Vec<Block> {
    let mut blocks = Vec::new();
    if profile.model.fingerprint != input.analysis.model.fingerprint {
        let warning = format!(
            "This profile was tuned for another model, {} (fingerprint {:.12}). Its sizes say nothing about the model above.",
            profile.model.name, profile.model.fingerprint
        );
        blocks.push(Block::Text("warning", warning));
    }
    if !profile.verdict.trim().is_empty() {
        blocks.push(Block::Text("verdict", profile.verdict.trim().into()));
    }
    let unknown = || "no data".to_string();
    let share = |pick: fn(f64, f64) -> f64| {
        profile.heads.iter().map(|h| h.kept_fraction).filter(|s| s.is_finite()).reduce(pick)
    };
    let sizes = share(f64::min).zip(share(f64::max));
    let sizes = sizes.map_or_else(unknown, |(low, high)| format!("{} to {}", percent(low), percent(high)));
    let mut settings: Vec<&str> = profile.heads.iter().map(|head| profile.setting_of(head)).collect();
    settings.sort_unstable();
    settings.dedup();
    let calibration = percent_interval(Some(profile.calibration_kept_fraction));
    blocks.push(Block::Facts(vec![
        ("Asked for", format!("{} {}", percent(profile.target_kept_fraction), profile.budget_of())),
        ("Kept on calibration samples", calibration.unwrap_or_else(unknown)),
        ("Kept on held-out samples", percent_interval(profile.held_out_kept_fraction).unwrap_or_else(unknown)),
        ("Kept of a head", sizes),
        ("Search", format!("{}, by squared changes over the {}'s output", profile.search, profile.measure)),
        ("Policies", settings.join("; ")),
        ("Beside them", profile.beside.clone().unwrap_or_else(|| "nothing".into())),
        ("Refit", profile.refit.map_or_else(|| "none".into(), |refit| serde_json::json!(refit).to_string())),
        ("Samples", format!("{} calibration, {} held-out", profile.calibration.len(), profile.held_out.len())),
    ]));
    blocks.push(if profile.quality.is_empty() {
        let note = "No quality was measured: the budget was solved on the curves of another profile.";
        Block::Text("note", note.into())
    } else {
        Block::Table(tables::quality(profile))
    });
    blocks
}

/// How a file was made.
fn provenance(title: &'static str, provenance: &Provenance, schema: &str, model: &ModelIdentity) -> Vec<Block> {
    let known = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "no data".into());
    let facts = vec![
        ("Made by", format!("{}, subcommand {}", provenance.tool, provenance.command)),
        ("Format", schema.into()),
        ("Seed", provenance.seed.to_string()),
        ("Model fingerprint", model.fingerprint.clone()),
        ("Tokenizer SHA-256", known(&model.tokenizer_sha256)),
        ("Chat template SHA-256", known(&model.chat_template_sha256)),
    ];
    let options = format!("{:#}", provenance.options);
    let mut blocks = vec![Block::Heading(title), Block::Facts(facts)];
    blocks.push(Block::Options(options.lines().map(String::from).collect()));
    if !provenance.inputs.is_empty() {
        let files = provenance.inputs.iter().map(|input| (input.name.clone(), input.sha256.clone()));
        blocks.push(Block::Sources(count(provenance.inputs.len(), "file"), files.collect()));
    }
    blocks
}

//! How every file was made.

use crate::files::{ModelIdentity, Provenance};
use crate::report::Report;
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::{Block, Figures};
use crate::report::theme::count;

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "provenance", title: "How it was made", build };

fn build(report: &Report, _: &mut Figures) -> Made {
    let mut made = Vec::new();
    if let Some(input) = &report.analysis {
        let analysis = &input.analysis;
        made.extend(of("Analysis".into(), &analysis.provenance, &analysis.schema, &analysis.model));
    }
    for profile in &report.profiles {
        let content = &profile.content;
        made.extend(of(format!("Profile {}", profile.name), &content.provenance, &content.schema, &content.model));
    }
    if let Some(evaluated) = &report.evaluation {
        let evaluation = &evaluated.evaluation;
        made.extend(of("Evaluation".into(), &evaluation.provenance, &evaluation.schema, &evaluation.model));
    }
    for comparison in &report.comparisons {
        let content = &comparison.content;
        let title = format!("Comparison {}", comparison.name);
        let Some((first, rest)) = content.runs.split_first() else { continue };
        made.extend(of(title, &content.provenance, &content.schema, &first.model));
        let others = rest.iter().map(|run| ("Model fingerprint", format!("{}: {}", run.name, run.model.fingerprint)));
        made.push(Block::Facts(others.collect()));
    }
    for bench in &report.benches {
        made.push(Block::Heading(format!("Speed and memory {}", bench.name)));
        made.push(options(&bench.content.options));
    }
    Ok(made)
}

fn of(title: String, provenance: &Provenance, schema: &str, model: &ModelIdentity) -> Vec<Block> {
    let known = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "no data".into());
    let facts = vec![
        ("Made by", format!("{}, subcommand {}", provenance.tool, provenance.command)),
        ("Format", schema.into()),
        ("Seed", provenance.seed.to_string()),
        ("Model fingerprint", model.fingerprint.clone()),
        ("Tokenizer SHA-256", known(&model.tokenizer_sha256)),
        ("Chat template SHA-256", known(&model.chat_template_sha256)),
    ];
    let mut blocks = vec![Block::Heading(title), Block::Facts(facts), options(&provenance.options)];
    if !provenance.inputs.is_empty() {
        let files = provenance.inputs.iter().map(|input| (input.name.clone(), input.sha256.clone()));
        blocks.push(Block::Sources(count(provenance.inputs.len(), "file"), files.collect()));
    }
    blocks
}

fn options(options: &serde_json::Value) -> Block {
    let lines = format!("{options:#}").lines().map(String::from).collect();
    Block::folded("Options", vec![Block::Options(lines)])
}

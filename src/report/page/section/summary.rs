//! What comes out of everything on the page, in three sentences and a picture, and all that was found.

use crate::format::analysis::Analysis;
use crate::report::Report;
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::words::{model, percent, percent_interval};
use crate::report::page::{Block, Facts, Figures, findings};
use crate::report::theme::{count, thousands};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "summary", title: "Summary", build };

/// Sentences at the top.
const SENTENCES: usize = 3;
/// The figures that may stand at the top: the first that there is.
const PICTURES: [&str; 3] = ["similarity-heads", "policy-budgets", "policies"];

fn build(report: &Report, figures: &mut Figures) -> Made {
    let parts = parts(report);
    let mut blocks = vec![Block::Verdict(told(parts.iter().map(|part| part.as_slice()).collect()))];
    blocks.extend(PICTURES.iter().find_map(|name| figures.take(name)).map(Block::Figures));
    if let Some(input) = &report.analysis {
        let note = "These numbers are of this model and these samples. The figures below show how far heads and data sets differ.";
        let all = findings::findings(&input.analysis);
        blocks.push(Block::folded("All findings", vec![Block::Findings(all), Block::text("note", note)]));
    }
    blocks.push(Block::folded("The run", vec![Block::Facts(facts(report))]));
    Ok(blocks)
}

/// What each part of the report says, the most important sentence first.
fn parts(report: &Report) -> Vec<Vec<String>> {
    let mut parts = Vec::new();
    parts.extend(report.analysis.iter().map(|input| findings::verdict(&input.analysis)));
    parts.extend(report.evaluation.iter().map(|evaluated| evaluated.evaluation.verdict.clone()));
    parts.extend(report.comparisons.iter().map(|comparison| comparison.content.verdict()));
    if parts.is_empty() {
        parts.extend(report.profiles.iter().map(|profile| vec![profile.content.verdict.trim().to_string()]));
    }
    parts.extend(report.generations.iter().map(|generation| {
        let generated = &generation.content;
        let kept = generated.kept_fraction.map_or_else(|| "an unknown share".into(), percent);
        let kl = generated.compared.as_ref().and_then(|compared| compared.comparison.mean_kl);
        let kl = kl.map_or_else(String::new, |kl| format!(", at a mean KL of {kl:.4} nats from the full cache"));
        vec![format!("A text was generated with {kept} of the slots by {}{kl}.", generated.policy)]
    }));
    parts.extend(report.benches.iter().map(|bench| super::speed::verdict(&bench.content)));
    parts.retain(|part| part.iter().any(|sentence| !sentence.trim().is_empty()));
    parts
}

/// A sentence of every part as long as there is room, then more of the first ones; in the order of the parts.
fn told(parts: Vec<&[String]>) -> Vec<String> {
    let mut takes = vec![0; parts.len()];
    let mut left = SENTENCES;
    while left > 0 {
        let mut any = false;
        for (take, part) in takes.iter_mut().zip(&parts) {
            if left > 0 && *take < part.len() {
                *take += 1;
                left -= 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    parts.iter().zip(takes).flat_map(|(part, take)| part[..take].iter().cloned()).collect()
}

fn facts(report: &Report) -> Facts {
    let mut facts = report.model().map(model).unwrap_or_default();
    if let Some(input) = &report.analysis {
        facts.extend(of_analysis(&input.analysis));
    }
    if let Some(evaluated) = &report.evaluation {
        let evaluation = &evaluated.evaluation;
        facts.push(("Evaluated on", count(evaluation.texts.len(), "text")));
        facts.push(("Rows", format!("{} of {}", evaluation.rows, evaluation.planned_rows)));
    }
    for profile in &report.profiles {
        let kept = percent_interval(Some(profile.content.calibration_kept_fraction)).unwrap_or_default();
        facts.push(("Profile", format!("{}, keeps {kept}", profile.name)));
    }
    facts
}

fn of_analysis(analysis: &Analysis) -> Facts {
    let samples: usize = analysis.datasets.iter().map(|d| d.n_samples).fold(0, usize::saturating_add);
    let tokens: usize = analysis.datasets.iter().map(|d| d.n_tokens).fold(0, usize::saturating_add);
    let datasets = count(analysis.datasets.len(), "data set");
    let measured = format!("{datasets}, {}, {} tokens", count(samples, "sample"), thousands(tokens as u64));
    let mut facts = vec![("Measured on", measured)];
    if analysis.layers.len() != analysis.model.n_layers {
        facts.push(("Layers measured", format!("{} of {}", analysis.layers.len(), analysis.model.n_layers)));
    }
    facts.push(("Never merged", findings::protected(analysis)));
    let bridge = if analysis.bridge { "run on across protected tokens" } else { "end at protected tokens" };
    facts.push(("Merging sets", bridge.into()));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_heard_before_one_is_heard_twice() {
        let part = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let (a, b, c) = (part(&["a1", "a2", "a3", "a4"]), part(&["b1"]), part(&["c1", "c2"]));
        assert_eq!(told(vec![&a]), ["a1", "a2", "a3"]);
        assert_eq!(told(vec![&a, &b]), ["a1", "a2", "b1"]);
        assert_eq!(told(vec![&a, &b, &c, &a]), ["a1", "b1", "c1"]);
        assert_eq!(told(vec![&b]), ["b1"]);
        assert!(told(vec![]).is_empty());
    }
}

//! The HTML file: one page that needs no network, works without its script, and trusts no text it shows.

mod summary;
mod tables;

use base64::Engine;

use crate::files::sha256_bytes;
use crate::format::evaluation::Evaluation;
use crate::format::profile::Profile;
use crate::report::Drawing;
use crate::report::Drawn;
use crate::report::RASTER_SIDE;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::drawing::escape;
use crate::report::raster::palette;
use crate::report::theme::count;
use crate::report::theme::thousands;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Bytes that all figures together may take in the page.
const FIGURE_BYTES: usize = 5 << 20;
/// Most drawings of one figure in the page; the others are in the folder of figures.
const MAX_DRAWINGS: usize = 13;

/// The page.
pub(super) fn render(
    input: &ReportInput,
    drawn: &[Drawn],
    skipped: &[(&'static str, &'static str)],
) -> Result<String, ReportError> {
    let analysis = &input.analysis;
    let mut sections: Vec<(&str, &str, String)> = vec![
        ("summary", "Summary", summary(input)),
        ("figures", "Figures", figures(drawn, skipped)?),
        ("datasets", "Data sets", tables::datasets(input)),
        ("heads", "Heads", tables::heads(input)),
    ];
    if let Some(profile) = &input.profile {
        sections.push(("profile", "Profile", profile_section(input, profile)));
    }
    if let Some(table) = input.generation.as_ref().map(tables::generation) {
        sections.push(("generation", "Generation with the compressed cache", table));
    }
    sections.push(("provenance", "How it was made", provenance(input)));
    let title = format!("KV cache similarity of {}", analysis.model.name);
    Ok(whole(&title, &run_facts(input), &sections, drawn))
}

/// The page of an evaluation.
pub(super) fn render_evaluation(
    evaluation: &Evaluation,
    drawn: &[Drawn<Evaluation>],
    skipped: &[(&'static str, &'static str)],
) -> Result<String, ReportError> {
    let mut verdict = String::from("<ul class=\"findings\">\n");
    for sentence in &evaluation.verdict {
        verdict += &format!("<li>{}</li>\n", escape(sentence));
    }
    verdict += &format!("</ul>\n<p class=\"note\">{}</p>\n", escape(&evaluation.evaluated));
    let sections = vec![
        ("summary", "Verdict", verdict),
        ("figures", "Figures", figures(drawn, skipped)?),
        ("policies", "Policies", tables::policies(evaluation)),
        (
            "provenance",
            "How it was made",
            tables::provenance("Evaluation", &evaluation.provenance, &evaluation.schema, &evaluation.model),
        ),
    ];
    let mut facts = tables::model(&evaluation.model);
    facts.push(("Measured on", count(evaluation.texts.len(), "text")));
    facts.push(("Rows", format!("{} of {}", evaluation.rows, evaluation.planned_rows)));
    let title = format!("KV cache compression of {}", evaluation.model.name);
    Ok(whole(&title, &facts, &sections, drawn))
}

/// A page of sections `(id, title, body)`; title and facts are text, bodies are markup.
fn whole<I>(
    title: &str,
    facts: &[(&'static str, String)],
    sections: &[(&str, &str, String)],
    drawn: &[Drawn<I>],
) -> String {
    let title = escape(title);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'sha256-{}'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#summary\">Skip to the summary</a>\n",
        script_hash()
    );
    html += &format!("<header>\n<p class=\"kicker\">kvscope report</p>\n<h1>{title}</h1>\n");
    html += &tables::facts(facts);
    html += "</header>\n<nav aria-label=\"Contents\">\n<h2>Contents</h2>\n<ul>\n";
    for (id, title, _) in sections {
        html += &format!("<li><a href=\"#{id}\">{title}</a>");
        if *id == "figures" && !drawn.is_empty() {
            html += "\n<ul>\n";
            for (entry, _) in drawn {
                html += &format!("<li><a href=\"#figure-{}\">{}</a></li>\n", entry.name, escape(entry.title));
            }
            html += "</ul>\n";
        }
        html += "</li>\n";
    }
    html += &format!("</ul>\n</nav>\n<main data-palette=\"{}\">\n", palette_text());
    for (id, title, body) in sections {
        html += &format!(
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{body}</section>\n"
        );
    }
    html += &format!(
        "</main>\n<footer><p>{}</p></footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        escape(crate::files::TOOL_VERSION)
    );
    html
}

/// SHA-256 of the script in base64: the only script that a browser will run in the page.
fn script_hash() -> String {
    let hex = sha256_bytes(SCRIPT.as_bytes());
    let bytes: Vec<u8> =
        (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The colour map as hexadecimal digits, six a colour, for reading values off maps.
fn palette_text() -> String {
    palette().iter().flatten().map(|c| format!("{c:02x}")).collect()
}

fn run_facts(input: &ReportInput) -> Vec<(&'static str, String)> {
    let analysis = &input.analysis;
    let mut facts = tables::model(&analysis.model);
    let samples: usize = analysis.datasets.iter().map(|d| d.n_samples).fold(0, usize::saturating_add);
    let tokens: usize = analysis.datasets.iter().map(|d| d.n_tokens).fold(0, usize::saturating_add);
    facts.push((
        "Measured on",
        format!(
            "{}, {}, {} tokens",
            count(analysis.datasets.len(), "data set"),
            count(samples, "sample"),
            thousands(tokens as u64)
        ),
    ));
    if analysis.layers.len() != analysis.model.n_layers {
        facts.push(("Layers measured", format!("{} of {}", analysis.layers.len(), analysis.model.n_layers)));
    }
    facts.push(("Never merged", summary::protected(analysis)));
    let bridge = if analysis.bridge { "run on across protected tokens" } else { "end at protected tokens" };
    facts.push(("Merging sets", bridge.into()));
    facts
}

fn summary(input: &ReportInput) -> String {
    let mut html = String::from("<ul class=\"findings\">\n");
    for finding in summary::findings(input) {
        html += &format!("<li>{}</li>\n", escape(&finding));
    }
    html + "</ul>\n<p class=\"note\">These numbers are of this model and these samples. \
            The figures below show how far heads and data sets differ.</p>\n"
}

fn figures<I>(drawn: &[Drawn<I>], skipped: &[(&'static str, &'static str)]) -> Result<String, ReportError> {
    // Maps get coarser until all figures together are small enough to be carried around.
    let mut side = RASTER_SIDE;
    let bodies = loop {
        let bodies = drawn.iter().map(|(_, drawings)| inline(drawings, side)).collect::<Result<Vec<_>, _>>()?;
        if bodies.iter().flatten().map(String::len).sum::<usize>() <= FIGURE_BYTES || side <= 128 {
            break bodies;
        }
        side /= 2;
    };
    let mut html = String::new();
    for ((entry, drawings), bodies) in drawn.iter().zip(bodies) {
        let title = escape(entry.title);
        html += &format!("<article id=\"figure-{0}\" aria-labelledby=\"figure-{0}-title\">\n", entry.name);
        html += &format!("<h3 class=\"hidden\" id=\"figure-{}-title\">{title}</h3>\n", entry.name);
        for (i, (drawing, svg)) in drawings.iter().zip(&bodies).enumerate() {
            let map = drawing.map.map_or(String::new(), |m| {
                format!(" data-tokens=\"{}\" data-low=\"{}\" data-high=\"{}\"", m.tokens, m.range.0, m.range.1)
            });
            if i > 0 {
                html += &format!(
                    "<details><summary>{} ({})</summary>\n",
                    escape(&drawing.title),
                    escape(&drawing.subtitle)
                );
            }
            html += &format!("<figure{map}>\n<div class=\"paper\">{svg}</div>\n");
            if i == 0 {
                html += &format!(
                    "<figcaption><strong>{}</strong> {} <span class=\"file\">Files: <code>{name}.svg</code>, \
                     <code>{name}.png</code></span></figcaption>\n",
                    escape(entry.question),
                    escape(entry.reading),
                    name = escape(&drawing.name)
                );
            }
            html += "</figure>\n";
            if i > 0 {
                html += "</details>\n";
            }
        }
        if bodies.len() < drawings.len() {
            let left = drawings.len() - bodies.len();
            html += &format!("<p class=\"note\">{left} more are in the folder of figures.</p>\n");
        }
        html += "</article>\n";
    }
    if !skipped.is_empty() {
        html += "<h3>Left out</h3>\n<ul>\n";
        for (name, needs) in skipped {
            html += &format!("<li><code>{name}</code> needs {}</li>\n", escape(needs));
        }
        html += "</ul>\n";
    }
    Ok(html)
}

fn inline(drawings: &[Drawing], side: usize) -> Result<Vec<String>, ReportError> {
    drawings.iter().take(MAX_DRAWINGS).map(|drawing| drawing.svg_element(side)).collect()
}

fn profile_section(input: &ReportInput, profile: &Profile) -> String {
    let mut html = String::new();
    if profile.model.fingerprint != input.analysis.model.fingerprint {
        html += &format!(
            "<p class=\"warning\">This profile was tuned for another model, {} (fingerprint {:.12}). \
             Its sizes say nothing about the model above.</p>\n",
            escape(&profile.model.name),
            escape(&profile.model.fingerprint)
        );
    }
    if !profile.verdict.trim().is_empty() {
        html += &format!("<p class=\"verdict\">{}</p>\n", escape(profile.verdict.trim()));
    }
    if let Some(comparison) = summary::against_control(profile) {
        html += &format!("<p>{}</p>\n", escape(&comparison));
    }
    let unknown = || "no data".to_string();
    let share = |pick: fn(f64, f64) -> f64| {
        profile.heads.iter().map(|h| h.kept_fraction).filter(|s| s.is_finite()).reduce(pick)
    };
    let sizes = share(f64::min).zip(share(f64::max));
    let mut settings: Vec<&str> = profile.heads.iter().map(|head| profile.setting_of(head)).collect();
    settings.sort_unstable();
    settings.dedup();
    html += &tables::facts(&[
        ("Asked for", format!("{} {}", summary::percent(profile.target_kept_fraction), profile.budget_of())),
        (
            "Kept on calibration samples",
            summary::percent_interval(Some(profile.calibration_kept_fraction)).unwrap_or_else(unknown),
        ),
        ("Kept on held-out samples", summary::percent_interval(profile.held_out_kept_fraction).unwrap_or_else(unknown)),
        (
            "Kept of a head",
            sizes
                .map_or_else(unknown, |(low, high)| format!("{} to {}", summary::percent(low), summary::percent(high))),
        ),
        ("Search", format!("{}, by squared changes over the {}'s output", profile.search, profile.measure)),
        ("Policies", settings.join("; ")),
        ("Refit", profile.refit.map_or_else(|| "none".into(), |refit| serde_json::json!(refit).to_string())),
        ("Samples", format!("{} calibration, {} held-out", profile.calibration.len(), profile.held_out.len())),
    ]);
    if profile.quality.is_empty() {
        html +=
            "<p class=\"note\">No quality was measured: the budget was solved on the curves of another profile.</p>\n";
    } else {
        html += &tables::quality(profile);
    }
    html
}

fn provenance(input: &ReportInput) -> String {
    let analysis = &input.analysis;
    let mut html = tables::provenance("Analysis", &analysis.provenance, &analysis.schema, &analysis.model);
    if let Some(profile) = &input.profile {
        html += &tables::provenance("Profile", &profile.provenance, &profile.schema, &profile.model);
    }
    html
}

//! What a profile chose for every head, and what that costs; several profiles beside each other.

use serde_json::{Value, json};

use crate::format::profile::{CONTROL, CurvePoint, HeadProfile, Profile, SUFFIX, TUNED};
use crate::report::page::grid::{Grid, HeadValue, Scale};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, columns, explained, interval, numeric, sorted_by, text, tint, whole};
use crate::report::page::words::{percent, percent_interval, told};
use crate::report::page::{Block, Facts, Figures};
use crate::report::{Build, Named, Report, pool};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "profile", title: "Profile", build };

fn build(report: &Report, figures: &mut Figures) -> Made {
    let mut variants = Vec::new();
    for (at, profile) in report.profiles.iter().enumerate() {
        let own = figures.take_all(|build, of| matches!(build, Build::Profile(_)) && of == at);
        let mut blocks = of_profile(report, at, profile);
        blocks.extend(own.map(Block::Figures));
        variants.push((name(profile), blocks));
    }
    let mut blocks = Vec::new();
    if variants.len() > 1 {
        blocks.push(Block::Table(beside(&report.profiles)));
    }
    match variants.pop() {
        Some((_, only)) if variants.is_empty() => blocks.extend(only),
        Some(last) => {
            variants.push(last);
            blocks.push(Block::Variants { id: "profile".into(), label: "Profile", variants });
        }
        None => {}
    }
    Ok(blocks)
}

/// The file's name without its ending, and the budget.
fn name(profile: &Named<Profile>) -> String {
    let name = profile.name.strip_suffix(SUFFIX).unwrap_or(&profile.name);
    format!("{name}: {} {}", percent(profile.content.target_kept_fraction), profile.content.budget_of())
}

/// One row a profile.
fn beside(profiles: &[Named<Profile>]) -> Table {
    let row = |profile: &Named<Profile>| {
        let content = &profile.content;
        let tuned = content.quality.iter().find(|quality| quality.rule == TUNED);
        let error = tuned.map(|quality| quality.held_out.unwrap_or(quality.calibration));
        let kl = content.held_out_kl.iter().find(|line| line.policy == TUNED).map(|line| line.kl);
        let kept = content.held_out_kept_fraction.unwrap_or(content.calibration_kept_fraction);
        vec![
            text(&profile.name),
            sorted_by(Some(percent(content.target_kept_fraction)), Some(content.target_kept_fraction)),
            sorted_by(percent_interval(Some(kept)), Some(kept.estimate)),
            text(&content.search),
            interval(error, 3),
            interval(kl, 4),
        ]
    };
    let columns = vec![
        column("Profile"),
        explained("Asked for", "Share of the whole cache"),
        explained("Kept", "On held-out samples where there are any, with its 95 % interval"),
        explained("Search", "How sizes and policies were chosen"),
        explained("Error", "Relative error of the attention output, on held-out samples where there are any"),
        explained("KL, nats", "To the full cache on held-out texts, where the model was run"),
    ];
    Table::new("profiles-caption", "All profiles", columns, profiles.iter().map(row).collect())
}

fn of_profile(report: &Report, at: usize, named: &Named<Profile>) -> Vec<Block> {
    let profile = &named.content;
    let mut blocks = Vec::new();
    let whose = report.model().filter(|model| model.fingerprint != profile.model.fingerprint);
    if whose.is_some() {
        let warning = format!(
            "This profile was tuned for another model, {} (fingerprint {:.12}). Its sizes say nothing about the model above.",
            profile.model.name, profile.model.fingerprint
        );
        blocks.push(Block::text("warning", warning));
    }
    blocks.extend(told(&profile.verdict));
    blocks.extend(grid(at, named).map(Block::Grid));
    blocks.push(Block::Facts(facts(profile)));
    blocks.push(if profile.quality.is_empty() {
        let note = "No quality was measured: the budget was solved on the curves of another profile.";
        Block::text("note", note)
    } else {
        Block::Table(quality(at, named))
    });
    if !profile.held_out_kl.is_empty() {
        blocks.push(Block::Table(held_out_kl(at, named)));
    }
    blocks.push(Block::text(
        "",
        "Another budget is solved from the same curves, without a model, in the folder of the profile:",
    ));
    blocks.push(Block::Command(another_budget(named)));
    blocks.push(Block::folded("Every head of the profile", vec![Block::Table(heads(at, named))]));
    blocks
}

/// A command that solves half as large a budget, in the folder of the profile: where that is, its page does not know.
fn another_budget(named: &Named<Profile>) -> String {
    let name = shlex::try_quote(&named.name).map_or_else(|_| named.name.clone(), |quoted| quoted.into_owned());
    let budget = (50.0 * named.content.target_kept_fraction).round().max(1.0) / 100.0;
    format!("kvscope tune --from {name} --budget {budget}")
}

fn facts(profile: &Profile) -> Facts {
    let unknown = || "no data".to_string();
    let share = |pick: fn(f64, f64) -> f64| {
        profile.heads.iter().map(|h| h.kept_fraction).filter(|s| s.is_finite()).reduce(pick)
    };
    let sizes = share(f64::min).zip(share(f64::max));
    let sizes = sizes.map_or_else(unknown, |(low, high)| format!("{} to {}", percent(low), percent(high)));
    let calibration = percent_interval(Some(profile.calibration_kept_fraction));
    vec![
        ("Asked for", format!("{} {}", percent(profile.target_kept_fraction), profile.budget_of())),
        ("Kept on calibration samples", calibration.unwrap_or_else(unknown)),
        ("Kept on held-out samples", percent_interval(profile.held_out_kept_fraction).unwrap_or_else(unknown)),
        ("Kept of a head", sizes),
        ("Search", format!("{}, by squared changes over the {}'s output", profile.search, profile.measure)),
        ("Beside every score", profile.beside.clone().unwrap_or_else(|| "nothing".into())),
        ("Refit", profile.refit.map_or_else(|| "none".into(), |refit| json!(refit).to_string())),
        ("Samples", format!("{} calibration, {} held-out", profile.calibration.len(), profile.held_out.len())),
    ]
}

/// `A` to `Z`, then `A1` and so on.
fn letter(at: usize) -> String {
    let letter = char::from(b'A' + (at % 26) as u8);
    if at < 26 { letter.into() } else { format!("{letter}{}", at / 26) }
}

fn grid(at: usize, named: &Named<Profile>) -> Option<Grid> {
    let profile = &named.content;
    const RANGE: (f64, f64) = (0.0, 100.0);
    let value = |head: &HeadProfile| {
        let kept = pool::known(Some(100.0 * head.kept_fraction));
        let keeps = kept.map_or_else(|| "an unknown share".into(), |kept| format!("{kept:.1} %"));
        let joins = head.eps.map_or_else(String::new, |eps| format!(", joins neighbours above {eps:.2}"));
        let (letter, policy) = (letter(head.setting), profile.setting_of(head));
        HeadValue {
            head: (head.layer, head.kv_head),
            tint: tint(kept, RANGE),
            hint: format!("Layer {}, KV head {}: keeps {keeps} by {letter}, {policy}{joins}", head.layer, head.kv_head),
            text: letter,
        }
    };
    let values = profile.heads.iter().map(value).collect();
    let scale = Scale { range: RANGE, tint: &|kept| tint(Some(kept), RANGE), decimals: 0, unit: " % kept" };
    let caption = format!("Policy (letter) and size (colour) of every head, layers from left to right: {}", named.name);
    let mut grid = Grid::new(format!("profile-{at}-grid"), caption, values, scale)?;
    let used = |setting: usize| profile.heads.iter().filter(|head| head.setting == setting).count();
    let letters = profile.settings.iter().enumerate().filter(|(setting, _)| used(*setting) > 0);
    let heads = |n: usize| if n == 1 { "1 head".to_string() } else { format!("{n} heads") };
    grid.letters = letters.map(|(at, policy)| (letter(at), format!("{policy} ({})", heads(used(at))))).collect();
    grid.data = Some(curves(profile).to_string());
    Some(grid)
}

/// What the page's script needs to draw a head's curve, and to solve another budget: the profile's settings and heads. A head is
/// `[layer, kv_head, setting, kept_fraction, eps, loss_weight]`, a point of its curve `[kept_fraction, eps, utility_fraction, errors]`.
fn curves(profile: &Profile) -> Value {
    // As short as they can be said without a change.
    let short = |x: Option<f32>| x.map(|x| x.to_string().parse::<f64>().unwrap_or_default());
    let head = |head: &HeadProfile| {
        json!([head.layer, head.kv_head, head.setting, head.kept_fraction, short(head.eps), head.loss_weight])
    };
    let curve = |head: &HeadProfile| -> Value {
        let point = |point: &CurvePoint| {
            let errors: Vec<Option<f64>> = point.errors.iter().map(|error| short(*error)).collect();
            json!([point.kept_fraction, short(point.eps), point.utility_fraction, errors])
        };
        head.curve.iter().map(point).collect()
    };
    json!({
        "budget": profile.target_kept_fraction,
        "unit": profile.budget_unit,
        "search": profile.search,
        "measure": profile.measure,
        "min_share": profile.min_share,
        "settings": profile.settings,
        "heads": profile.heads.iter().map(head).collect::<Vec<_>>(),
        "curves": profile.heads.iter().map(curve).collect::<Vec<_>>(),
    })
}

/// Every head.
fn heads(at: usize, named: &Named<Profile>) -> Table {
    let profile = &named.content;
    let row = |head: &HeadProfile| {
        vec![
            whole(head.layer),
            whole(head.kv_head),
            text(&format!("{} {}", letter(head.setting), profile.setting_of(head))),
            numeric(Some(100.0 * head.kept_fraction), 1),
            numeric(head.eps.map(f64::from), 3),
            numeric(head.loss_weight, 3),
        ]
    };
    let columns = vec![
        column("Layer"),
        column("KV head"),
        column("Policy"),
        column("Keeps, %"),
        explained("Threshold", "Cosine above which neighbours are joined, mean over the calibration samples"),
        explained("Weight", "What the head's errors were multiplied by, for what the model loses by this head alone"),
    ];
    let caption = format!("What {} chose for every KV head", named.name);
    Table::new(format!("profile-{at}-heads"), caption, columns, profile.heads.iter().map(row).collect())
}

/// Error of every rule.
fn quality(at: usize, named: &Named<Profile>) -> Table {
    let profile = &named.content;
    let rows = profile
        .quality
        .iter()
        .map(|q| vec![text(&q.rule), text(role(&q.rule)), interval(Some(q.calibration), 3), interval(q.held_out, 3)]);
    let titles = ["Policy", "Role", "Error on calibration samples", "Error on held-out samples"];
    let caption = format!("Relative error of the attention output, with 95 % intervals: {}", named.name);
    Table::new(format!("profile-{at}-quality"), caption, columns(&titles), rows.collect())
}

fn role(rule: &str) -> &'static str {
    match rule {
        CONTROL => "control: the same slots, nothing merged",
        TUNED => "the profile",
        _ => "one policy, equal sizes",
    }
}

/// KL of the profile and of plain policies.
fn held_out_kl(at: usize, named: &Named<Profile>) -> Table {
    let profile = &named.content;
    let rows = profile
        .held_out_kl
        .iter()
        .map(|line| vec![text(&line.policy), text(role(&line.policy)), interval(Some(line.kl), 4)]);
    let caption =
        format!("KL of the next token to the full cache on held-out texts, with 95 % intervals: {}", named.name);
    let titles = ["Policy", "Role", "KL, nats"];
    Table::new(format!("profile-{at}-kl"), caption, columns(&titles), rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_never_end() {
        assert_eq!([0, 25, 26, 53].map(letter), ["A", "Z", "A1", "B2"]);
    }
}

//! `kvscope show`: a captured text, coloured by what becomes of each token in one head.

use std::path::PathBuf;

use anstyle::{AnsiColor, Color, Style};
use serde_json::{Value, json};

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::compression::{at_budget, refuse_ignored_size};
use crate::cli::failure::{Context, Result, Usage};
use crate::cli::names::names;
use crate::cli::numbers;
use crate::cli::output::{Span, columns, emit_json, emit_spans};
use crate::cli::table::MAX_COLUMNS;
use crate::fates;
use crate::fates::{Fate, HeadFates, Plan};
use crate::format::dump::{Dump, Sample, SampleEntry};
use crate::format::profile::Profile;
use crate::policy::POLICIES;
use crate::runtime::{Budget, Compression};
use crate::say;

/// Backgrounds of sets, in turn, so that neighbours differ.
const SET_COLORS: [AnsiColor; 4] = [AnsiColor::Blue, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Cyan];

/// Show a captured text with its tokens coloured: which stay, which merge into one slot, which are dropped, in one head
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dump's folder
    dump: PathBuf,
    /// Which sample: DATASET/ID, or its number in the dump, from 0
    #[arg(long, value_name = "SAMPLE", default_value = "0")]
    sample: String,
    /// Layer, from 0
    #[arg(long, value_name = "L")]
    layer: usize,
    /// KV head of the layer, from 0
    #[arg(long, value_name = "H", default_value_t = 0)]
    head: usize,
    /// Merge neighbours above this cosine, as KVMerger does: short for --policy kvmerger:eps=X
    #[arg(long, value_name = "X", value_parser = numbers::cosine, conflicts_with_all = ["policy", "profile", "kept_fraction"], required_unless_present_any = ["policy", "profile"])]
    eps: Option<f32>,
    #[arg(long, value_name = "SPEC", conflicts_with = "profile", help = format!("Policy: NAME[:key=value,...]; NAME is {}", names(POLICIES.iter().map(|entry| entry.name))))]
    policy: Option<String>,
    /// Profile made by `kvscope tune`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Share of the slots to keep, over all layers and heads; a profile is solved for it [default: 0.5, of a profile its own]
    #[arg(long, value_name = "X", value_parser = numbers::kept_share)]
    kept_fraction: Option<f64>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let dump = Dump::open(&args.dump)?;
    let manifest = dump.manifest();
    for (option, value, held) in [
        ("--layer", args.layer, manifest.layers.clone()),
        ("--head", args.head, manifest.held_kv_heads().collect::<Vec<usize>>()),
    ] {
        if !held.contains(&value) {
            return Err(Usage::error(
                format!("{} does not hold what {option} {value} asks for", args.dump.display()),
                format!("it holds {}", ranges(&held)),
            ));
        }
    }
    let sample = dump.sample(place_of(args, &dump)?)?;
    let Some(texts) = sample.token_texts()? else {
        return Err(Usage::error(
            format!("{} does not hold the text of its tokens", sample.path().display()),
            "capture again: dumps of this version hold it",
        ));
    };
    let compression = compression(args, &dump)?;
    let (n_layers, n_kv_heads) = (manifest.model.n_layers, manifest.model.n_kv_heads);
    let reaches = manifest.model.reaches(texts.len());
    let budget = |head| compression.budget_tokens(&reaches, n_kv_heads, head);
    let budget_tokens = (0..n_layers * n_kv_heads).map(budget).collect::<std::result::Result<Vec<usize>, _>>()?;
    let plan = Plan { name: &compression.name, policy: compression.policy.as_ref(), budget_tokens: &budget_tokens };
    let found = fates::of_head(&dump, &sample, [args.layer, args.head], plan)?;
    if common.json {
        emit_json(&document(args, &sample, &compression.name, &texts, &found))?;
        return Ok(Outcome::Done);
    }
    let entry = sample.entry();
    let head = format!("{}/{}: layer {}, KV head {}, {}\n", entry.dataset, entry.id, args.layer, args.head, plan.name);
    let mut spans = vec![Span::plain(head)];
    spans.extend(lines(&texts, &found.of_tokens));
    spans.push(Span::plain("\n"));
    spans.extend(legend(&found));
    spans.push(Span::plain(format!("{}\n", in_words(&found))));
    emit_spans(common.color, &spans)?;
    Ok(Outcome::Done)
}

/// The place of the sample that is asked for.
fn place_of(args: &Args, dump: &Dump) -> Result<usize> {
    let samples = &dump.manifest().samples;
    let name = |entry: &SampleEntry| format!("{}/{}", entry.dataset, entry.id);
    let numbered = args.sample.parse().ok().filter(|place| *place < samples.len());
    samples.iter().position(|entry| name(entry) == args.sample).or(numbered).ok_or_else(|| {
        let some: Vec<String> = samples.iter().take(5).map(name).collect();
        Usage::error(
            format!("{} holds no sample {:?}", args.dump.display(), args.sample),
            format!("give a number below {}, or a name such as {}", samples.len(), names(some)),
        )
    })
}

/// What is to be shown.
fn compression(args: &Args, dump: &Dump) -> Result<Compression> {
    if let Some(path) = &args.profile {
        let profile = Profile::read(path)?;
        profile.check_model(&dump.manifest().model)?;
        let budget = args.kept_fraction.unwrap_or(profile.target_kept_fraction);
        let name = format!("profile at {}", say::percent(budget, 1));
        return Ok(Compression::from_profile(name, &at_budget(profile, path, budget)?)?);
    }
    let spec = match (&args.policy, args.eps) {
        (Some(spec), _) => spec.clone(),
        (None, eps) => format!("kvmerger:eps={}", eps.unwrap_or_default()),
    };
    let compression = Compression::parse(&spec, Budget::KeptFraction(args.kept_fraction.unwrap_or(0.5)))
        .with_context(|| format!("cannot show {spec}"))?;
    refuse_ignored_size(&compression, &[("--kept-fraction", args.kept_fraction.is_some())])?;
    Ok(compression)
}

/// `0 to 5, 8`.
fn ranges(held: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for value in held {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *value => *last = *value,
            _ => runs.push((*value, *value)),
        }
    }
    let run =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// How tokens of a fate look: the style, and what stands around a run of them where nothing is coloured.
fn look(fate: Fate) -> (Style, [&'static str; 2]) {
    match fate {
        Fate::Kept => (Style::new(), ["", ""]),
        Fate::Recent => (Style::new().underline(), ["_", "_"]),
        Fate::Heavy => (Style::new().bold().fg_color(Some(AnsiColor::Yellow.into())), ["*", "*"]),
        Fate::Merged(slot) => {
            let background = Color::from(SET_COLORS[slot % SET_COLORS.len()]);
            (Style::new().fg_color(Some(AnsiColor::BrightWhite.into())).bg_color(Some(background)), ["[", "]"])
        }
        Fate::Passed => (Style::new().dimmed(), ["{", "}"]),
        Fate::Evicted => (Style::new().strikethrough().fg_color(Some(AnsiColor::BrightBlack.into())), ["~", "~"]),
    }
}

/// The text in lines, each run of tokens of one fate, or of one set, in its look. Line breaks of the text are shown and kept.
fn lines(texts: &[String], fates: &[Fate]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut used = 0;
    let mut token = 0;
    while token < texts.len() {
        let fate = fates[token];
        let run = fates[token..].iter().take_while(|other| **other == fate).count();
        let (style, marks) = look(fate);
        spans.push(Span::mark(style, marks[0]));
        for (place, text) in texts[token..token + run].iter().enumerate() {
            if place > 0 && matches!(fate, Fate::Merged(_)) {
                spans.push(Span::mark(style, "|"));
            }
            for (part, line) in text.split('\n').enumerate() {
                if part > 0 {
                    spans.extend([Span::styled(style, "↵"), Span::plain("\n")]);
                    used = 0;
                }
                // Two columns for the marks of an uncoloured run.
                let wide = columns(line) + 2;
                if used > 0 && used + wide > MAX_COLUMNS {
                    spans.push(Span::plain("\n"));
                    used = 0;
                }
                used += wide;
                spans.push(Span::styled(style, line));
            }
        }
        spans.push(Span::mark(style, marks[1]));
        token += run;
    }
    spans.push(Span::plain("\n"));
    spans
}

/// What the looks mean, of those that there are.
fn legend(found: &HeadFates) -> Vec<Span> {
    let meanings = [
        (Fate::Kept, "kept"),
        (Fate::Merged(0), "merged into one slot"),
        (Fate::Heavy, "protected: heavy"),
        (Fate::Recent, "protected: recent"),
        (Fate::Evicted, "dropped"),
        (Fate::Passed, "before the layer's window"),
    ];
    let mut spans = Vec::new();
    for (fate, meaning) in meanings {
        let is_it = |other: &Fate| std::mem::discriminant(other) == std::mem::discriminant(&fate);
        if found.of_tokens.iter().any(is_it) {
            let (style, marks) = look(fate);
            let gap = if spans.is_empty() { "" } else { "  " };
            spans.extend([Span::plain(gap), Span::mark(style, marks[0])]);
            spans.extend([Span::styled(style, meaning), Span::mark(style, marks[1])]);
        }
    }
    spans.push(Span::plain("\n"));
    spans
}

/// The head in one line.
fn in_words(found: &HeadFates) -> String {
    let counters = found.counters;
    let share = counters.kept_fraction().map_or_else(String::new, |share| format!(" ({})", say::percent(share, 1)));
    let mut words = format!("{} tokens in {} slots{share}", counters.seen, counters.kept);
    if found.n_sets > 0 {
        let in_sets = found.of_tokens.iter().filter(|fate| matches!(fate, Fate::Merged(_))).count();
        words += &format!("; {} sets of 2 to {} tokens hold {in_sets}", found.n_sets, found.largest_set);
    }
    if let Some(lowest) = found.lowest_joined {
        words += &format!(", lowest cosine joined {lowest:.3}");
    }
    if counters.evicted > 0 {
        words += &format!("; {} dropped", counters.evicted);
    }
    words
}

/// The result as JSON.
fn document(args: &Args, sample: &Sample<'_>, policy: &str, texts: &[String], found: &HeadFates) -> Value {
    let entry = sample.entry();
    let token = |(text, fate): (&String, &Fate)| match fate {
        Fate::Merged(slot) => json!({ "text": text, "fate": fate.name(), "slot": slot }),
        _ => json!({ "text": text, "fate": fate.name() }),
    };
    json!({
        "schema": "kvscope.show/1",
        "dataset": entry.dataset,
        "id": entry.id,
        "layer": args.layer,
        "kv_head": args.head,
        "policy": policy,
        "counters": found.counters,
        "sets": found.n_sets,
        "largest_set": found.largest_set,
        "lowest_joined": found.lowest_joined,
        "tokens": texts.iter().zip(&found.of_tokens).map(token).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::without_colour;

    #[test]
    fn runs_are_marked_and_lines_fit() {
        let texts = ["The", " cat", " sat", "\non", " mats", "."].map(String::from);
        let fates = [Fate::Heavy, Fate::Merged(1), Fate::Merged(1), Fate::Evicted, Fate::Kept, Fate::Recent];
        assert_eq!(without_colour(&lines(&texts, &fates)), "*The*[ cat| sat]~↵\non~ mats_._\n");
        let long = vec!["word ".to_string(); 100];
        let shown = without_colour(&lines(&long, &[Fate::Kept; 100]));
        assert!(shown.lines().count() > 4 && shown.lines().all(|line| columns(line) <= MAX_COLUMNS), "{shown}");
        // What acts on a terminal is shown, not sent.
        assert!(without_colour(&lines(&["\x1b[2J".into()], &[Fate::Kept])).starts_with(r"\u{1b}"));
    }

    #[test]
    fn numbers_in_ranges() {
        assert_eq!((ranges(&[0, 1, 2, 5]), ranges(&[7])), ("0 to 2, 5".into(), "7".into()));
    }
}

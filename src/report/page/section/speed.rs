//! Speed and memory against the length of the context.

use serde_json::Value;

use crate::format::bench::{Bench, FULL, SpeedRow};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, explained, numeric, sorted_by, text, whole};
use crate::report::page::words::{percent, size};
use crate::report::page::{Block, Facts, Figures};
use crate::report::theme::thousands;
use crate::report::{Build, Report};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "speed", title: "Speed and memory", build };

fn build(report: &Report, figures: &mut Figures) -> Made {
    let mut blocks = Vec::new();
    for (at, bench) in report.benches.iter().enumerate() {
        if report.benches.len() > 1 {
            blocks.push(Block::Heading(bench.name.clone()));
        }
        blocks.push(Block::Findings(verdict(&bench.content)));
        blocks.push(Block::Facts(facts(&bench.content)));
        let own = figures.take_all(|build, of| matches!(build, Build::Bench(_)) && of == at);
        blocks.extend(own.map(Block::Figures));
        blocks.push(Block::Table(table(at, &bench.name, &bench.content)));
    }
    Ok(blocks)
}

/// What each policy saves at the longest context, and from which context on it pays.
pub(super) fn verdict(bench: &Bench) -> Vec<String> {
    let longest = bench.rows.iter().map(|row| row.context_tokens).max().unwrap_or(0);
    let new_tokens = bench.options.get("max_new_tokens").and_then(Value::as_u64);
    let full = bench.rows.iter().find(|row| row.context_tokens == longest && row.policy == FULL);
    let of_longest = bench.rows.iter().filter(|row| row.context_tokens == longest && row.policy != FULL);
    let sentence = |row: &SpeedRow| {
        let speed = match row.speedup {
            Some(x) if x >= 1.0 => format!("decodes {x:.2} times as fast as the full cache"),
            Some(x) => format!("decodes at {x:.2} of the full cache's speed"),
            None => "was not timed against the full cache".into(),
        };
        let of_full = full.filter(|full| full.cache_bytes > 0);
        let share = of_full
            .map(|full| format!(", with {} of its bytes", percent(row.cache_bytes as f64 / full.cache_bytes as f64)));
        let found = bench.break_even.iter().find(|found| found.policy == row.policy);
        let new = new_tokens.map_or_else(String::new, |n| format!(" with {n} new tokens"));
        let pays = match found.map(|found| (found.context_tokens, found.at_shortest_measured)) {
            Some((Some(n), true)) => format!(" It pays{new} at {n:.0} tokens of context already."),
            Some((Some(n), false)) => format!(" It pays{new} from {n:.0} tokens of context on."),
            Some((None, _)) => format!(" It pays{new} at no context that was measured."),
            None => String::new(),
        };
        format!("At {} tokens {} {speed}{}.{pays}", thousands(longest as u64), row.policy, share.unwrap_or_default())
    };
    of_longest.map(sentence).collect()
}

fn facts(bench: &Bench) -> Facts {
    let option = |name: &str| match bench.options.get(name) {
        None | Some(Value::Null) => "no data".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    vec![
        ("Model", bench.model.name.clone()),
        ("Device", option("device")),
        ("Threads", option("threads")),
        ("Type of the cache", option("cache_dtype")),
        ("New tokens, runs of each", format!("{}, {}", option("max_new_tokens"), option("repeats"))),
        ("Weights read by a token", size(bench.weight_bytes)),
        ("Memory is read at", format!("{:.1} GB/s", bench.memory_read_bytes_per_sec / 1e9)),
    ]
}

fn table(at: usize, name: &str, bench: &Bench) -> Table {
    let most = |value: fn(&SpeedRow) -> Option<f64>| bench.rows.iter().filter_map(value).fold(0.0, f64::max);
    let (slowest, largest) = (most(|row| row.decode_secs), most(|row| Some(row.cache_bytes as f64)));
    let row = |row: &SpeedRow| {
        let spread = |samples: &[f64]| {
            let ends = crate::math::quantiles(samples, [0.05, 0.95]);
            ends.map(|[low, high]| {
                format!("{} samples, 5 % below {:.2} ms, 5 % above {:.2} ms", samples.len(), 1e3 * low, 1e3 * high)
            })
        };
        let decode = numeric(row.decode_secs.map(|secs| 1e3 * secs), 2).bar(1e3 * slowest);
        let decode = match spread(&row.samples_secs.decode) {
            Some(spread) => decode.hint(spread),
            None => decode,
        };
        vec![
            whole(row.context_tokens),
            text(&row.policy),
            numeric(row.kept_fraction.map(|kept| 100.0 * kept), 0),
            sorted_by(Some(size(row.cache_bytes)), Some(row.cache_bytes as f64)).bar(largest),
            numeric(row.prefill_secs, 2),
            numeric(row.compress_secs.filter(|_| row.policy != FULL), 3),
            decode,
            numeric(row.speedup, 2),
            numeric(row.bandwidth_bound, 2),
            numeric(row.break_even_new_tokens.map(f64::ceil), 0),
        ]
    };
    let columns = vec![
        explained("Context", "Tokens of the prompt"),
        column("Policy"),
        explained("Kept, %", "Of the prompt's slots"),
        explained("Cache", "When the prompt had passed"),
        explained("Prefill, s", "Without compression, median"),
        explained("Compress, s", "Planning and carrying it out, median"),
        explained("Decode, ms a token", "Median of all steps"),
        explained("Times as fast", "A decode step of the full cache over this one's"),
        explained("Bound", "The factor if time were bytes read"),
        explained("Pays at", "New tokens from which on compression has paid; none where it never does"),
    ];
    let caption = format!("{name}: medians by context and cache; bars are of the largest number in their column");
    Table::new(format!("speed-{at}"), caption, columns, bench.rows.iter().map(row).collect())
}

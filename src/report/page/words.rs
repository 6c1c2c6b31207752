//! How numbers are written on the page.

use crate::files::ModelIdentity;
use crate::math::Interval;
use crate::report::page::{Block, Facts};
use crate::report::pool;
use crate::report::theme::thousands;
use crate::say;

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    unbroken(&say::percent(share, 1))
}

/// An estimate with its interval.
pub(super) fn percent_interval(interval: Option<Interval>) -> Option<String> {
    Some(unbroken(&say::percent_interval(pool::known_interval(interval)?, 1)))
}

/// Numbers and their `%` stay on one line.
pub(super) fn unbroken(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

/// What a model is.
pub(super) fn model(model: &ModelIdentity) -> Facts {
    let mut facts = vec![
        ("Model", model.name.clone()),
        ("Architecture", model.architecture.clone()),
        ("Layers", model.n_layers.to_string()),
        ("Heads", format!("{} query, {} KV, of dimension {}", model.n_q_heads, model.n_kv_heads, model.head_dim)),
        ("RoPE base", format!("{}", model.rope_theta)),
        ("Longest context", format!("{} tokens", thousands(model.max_positions as u64))),
    ];
    if !model.layers_without_rope.is_empty() {
        let layers: Vec<String> = model.layers_without_rope.iter().map(usize::to_string).collect();
        facts.push(("Layers without RoPE", layers.join(", ")));
    }
    facts.extend(model.windows_in_words().map(|windows| ("Queries see", windows)));
    facts
}

/// A size in bytes, as the terminal has it: `31.16 MB`.
pub(super) fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    if value < 1000.0 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for next in units {
        if value < 999.995 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    format!("{value:.2}\u{a0}{unit}")
}

/// The first letters of an id that is too long to read, such as a hash.
pub(super) fn short(id: &str) -> String {
    const MOST: usize = 14;
    const SHOWN: usize = 10;
    match id.char_indices().nth(MOST) {
        None => id.into(),
        Some(_) => id.chars().take(SHOWN).chain(['…']).collect(),
    }
}

/// The sentences of a text: each ends with a stop that a blank and a capital letter follow.
pub(super) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.match_indices(". ").map(|(at, _)| at).filter(|at| text[at + 2..].starts_with(char::is_uppercase));
    let starts = std::iter::once(0).chain(ends.clone().map(|at| at + 2));
    starts.zip(ends.map(|at| at + 1).chain([text.len()])).map(|(start, end)| text[start..end].trim())
}

/// A verdict's first sentence, which stands out, and what else it says.
pub(super) fn told(verdict: &str) -> Vec<Block> {
    let mut all = sentences(verdict.trim());
    let first = all.next().filter(|first| !first.is_empty());
    let rest: Vec<&str> = all.collect();
    let mut blocks: Vec<Block> = first.map(|first| Block::text("verdict", first)).into_iter().collect();
    if !rest.is_empty() {
        blocks.push(Block::text("", rest.join(" ")));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_capital_follows() {
        let text = "At 0.5 kept, W is 0.9, p 0.001. They differ. none of 3. Yes";
        assert_eq!(
            sentences(text).collect::<Vec<_>>(),
            ["At 0.5 kept, W is 0.9, p 0.001.", "They differ. none of 3.", "Yes"]
        );
        assert_eq!(sentences("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn intervals_are_written_with_their_ends() {
        let interval = |low, high| Some(Interval { estimate: 0.4321, low, high, n: 3 });
        assert_eq!(percent_interval(interval(Some(0.4), Some(0.51))).unwrap(), "43.2\u{a0}% (40.0 to 51.0)");
        assert_eq!(percent_interval(interval(None, None)).unwrap(), "43.2\u{a0}%");
        assert_eq!(percent_interval(interval(Some(f64::NAN), Some(0.5))).unwrap(), "43.2\u{a0}%");
        assert_eq!(percent_interval(None), None);
    }

    #[test]
    fn sizes_are_written_in_decimal_units() {
        assert_eq!((size(999), size(31_159_128)), ("999 B".into(), "31.16\u{a0}MB".into()));
        assert_eq!((size(999_999_999), short("0427da1875e7629b")), ("1.00\u{a0}GB".into(), "0427da1875…".into()));
        assert_eq!(short("reeds"), "reeds");
    }
}

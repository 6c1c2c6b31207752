//! A number of every head as a picture of blocks, so that a terminal shows where in the model it is large.

use std::collections::BTreeMap;

use crate::cli::table::MAX_COLUMNS;
use crate::math::Mean;

/// From the least to the most.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Where nothing is known.
const UNKNOWN: char = '·';
/// Most lines; of more KV heads, several share one.
const MOST_LINES: usize = 8;
/// Columns of a line's name.
const NAME_COLUMNS: usize = 12;

/// A line for every KV head, a block for every layer, under a line that says what they show. Heads that share a line, and layers
/// that share a column where a model has more than fit, are shown by their mean.
///
/// - Shape: values by (layer, KV head); `limits` are what the lowest and the highest block stand for
pub(crate) fn blocks(what: &str, values: &BTreeMap<(usize, usize), Option<f64>>, limits: (f64, f64)) -> String {
    let (n_layers, n_heads) =
        values.keys().fold((0, 0), |(layers, heads), (layer, head)| (layers.max(layer + 1), heads.max(head + 1)));
    let heads_a_line = n_heads.div_ceil(MOST_LINES).max(1);
    let layers_a_column = n_layers.div_ceil(MAX_COLUMNS - NAME_COLUMNS).max(1);
    let mut means: BTreeMap<(usize, usize), Mean> = BTreeMap::new();
    for ((layer, head), value) in values.iter().filter_map(|(place, value)| Some((*place, (*value)?))) {
        means.entry((head / heads_a_line, layer / layers_a_column)).or_default().add(value);
    }
    let block = |mean: Option<&Mean>| {
        mean.copied().and_then(Mean::get).map_or(UNKNOWN, |mean| {
            let share = ((mean - limits.0) / (limits.1 - limits.0)).clamp(0.0, 1.0);
            BLOCKS[((share * BLOCKS.len() as f64) as usize).min(BLOCKS.len() - 1)]
        })
    };
    let mut text = format!("{what}, by layer (across, from 0)\n");
    for line in 0..n_heads.div_ceil(heads_a_line) {
        let (first, last) = (line * heads_a_line, (line * heads_a_line + heads_a_line).min(n_heads) - 1);
        let name = if first == last { format!("head {first}") } else { format!("heads {first}-{last}") };
        let columns = (0..n_layers.div_ceil(layers_a_column)).map(|column| block(means.get(&(line, column))));
        text += &format!("{name:NAME_COLUMNS$}{}\n", columns.collect::<String>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uneven_picture_by_hand() {
        // Two heads of three layers; nothing is known of one.
        let values = BTreeMap::from([
            ((0, 0), Some(0.0)),
            ((1, 0), Some(0.5)),
            ((2, 0), Some(1.0)),
            ((0, 1), Some(0.124)),
            ((1, 1), None),
            ((2, 1), Some(7.0)),
        ]);
        let shown = blocks("kept", &values, (0.0, 1.0));
        assert_eq!(shown, "kept, by layer (across, from 0)\nhead 0      ▁▅█\nhead 1      ▁·█\n");
    }

    #[test]
    fn large_models_fit() {
        let values = (0..126).flat_map(|layer| (0..64).map(move |head| ((layer, head), Some(layer as f64)))).collect();
        let shown = blocks("kept", &values, (0.0, 125.0));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 9);
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_COLUMNS), "{shown}");
        assert!(lines[1].starts_with("heads 0-7   ▁") && lines[8].ends_with('█'), "{shown}");
    }
}

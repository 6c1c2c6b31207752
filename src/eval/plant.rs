//! Needles planted in real texts: one fact a prompt, at every length and depth of a grid.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::eval::EvalError;
use crate::model::Model;
use crate::model::tokenizer::{AddSpecial, SkipSpecial};
use crate::prompts::Prompt;

/// Data set of planted prompts.
pub(super) const PLANTED: &str = "needle_planted";
const COLOURS: [&str; 8] = ["amber", "crimson", "ivory", "jade", "scarlet", "silver", "teal", "violet"];
const PLACES: [&str; 8] = ["attic", "barn", "cellar", "garden", "harbour", "library", "station", "workshop"];

/// Where needles are planted.
#[derive(Clone, Debug, PartialEq)]
pub struct NeedleGrid {
    /// Tokens of a prompt, about; the model's own frame of a chat comes on top.
    pub lengths: Vec<usize>,
    /// Percent of the text that stands before the needle, in [0, 100].
    pub depths: Vec<u32>,
    /// Prompts of every cell.
    pub per_cell: usize,
}

/// One prompt for every cell and repetition: a text cut to length, a fact between two of its sentences, a question at the end.
///
/// Texts are taken in turn among those that are long enough, by rising length and depth; the same cell of another repetition
/// has another text and fact.
///
/// - Errors: no text that is long enough for a length, a text that cannot be encoded
pub fn plant(model: &Model, texts: &[Prompt], grid: &NeedleGrid, seed: u64) -> Result<Vec<Prompt>, EvalError> {
    let tokenizer = model.tokenizer()?;
    let encoded =
        texts.iter().map(|prompt| tokenizer.encode(&prompt.text, AddSpecial::No)).collect::<Result<Vec<_>, _>>()?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut planted = Vec::new();
    for repetition in 0..grid.per_cell {
        for length in &grid.lengths {
            for depth in &grid.depths {
                let number = random.random_range(10_000..100_000u32).to_string();
                let colour = COLOURS[random.random_range(0..COLOURS.len())];
                let place = PLACES[random.random_range(0..PLACES.len())];
                let needle = format!(" The code of the {colour} box in the {place} is {number}.");
                let question = format!(
                    "\n\nQuestion: What is the code of the {colour} box in the {place}? Answer with the number only.\nAnswer:"
                );
                let around = tokenizer.encode(&format!("{needle}{question}"), AddSpecial::No)?.len();
                let room = length.saturating_sub(around);
                let fit: Vec<usize> = (0..texts.len()).filter(|i| encoded[*i].len() >= room).collect();
                if fit.is_empty() || room == 0 {
                    return Err(EvalError::NoText(*length));
                }
                let text = fit[planted.len() % fit.len()];
                let cut = tokenizer.decode(&encoded[text][..room], SkipSpecial::Yes)?;
                let (before, after) = cut.split_at(sentence_end(&cut, *depth));
                planted.push(Prompt {
                    dataset: PLANTED.into(),
                    id: format!("{length}-{depth}-{repetition}"),
                    context_bytes: Some(before.len() + needle.len() + after.len()),
                    text: format!("{before}{needle}{after}{question}"),
                    earlier: Vec::new(),
                    answers: vec![number],
                    all_classes: None,
                    language: Some("en".into()),
                    length: Some(*length as u64),
                    source_name: texts[text].source_name.clone(),
                });
            }
        }
    }
    Ok(planted)
}

/// The length and the depth that a planted prompt was asked with; `None` for prompts of other data sets.
pub(super) fn asked_place(dataset: &str, id: &str) -> Option<(usize, u32)> {
    let mut numbers = id.split('-').filter(|_| dataset == PLANTED);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The byte behind the sentence that ends nearest to a depth; behind the nearest character where no sentence ends.
fn sentence_end(text: &str, depth_percent: u32) -> usize {
    let wanted = text.len() * depth_percent.min(100) as usize / 100;
    let ends = text.char_indices().filter(|(at, c)| {
        let next = text[at + c.len_utf8()..].chars().next();
        ".!?\n".contains(*c) && next.is_none_or(char::is_whitespace)
    });
    let behind = ends.map(|(at, c)| at + c.len_utf8()).chain([0, text.len()]);
    behind.min_by_key(|end| end.abs_diff(wanted)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_go_between_sentences() {
        let text = "One two. Three 4.5 five! Six";
        assert_eq!(asked_place(PLANTED, "1200-0-3"), Some((1200, 0)));
        assert_eq!((asked_place("passage", "1200-0-3"), asked_place(PLANTED, "x")), (None, None));
        assert_eq!([0, 25, 50, 80, 100].map(|depth| sentence_end(text, depth)), [0, 8, 8, 24, text.len()]);
        assert_eq!((sentence_end("", 50), sentence_end("é", 100)), (0, 2));
    }
}

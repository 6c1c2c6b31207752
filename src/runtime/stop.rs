//! Texts that end a generation.

/// Finds stop strings in text that comes piece by piece, and holds back what may turn out to begin one.
///
/// ```
/// let mut stop = kvscope::runtime::StopStrings::new(vec!["END".into()]);
/// assert_eq!(stop.push("one E"), ("one ".into(), false));
/// assert_eq!(stop.push("N route"), ("EN route".into(), false));
/// assert_eq!(stop.push(", then END of"), (", then ".into(), true));
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Strings that end the text and are not part of it; empty ones are ignored.
    pub fn new(mut strings: Vec<String>) -> Self {
        strings.retain(|string| !string.is_empty());
        Self { strings, held: String::new() }
    }

    /// Text that is certain to be before any stop string, and whether one came.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        let mut text = std::mem::take(&mut self.held) + piece;
        if let Some(end) = self.strings.iter().filter_map(|string| text.find(string)).min() {
            text.truncate(end);
            return (text, true);
        }
        let may_begin_one = |from: &usize| self.strings.iter().any(|string| string.starts_with(&text[*from..]));
        if let Some(from) = text.char_indices().map(|(at, _)| at).find(may_begin_one) {
            self.held = text.split_off(from);
        }
        (text, false)
    }

    /// What was held back, when no more text comes.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_of_overlapping_strings_ends_the_text_wherever_pieces_are_cut() {
        let text = "añb\n\nñaab END of it";
        for (strings, expected) in [
            (vec!["\n\n", "END"], "añb"),
            (vec!["ñaa", "aab"], "añb\n\n"),
            (vec!["aab ", "b E"], "añb\n\nñ"),
            (vec!["nowhere", "it!", ""], text),
        ] {
            for cut in text.char_indices().map(|(at, _)| at) {
                let mut stop = StopStrings::new(strings.iter().map(ToString::to_string).collect());
                let (mut shown, mut stopped) = stop.push(&text[..cut]);
                if !stopped {
                    let (more, now) = stop.push(&text[cut..]);
                    shown += &more;
                    stopped = now;
                }
                if !stopped {
                    shown += &stop.finish();
                }
                assert_eq!(shown, expected, "{strings:?}, cut at {cut}");
                assert_eq!(stopped, expected != text);
            }
        }
    }
}

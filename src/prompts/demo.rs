//! Built-in prompts of five kinds, so that a first run needs no data. All texts were written for kvscope.

use crate::prompts::Prompt;

/// A built-in text: dataset, number within it, language, text.
type Entry = (&'static str, usize, &'static str, &'static str);

const ENTRIES: &[Entry] = &[
    ("demo_story", 1, "en", include_str!("demo/story_1.txt")),
    ("demo_story", 2, "en", include_str!("demo/story_2.txt")),
    ("demo_story", 3, "en", include_str!("demo/story_3.txt")),
    ("demo_article", 1, "en", include_str!("demo/article_1.txt")),
    ("demo_article", 2, "en", include_str!("demo/article_2.txt")),
    ("demo_article", 3, "en", include_str!("demo/article_3.txt")),
    ("demo_dialogue", 1, "en", include_str!("demo/dialogue_1.txt")),
    ("demo_dialogue", 2, "en", include_str!("demo/dialogue_2.txt")),
    ("demo_dialogue", 3, "en", include_str!("demo/dialogue_3.txt")),
    ("demo_code", 1, "python", include_str!("demo/code_1.txt")),
    ("demo_code", 2, "rust", include_str!("demo/code_2.txt")),
    ("demo_code", 3, "python", include_str!("demo/code_3.txt")),
    ("demo_math", 1, "en", include_str!("demo/math_1.txt")),
    ("demo_math", 2, "en", include_str!("demo/math_2.txt")),
    ("demo_math", 3, "en", include_str!("demo/math_3.txt")),
];

/// The built-in prompts: story, article, dialogue, source code and worked arithmetic, three of each.
///
/// - Size: 1,000 to 3,000 tokens each with the demo model's tokenizer
pub fn demo() -> Vec<Prompt> {
    let prompt = |&(dataset, number, language, text): &Entry| Prompt {
        dataset: dataset.into(),
        id: format!("{}-{number}", dataset.trim_start_matches("demo_")),
        text: text.trim_end().into(),
        earlier: Vec::new(),
        context_bytes: None,
        answers: Vec::new(),
        all_classes: None,
        language: Some(language.into()),
        length: Some(text.split_whitespace().count() as u64),
        source_name: format!("{}_{number}.txt", dataset.trim_start_matches("demo_")),
    };
    ENTRIES.iter().map(prompt).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn five_kinds_of_long_texts() {
        let prompts = demo();
        let mut kinds = BTreeMap::new();
        for prompt in &prompts {
            *kinds.entry(prompt.dataset.as_str()).or_insert(0) += 1;
            assert!(prompt.text.len() >= 2_800, "{} has {} bytes", prompt.id, prompt.text.len());
            assert!(!prompt.text.contains('\r') && !prompt.text.starts_with(char::is_whitespace), "{}", prompt.id);
        }
        assert_eq!(kinds.len(), 5);
        assert!(kinds.values().all(|count| *count == 3));
        assert_eq!(prompts.iter().map(|p| &p.id).collect::<HashSet<_>>().len(), prompts.len());
    }

    #[test]
    fn no_text_is_filler() {
        // Source code repeats short idioms by its nature.
        for prompt in demo().into_iter().filter(|prompt| prompt.dataset != "demo_code") {
            let lines: Vec<&str> = prompt.text.lines().map(str::trim).filter(|line| line.len() > 30).collect();
            let distinct: HashSet<&str> = lines.iter().copied().collect();
            assert_eq!(distinct.len(), lines.len(), "{} repeats a line", prompt.id);
        }
    }
}

//! A text of the compressed cache beside that of the full cache, with the divergence of every token.

use crate::format::generation::{Compared, Generated, StopReason};
use crate::report::page::prose::{Piece, Prose, levels};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::words::{percent, size};
use crate::report::page::{Block, Facts, Figures};
use crate::report::theme::number;
use crate::report::{Named, Report};

pub(super) const ENTRY: SectionEntry =
    SectionEntry { id: "generation", title: "Generation with the compressed cache", build };

/// Characters of a prompt that are shown at either end.
const PROMPT_ENDS: usize = 2000;

fn build(report: &Report, _: &mut Figures) -> Made {
    let mut variants = Vec::new();
    for named in &report.generations {
        variants.push((format!("{}: {}", named.name, named.content.policy), of(named)));
    }
    Ok(match variants.pop() {
        None => Vec::new(),
        Some((_, only)) if variants.is_empty() => only,
        Some(last) => {
            variants.push(last);
            vec![Block::Variants { id: "generation".into(), label: "Run", variants }]
        }
    })
}

fn of(named: &Named<Generated>) -> Vec<Block> {
    let generated = &named.content;
    let mut blocks = Vec::new();
    if let Some(compared) = &generated.compared {
        blocks.push(Block::text("verdict", verdict(generated, compared)));
    }
    blocks.push(Block::Facts(facts(generated)));
    if let Some(prompt) = &generated.prompt {
        blocks.push(Block::folded("The prompt", vec![Block::Prose(Prose::plain("Prompt", ends_of(prompt)))]));
    }
    blocks.extend(match &generated.compared {
        Some(compared) => side_by_side(generated, compared),
        None => vec![Block::Prose(Prose::plain("Generated", generated.text.clone()))],
    });
    blocks
}

fn verdict(generated: &Generated, compared: &Compared) -> String {
    let first = match compared.tokens_until_first_difference {
        None => format!("Both caches give the same {} tokens.", generated.new_tokens),
        Some(0) => "The two texts differ from their first token on.".into(),
        Some(n) => format!("The two texts share their first {n} tokens and then part."),
    };
    let found = &compared.comparison;
    let Some(mean) = found.mean_kl else { return first };
    let agreement = found.top1_agreement.map_or_else(String::new, |share| {
        format!(", and the most likely token is the same at {} of the places", percent(share))
    });
    format!(
        "{first} Along the full cache's text, the compressed cache's next-token distributions are {mean:.4} nats (KL) from those \
         of the full cache in the mean{agreement}."
    )
}

fn facts(generated: &Generated) -> Facts {
    let Generated { cache_bytes, full_cache_bytes, .. } = *generated;
    let mut facts = vec![
        ("Policy", generated.policy.clone()),
        ("Tokens", format!("{} of the prompt, {} new", generated.prompt_tokens, generated.new_tokens)),
        ("Cache", size(cache_bytes)),
        ("Cache without compression", size(full_cache_bytes)),
    ];
    if cache_bytes > 0 {
        facts.push(("Size ratio", format!("{}x", number(full_cache_bytes as f64 / cache_bytes as f64, 1))));
    }
    facts.extend(generated.prompt_kept_fraction.map(|x| ("Slots kept of the prompt", percent(x))));
    facts.extend(generated.kept_fraction.map(|x| ("Slots kept of all tokens", percent(x))));
    let speed = |x| format!("{} tokens per second", number(x, 1));
    facts.extend(generated.decode_tokens_per_sec.map(|x| ("Decoding", speed(x))));
    let full = generated.compared.as_ref().and_then(|compared| compared.full.decode_tokens_per_sec);
    facts.extend(full.map(|x| ("Decoding with the full cache", speed(x))));
    let stop = match generated.stop {
        StopReason::StopToken => "with the model's stop token",
        StopReason::StopString => "at a stop string",
        StopReason::MaxNewTokens => "when as many tokens were there as were asked for",
        StopReason::ContextFull => "as the context was full",
        StopReason::Interrupted => "as it was interrupted",
    };
    facts.push(("Ended", stop.into()));
    let p95 = generated.compared.as_ref().and_then(|compared| compared.comparison.p95_kl);
    facts.extend(p95.map(|kl| ("95th percentile of the KL", format!("{kl:.4} nats"))));
    facts
}

/// Both texts, the full cache's with the divergence of every token.
fn side_by_side(generated: &Generated, compared: &Compared) -> Vec<Block> {
    let part = compared.tokens_until_first_difference;
    let kl = &compared.comparison.kl;
    let full = match &compared.full.token_texts {
        Some(texts) => Prose::new(
            "Full cache",
            texts
                .iter()
                .enumerate()
                .map(|(at, text)| Piece {
                    text: text.clone(),
                    level: kl.get(at).copied().map(Piece::level_of),
                    hint: kl.get(at).map(|kl| format!("token {at}: KL {kl:.5} nats")),
                    is_first_difference: part == Some(at),
                })
                .collect(),
        ),
        None => Prose::split("Full cache", &compared.full.text, &generated.text),
    };
    let compressed = match &generated.token_texts {
        Some(texts) => Prose::new(
            "Compressed cache",
            texts
                .iter()
                .enumerate()
                .map(|(at, text)| Piece { is_first_difference: part == Some(at), ..Piece::plain(text.clone()) })
                .collect(),
        ),
        None => Prose::split("Compressed cache", &generated.text, &compared.full.text),
    };
    let mut blocks = vec![Block::SideBySide { texts: vec![full, compressed], levels: levels() }];
    if compared.full.token_texts.is_none() && !kl.is_empty() {
        // Files of earlier versions do not say which token is which part of the text.
        let cell = |(at, kl): (usize, &f64)| Piece {
            level: Some(Piece::level_of(*kl)),
            hint: Some(format!("token {at}: KL {kl:.5} nats")),
            ..Piece::plain("\u{2003}".into())
        };
        let cells = kl.iter().enumerate().map(cell).collect();
        blocks.push(Block::Prose(Prose::new("Divergence of the full cache's tokens, one after the other", cells)));
    }
    blocks
}

/// The whole prompt, or its beginning and end.
fn ends_of(prompt: &str) -> String {
    let n = prompt.chars().count();
    if n <= 2 * PROMPT_ENDS {
        return prompt.into();
    }
    let head: String = prompt.chars().take(PROMPT_ENDS).collect();
    let tail: String = prompt.chars().skip(n - PROMPT_ENDS).collect();
    format!("{head}\n[… {} characters …]\n{tail}", n - 2 * PROMPT_ENDS)
}

//! Shortening a prompt that is longer than the model's context.

/// LongBench's truncation: the middle goes, the first and the last `max_tokens / 2` tokens stay.
///
/// Source: Bai et al. 2023, arXiv 2308.14508, section 4.1. An odd `max_tokens` is rounded down, so one token less than
/// allowed stays: 7 keeps 3 + 3. A `max_tokens` of 1 keeps the first token, where half of it would be none.
///
/// Differs: LongBench decodes both halves to text, joins them, adds a chat frame where the task wants one, and tokenises the
/// result again, so that tokens at the seam may merge and the count may change by a few. Here the ids themselves are cut,
/// which keeps the count and every other token exact. Ids should include the tokens that the tokenizer adds, such as BOS,
/// as they do there.
///
/// - Shape: any length → at most `max_tokens`; a prompt that fits is returned whole
/// ```
/// use kvscope::model::tokenizer::middle_truncate;
/// assert_eq!(middle_truncate(&[1, 2, 3, 4, 5], 4), [1, 2, 4, 5]);
/// ```
pub fn middle_truncate(ids: &[u32], max_tokens: usize) -> Vec<u32> {
    if ids.len() <= max_tokens {
        return ids.to_vec();
    }
    if max_tokens < 2 {
        return ids[..max_tokens].to_vec();
    }
    let half = max_tokens / 2;
    [&ids[..half], &ids[ids.len() - half..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_stay() {
        let ids: Vec<u32> = (0..10).collect();
        assert_eq!(middle_truncate(&ids, 10), ids);
        assert_eq!(middle_truncate(&ids, 9), [0, 1, 2, 3, 6, 7, 8, 9]);
        assert_eq!(middle_truncate(&ids, 7), [0, 1, 2, 7, 8, 9]);
        assert_eq!(middle_truncate(&ids, 2), [0, 9]);
        assert_eq!(middle_truncate(&ids, 1), [0]);
        assert!(middle_truncate(&ids, 0).is_empty());
        assert!(middle_truncate(&[], 4).is_empty());
    }
}

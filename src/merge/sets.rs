//! Merging sets: runs of neighbours whose keys point the same way.

use std::ops::Range;

use crate::math::{Rows, dot};
use crate::merge::MergeError;

/// Two unprotected tokens that may be joined, the earlier one first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Rank of the earlier token among the unprotected ones; the later one has the next rank.
    pub rank: u32,
    /// cos(k_earlier, k_later); NaN when one of the keys has no direction.
    pub similarity: f32,
}

/// The unprotected tokens of one head, cut into consecutive sets.
///
/// Invariant: sets are not empty, in order, and cover `tokens` exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct MergingSets {
    /// Indices of the unprotected tokens, rising.
    pub tokens: Vec<u32>,
    /// Each set as a range of ranks into `tokens`.
    pub sets: Vec<Range<usize>>,
    /// Lowest similarity that was joined; `None` when nothing was.
    pub lowest_joined: Option<f32>,
}

impl MergingSets {
    /// The token indices of every set.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.sets.iter().map(|set| &self.tokens[set.clone()])
    }
}

/// The pairs of neighbours that may be joined, from the last to the first, as the paper scans.
///
/// Without `bridge` two tokens are neighbours when no token lies between them; with it, protected tokens are set aside
/// first, and the scan runs over what remains.
///
/// - Shape: keys `[T, D]`, protected `[T]`
/// - Unit:  cosine in [-1, 1], NaN for a key without direction
/// - Cost:  O(T·D)
/// - Source: arXiv 2407.08454 section 3.1 (`bridge` is ours)
pub fn links(keys: Rows<'_>, protected: &[bool], bridge: bool) -> (Vec<u32>, Vec<Link>) {
    let tokens: Vec<u32> = (0..protected.len() as u32).filter(|i| !protected[*i as usize]).collect();
    let key = |token: u32| keys.row(token as usize);
    let norms: Vec<f64> = tokens.iter().map(|t| f64::from(dot(key(*t), key(*t))).sqrt()).collect();
    let mut found = Vec::with_capacity(tokens.len());
    for rank in (0..tokens.len().saturating_sub(1)).rev() {
        let (earlier, later) = (tokens[rank], tokens[rank + 1]);
        if !bridge && later != earlier + 1 {
            continue;
        }
        let cosine = f64::from(dot(key(earlier), key(later))) / (norms[rank] * norms[rank + 1]);
        let similarity = if cosine.is_finite() { cosine.clamp(-1.0, 1.0) as f32 } else { f32::NAN };
        found.push(Link { rank: rank as u32, similarity });
    }
    (tokens, found)
}

/// Joins every link whose similarity is above `eps`.
///
/// Similarity is between neighbours, a chain: the two ends of a set need not be alike. Source: arXiv 2407.08454
/// algorithm 1; the paper uses 0.75 everywhere.
pub fn sets_above(tokens: Vec<u32>, links: &[Link], eps: f32) -> MergingSets {
    let joined: Vec<Link> = links.iter().copied().filter(|link| link.similarity > eps).collect();
    join(tokens, &joined)
}

/// Joins the most similar links until `n_sets` sets remain: the threshold that meets a budget exactly.
///
/// Ties go to the lower position. Nothing is split, and nothing is joined against the order of similarity.
///
/// - Errors: [`MergeError::BudgetUnreachable`] when too few links exist; `n_protected` is for its numbers only.
/// - Cost:   O(T log T)
pub fn sets_for_budget(
    tokens: Vec<u32>,
    links: &[Link],
    n_sets: usize,
    n_protected: usize,
) -> Result<MergingSets, MergeError> {
    let to_join = tokens.len().saturating_sub(n_sets);
    let mut usable: Vec<Link> = links.iter().copied().filter(|link| !link.similarity.is_nan()).collect();
    if usable.len() < to_join {
        return Err(MergeError::BudgetUnreachable {
            reachable: n_protected + tokens.len() - usable.len(),
            budget_tokens: n_protected + n_sets,
        });
    }
    usable.sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.rank.cmp(&b.rank)));
    usable.truncate(to_join);
    Ok(join(tokens, &usable))
}

fn join(tokens: Vec<u32>, joined: &[Link]) -> MergingSets {
    let mut joins_next = vec![false; tokens.len()];
    for link in joined {
        joins_next[link.rank as usize] = true;
    }
    let mut sets = Vec::with_capacity(tokens.len() - joined.len());
    let mut start = 0;
    for (rank, joins) in joins_next.iter().enumerate() {
        if !joins {
            sets.push(start..rank + 1);
            start = rank + 1;
        }
    }
    let lowest_joined = joined.iter().map(|link| link.similarity).min_by(f32::total_cmp);
    MergingSets { tokens, sets, lowest_joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys at the given angles (degrees), so that every cosine is that of a difference.
    fn at_angles(degrees: &[f32]) -> Vec<f32> {
        degrees
            .iter()
            .flat_map(|a| [a.to_radians().cos() * (1.0 + a / 90.0), a.to_radians().sin() * (1.0 + a / 90.0)])
            .collect()
    }

    fn members(sets: &MergingSets) -> Vec<Vec<u32>> {
        sets.iter().map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn a_chain_joins_neighbours_and_not_ends() {
        // Steps of 30° (cos 0.866) chain 0-1-2 although the ends are 60° apart (cos 0.5); the step of 80° does not join.
        let keys = at_angles(&[0.0, 30.0, 60.0, 140.0, 150.0]);
        let (tokens, found) = links(Rows::new(&keys, 2), &[false; 5], false);
        assert_eq!(found.iter().map(|l| l.rank).collect::<Vec<_>>(), [3, 2, 1, 0]);
        let sets = sets_above(tokens, &found, 0.75);
        assert_eq!(members(&sets), [vec![0, 1, 2], vec![3, 4]]);
        assert!((sets.lowest_joined.unwrap() - 30f32.to_radians().cos()).abs() < 1e-6);
    }

    #[test]
    fn equality_with_eps_does_not_join() {
        let keys = [3.0, 4.0, 4.0, 3.0];
        let (tokens, found) = links(Rows::new(&keys, 2), &[false; 2], false);
        assert_eq!(found[0].similarity, 0.96);
        assert_eq!(sets_above(tokens.clone(), &found, 0.96).sets.len(), 2);
        assert_eq!(sets_above(tokens, &found, 0.9599).sets.len(), 1);
    }

    #[test]
    fn a_protected_token_cuts_the_chain_unless_bridged() {
        let keys = at_angles(&[0.0, 5.0, 90.0, 10.0, 12.0]);
        let protected = [false, false, true, false, false];
        let (tokens, found) = links(Rows::new(&keys, 2), &protected, false);
        assert_eq!(members(&sets_above(tokens, &found, 0.75)), [vec![0, 1], vec![3, 4]]);
        let (tokens, found) = links(Rows::new(&keys, 2), &protected, true);
        assert_eq!(members(&sets_above(tokens, &found, 0.75)), [vec![0, 1, 3, 4]]);
    }

    #[test]
    fn a_budget_is_met_exactly_in_order_of_similarity() {
        // Gaps 20°, 10°, 40°, 10°: the two gaps of 10° join first, then that of 20°.
        let keys = at_angles(&[0.0, 20.0, 30.0, 70.0, 80.0]);
        let (tokens, found) = links(Rows::new(&keys, 2), &[false; 5], false);
        let with = |n| sets_for_budget(tokens.clone(), &found, n, 0).map(|s| members(&s));
        assert_eq!(with(5).unwrap().len(), 5);
        assert_eq!(with(3).unwrap(), [vec![0], vec![1, 2], vec![3, 4]]);
        assert_eq!(with(2).unwrap(), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(with(1).unwrap(), [vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn an_unreachable_budget_says_what_can_be_reached() {
        let keys = at_angles(&[0.0, 1.0, 2.0, 3.0]);
        let (tokens, found) = links(Rows::new(&keys, 2), &[false, true, false, false], false);
        let error = sets_for_budget(tokens, &found, 1, 1).unwrap_err();
        assert_eq!(error, MergeError::BudgetUnreachable { reachable: 3, budget_tokens: 2 });
    }

    #[test]
    fn keys_without_direction_never_join() {
        let keys = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let (tokens, found) = links(Rows::new(&keys, 2), &[false; 3], false);
        assert!(found.iter().all(|l| l.similarity.is_nan()));
        assert_eq!(sets_above(tokens.clone(), &found, -1.0).sets.len(), 3);
        assert!(sets_for_budget(tokens, &found, 2, 0).is_err());
    }
}

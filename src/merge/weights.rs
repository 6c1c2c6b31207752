//! How the members of a merging set are weighed.

use crate::math::{Rows, squared_distance};
use crate::merge::{Kernel, MergeRule, Sigma, ValueRule};

/// Weights of one set, in the order of its members.
#[derive(Clone, Debug, PartialEq)]
pub struct SetWeights {
    /// Weights of the keys; they sum to 1.
    pub key: Vec<f32>,
    /// Weights of the values; they sum to 1, or to |S| under [`ValueRule::Paper`] when every member is one token.
    pub value: Vec<f32>,
    /// Added to the pivot's own logit bias, in nats.
    pub logit_bias: f32,
}

/// A head's slots as merging sees them.
#[derive(Clone, Copy, Debug)]
pub struct SlotStates<'a> {
    /// Keys, `[T, D]`.
    pub keys: Rows<'a>,
    /// Attention mass, `[T]`.
    pub mass: &'a [f32],
    /// Tokens that each slot stands for, `[T]`; `None` when all stand for one.
    pub counts: Option<&'a [u32]>,
    /// Logit bias of each slot in nats, `[T]`; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
}

impl<'a> SlotStates<'a> {
    /// Slots of one token each.
    pub fn new(keys: Rows<'a>, mass: &'a [f32]) -> Self {
        Self { keys, mass, counts: None, logit_bias: None }
    }
}

/// Position within `set` of its pivot: the member of largest worth (attention mass as published), the earliest of equals.
pub fn pivot(set: &[u32], worth: &[f32]) -> usize {
    let mut best = 0;
    for i in 1..set.len() {
        if worth[set[i] as usize] > worth[set[best] as usize] {
            best = i;
        }
    }
    best
}

/// Weights of a set's members for its merged key and value.
///
/// w_i = c_i g_i / Σ_j c_j g_j with g of the chosen [`Kernel`], g_p = 1, and c the tokens that a member stands for: 1, or
/// more where it is a merged slot itself. So merging again gives what merging all at once would, wherever g does not
/// depend on the other members. Counts and masses add; the bias is never above the log of the summed counts.
///
/// - Shape: set `[S]` slot indices, `p` the pivot's place in it
/// - Unit:  none
/// - Cost:  O(S·D)
/// - Source: arXiv 2407.08454 equations 3 to 5. Differs: sigma, see [`Sigma`]; merged slots, of which it says nothing
pub fn set_weights(slots: SlotStates<'_>, set: &[u32], p: usize, rule: &MergeRule) -> SetWeights {
    let MergeRule { kernel, sigma, variant } = *rule;
    let only_pivot: Vec<f32> = (0..set.len()).map(|i| if i == p { 1.0 } else { 0.0 }).collect();
    if set.len() == 1 || !rule.folds() {
        return SetWeights { key: only_pivot.clone(), value: only_pivot, logit_bias: 0.0 };
    }
    let of_mass = |i: usize| slots.mass[set[i] as usize];
    let count: Vec<f32> = set.iter().map(|i| slots.counts.map_or(1, |counts| counts[*i as usize]) as f32).collect();
    let w = normalised(match kernel {
        Kernel::Gaussian | Kernel::KeyFixed => {
            gaussian(slots.keys, set, p, sigma).iter().zip(&count).map(|(g, c)| g * c).collect()
        }
        // A slot's mass is that of all its tokens already.
        Kernel::Attention if of_mass(p) > 0.0 => (0..set.len()).map(of_mass).collect(),
        Kernel::Attention | Kernel::Uniform | Kernel::Pivot => count.clone(),
    });
    let total_count: f32 = count.iter().sum();
    let log_count = total_count.ln();
    let before = slots.logit_bias.map_or(0.0, |bias| bias[set[p] as usize]);
    let (value, bias) = match variant {
        // A merged slot's value is scaled by its count already.
        ValueRule::Paper => (w.iter().zip(&count).map(|(w, c)| w * total_count / c).collect(), None),
        ValueRule::Convex => (w.clone(), None),
        ValueRule::LogCount => (w.clone(), Some(log_count)),
        // Without any mass the tokens are equals.
        ValueRule::Mass if of_mass(p) <= 0.0 => (normalised(count), Some(log_count)),
        ValueRule::Mass => {
            let total: f32 = (0..set.len()).map(of_mass).sum();
            let bias = before + (total / of_mass(p)).ln();
            (normalised((0..set.len()).map(of_mass).collect()), Some(bias.min(log_count)))
        }
    };
    let logit_bias = bias.map_or(0.0, |bias| bias - before);
    SetWeights { key: if kernel == Kernel::KeyFixed { only_pivot } else { w }, value, logit_bias }
}

fn gaussian(keys: Rows<'_>, set: &[u32], p: usize, sigma: Sigma) -> Vec<f32> {
    let key = |i: usize| keys.row(set[i] as usize);
    let squared: Vec<f32> = (0..set.len()).map(|i| squared_distance(key(p), key(i))).collect();
    let sigma = match sigma {
        Sigma::Fixed(x) => x,
        Sigma::Distance => {
            squared.iter().map(|d| d.sqrt()).sum::<f32>() / (std::f32::consts::SQRT_2 * set.len() as f32)
        }
        // From all g = 1 the printed mean is 1/√2 whatever the keys are.
        Sigma::Printed => std::f32::consts::FRAC_1_SQRT_2,
    };
    // A distance of zero weighs as the pivot does even when sigma is zero too.
    squared.iter().map(|d| if *d == 0.0 { 1.0 } else { (-d / (2.0 * sigma * sigma)).exp() }).collect()
}

fn normalised(mut x: Vec<f32>) -> Vec<f32> {
    let total: f32 = x.iter().sum();
    for v in &mut x {
        *v /= total;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [f32; 6] = [0.0, 0.0, 3.0, 4.0, 0.0, 1.0];
    const SET: [u32; 3] = [0, 1, 2];
    const MASS: [f32; 3] = [0.5, 0.25, 0.25];

    fn of(keys: &[f32], mass: &[f32], rule: MergeRule) -> SetWeights {
        set_weights(SlotStates::new(Rows::new(keys, 2), mass), &SET, pivot(&SET, mass), &rule)
    }

    fn weights(kernel: Kernel, sigma: Sigma, rule: ValueRule) -> SetWeights {
        of(&KEYS, &MASS, MergeRule { kernel, sigma, variant: rule })
    }

    fn close(a: &[f32], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((f64::from(*x) - y).abs() < 1e-6, "{a:?} is not {b:?}");
        }
    }

    #[test]
    fn gaussian_weights_by_hand() {
        // Distances from the pivot (token 0) are 0, 5 and 1. sigma = 6 / (3 √2) = √2, so 2 sigma² = 4:
        // g = 1, e^(-25/4) = 0.00193045, e^(-1/4) = 0.77880078; their sum is 1.78073123.
        let g = weights(Kernel::Gaussian, Sigma::Distance, ValueRule::Paper);
        let expected = [0.561_566_9, 0.001_084_08, 0.437_349_0];
        close(&g.key, &expected);
        close(&g.value, &expected.map(|x| 3.0 * x));
        assert_eq!(g.logit_bias, 0.0);
        // sigma 5: 2 sigma² = 50: g = 1, e^-0.5 = 0.60653066, e^-0.02 = 0.98019867; sum 2.58672933.
        close(
            &weights(Kernel::Gaussian, Sigma::Fixed(5.0), ValueRule::Convex).key,
            &[0.386_588_6, 0.234_477_8, 0.378_933_6],
        );
        // Printed: 2 sigma² = 1: g = 1, e^-25, e^-1 = 0.36787944.
        close(&weights(Kernel::Gaussian, Sigma::Printed, ValueRule::Convex).key, &[0.731_058_6, 0.0, 0.268_941_4]);
    }

    #[test]
    fn values_and_bias_by_hand() {
        let log_count = weights(Kernel::Uniform, Sigma::Distance, ValueRule::LogCount);
        close(&log_count.value, &[1.0 / 3.0; 3]);
        assert!((log_count.logit_bias - 3f32.ln()).abs() < 1e-6);
        // Σ a = 1, a_p = 0.5: log 2, below log 3.
        let by_mass = weights(Kernel::Gaussian, Sigma::Distance, ValueRule::Mass);
        close(&by_mass.value, &[0.5, 0.25, 0.25]);
        assert!((by_mass.logit_bias - 2f32.ln()).abs() < 1e-6);
        // Three equal masses reach the cap exactly.
        let even = of(&KEYS, &[0.2; 3], MergeRule::new(Kernel::Uniform, ValueRule::Mass));
        assert!((even.logit_bias - 3f32.ln()).abs() < 1e-6);
        let none = of(&KEYS, &[0.0; 3], MergeRule::new(Kernel::Attention, ValueRule::Mass));
        close(&none.value, &[1.0 / 3.0; 3]);
        close(&none.key, &[1.0 / 3.0; 3]);
        close(&weights(Kernel::Attention, Sigma::Distance, ValueRule::Convex).key, &[0.5, 0.25, 0.25]);
    }

    /// A merged slot as the next merge sees it.
    struct Merged {
        key: f32,
        value: f32,
        mass: f32,
        count: u32,
        bias: f32,
    }

    fn merged(members: &[Merged], rule: MergeRule) -> Merged {
        let column = |of: fn(&Merged) -> f32| members.iter().map(of).collect::<Vec<f32>>();
        let (keys, values, mass, bias) =
            (column(|m| m.key), column(|m| m.value), column(|m| m.mass), column(|m| m.bias));
        let counts: Vec<u32> = members.iter().map(|m| m.count).collect();
        let set: Vec<u32> = (0..members.len() as u32).collect();
        let slots =
            SlotStates { keys: Rows::new(&keys, 1), mass: &mass, counts: Some(&counts), logit_bias: Some(&bias) };
        let w = set_weights(slots, &set, pivot(&set, &mass), &rule);
        let mixed = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
        Merged {
            key: mixed(&keys, &w.key),
            value: mixed(&values, &w.value),
            mass: mass.iter().sum(),
            count: counts.iter().sum(),
            bias: bias[pivot(&set, &mass)] + w.logit_bias,
        }
    }

    #[test]
    fn merging_again_is_merging_at_once_where_weights_do_not_depend_on_the_set() {
        let token = |(key, value, mass)| Merged { key, value, mass, count: 1, bias: 0.0 };
        let tokens = || [(1.0, 5.0, 0.5), (2.0, -3.0, 2.0), (4.0, 1.0, 0.25), (8.0, 7.0, 1.0)].map(token);
        for kernel in [Kernel::Uniform, Kernel::Attention] {
            for rule in ValueRule::ALL {
                let how = MergeRule::new(kernel, rule);
                let at_once = merged(&tokens(), how);
                let [a, b, c, d] = tokens();
                let again = merged(&[merged(&[a, b], how), c, d], how);
                let what = format!("{kernel:?} {rule:?}");
                assert_eq!(again.count, 4, "{what}");
                for (x, y) in [
                    (again.key, at_once.key),
                    (again.value, at_once.value),
                    (again.mass, at_once.mass),
                    (again.bias, at_once.bias),
                ] {
                    assert!((x - y).abs() < 1e-5, "{what}: {x} is not {y}");
                }
            }
        }
        // By hand: 4 tokens count as log 4, their uniform values scaled by 4 are their sum.
        let uniform = |rule| merged(&tokens(), MergeRule::new(Kernel::Uniform, rule));
        assert!((uniform(ValueRule::LogCount).bias - 4f32.ln()).abs() < 1e-6);
        assert!((uniform(ValueRule::Paper).value - 10.0).abs() < 1e-5);
        assert!((uniform(ValueRule::Mass).bias - (3.75f32 / 2.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn a_merged_slot_weighs_its_tokens() {
        // Members at distances 0, 5 and 1 with 1, 4 and 2 tokens; uniform: 1/7, 4/7, 2/7.
        let counts = [1, 4, 2];
        let slots = SlotStates { counts: Some(&counts), ..SlotStates::new(Rows::new(&KEYS, 2), &MASS) };
        let biased = SlotStates { logit_bias: Some(&[0.5, 0.0, 0.0]), ..slots };
        let w = set_weights(biased, &SET, 0, &MergeRule::new(Kernel::Uniform, ValueRule::LogCount));
        close(&w.key, &[1.0 / 7.0, 4.0 / 7.0, 2.0 / 7.0]);
        assert!((w.logit_bias - (7f32.ln() - 0.5)).abs() < 1e-6);
        // Gaussian, g = 1, 0.00193045, 0.77880078 as above: 1, 0.0077218, 1.55760157; sum 2.56532337.
        let w = set_weights(slots, &SET, 0, &MergeRule::new(Kernel::Gaussian, ValueRule::Convex));
        close(&w.key, &[0.389_814_4, 0.003_010_1, 0.607_175_5]);
    }

    #[test]
    fn pivot_kernel_is_eviction_and_key_fixed_keeps_the_key() {
        for rule in ValueRule::ALL {
            let w = weights(Kernel::Pivot, Sigma::Distance, rule);
            assert_eq!((w.key, w.value, w.logit_bias), (vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0], 0.0));
        }
        let fixed = weights(Kernel::KeyFixed, Sigma::Distance, ValueRule::Convex);
        assert_eq!(fixed.key, [1.0, 0.0, 0.0]);
        close(&fixed.value, &[0.561_566_9, 0.001_084_08, 0.437_349_0]);
    }

    #[test]
    fn identical_keys_weigh_the_same() {
        let keys = [2.0f32; 6];
        let w = of(&keys, &MASS, MergeRule::new(Kernel::Gaussian, ValueRule::Convex));
        close(&w.key, &[1.0 / 3.0; 3]);
    }

    #[test]
    fn pivot_ties_go_to_the_earlier_token() {
        assert_eq!(pivot(&[3, 5, 6], &[9.0, 9.0, 9.0, 0.5, 9.0, 0.7, 0.7]), 1);
    }
}

//! Words for numbers: how a share, an interval and the outcome of a comparison are written, the same in every verdict.

use std::cmp::Ordering;

use crate::math::{Interval, Paired, sign_test_needs};

/// A share in percent: `43.2 %`.
pub fn percent(share: f64, decimals: usize) -> String {
    format!("{:.decimals$} %", 100.0 * share)
}

/// A share in percent with its interval: `43.2 % (40.0 to 51.0)`.
pub fn percent_interval(share: Interval, decimals: usize) -> String {
    percent(share.estimate, decimals) + &bracketed(share.times(100.0), decimals)
}

/// What goes behind an estimate: ` (0.40 to 0.51)`; nothing where the ends are not known.
pub fn bracketed(interval: Interval, decimals: usize) -> String {
    ends(interval, decimals).map_or_else(String::new, |ends| format!(" ({ends})"))
}

/// `a, b and c`.
pub fn listed<T: AsRef<str>>(parts: &[T]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.as_ref().into(),
        [all @ .., last] => {
            let all: Vec<&str> = all.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", all.join(", "), last.as_ref())
        }
    }
}

/// Both ends of an interval: `0.40 to 0.51`; `None` where they are not known.
pub fn ends(interval: Interval, decimals: usize) -> Option<String> {
    let (low, high) = interval.low.zip(interval.high)?;
    Some(format!("{low:.decimals$} to {high:.decimals$}"))
}

/// `95 % interval 0.40 to 0.51`.
pub fn interval(interval: Interval, decimals: usize) -> String {
    ends(interval, decimals).map_or_else(|| "no interval from one text".into(), |ends| format!("95 % interval {ends}"))
}

/// `1.20 times` and, in brackets, the interval, and that no difference is shown where none is; `None` without a ratio.
pub fn times(found: &Paired, what: &str) -> Option<String> {
    let ratio = found.ratio?;
    let doubt = match found.direction() {
        Some(_) => String::new(),
        None if found.has_too_few() => format!("; too few texts to tell{}", reason(found)),
        None => format!("; no difference is shown{}", reason(found)),
    };
    Some(format!("{:.2} times {what} ({}{doubt})", ratio.estimate, interval(ratio, 2)))
}

/// Why no direction is shown where the interval may seem to show one: what the sign test lacks. Empty where the interval says
/// nothing, either.
fn reason(found: &Paired) -> String {
    let Some(needs) = sign_test_needs(found.difference.n) else {
        let n = found.difference.n;
        let texts = if n == 1 { "text" } else { "texts" };
        return format!(": a sign test on {n} {texts} cannot reach 5 %, as at least 6 are needed");
    };
    if found.direction().is_some() || !found.difference.leaves_out_0() {
        return String::new();
    }
    let (agree, n) = (found.lower.max(found.higher), found.difference.n);
    format!(": only {agree} of {n} texts agree, and the sign test asks for {needs}")
}

/// What a comparison of `a` with `b` shows. A direction is told only where [`Paired::direction`] has one.
pub fn outcome(a: &str, b: &str, found: &Paired, less_is_better: bool) -> String {
    match found.direction() {
        Some(direction) if (direction == Ordering::Less) == less_is_better => format!("{a} beats {b}"),
        Some(_) => format!("{a} is worse than {b}"),
        None if found.has_too_few() => format!("there are too few texts to tell {a} from {b}{}", reason(found)),
        None => format!("no difference is shown between {a} and {b}{}", reason(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::{Resamples, paired};

    #[test]
    fn a_direction_is_told_where_it_is_shown() {
        let says = |a: &[f64]| {
            let found = paired(a, &vec![2.0; a.len()], Resamples::of_means(1)).unwrap();
            (outcome("x", "y", &found, true), times(&found, "y").unwrap())
        };
        let (outcome, times) = says(&[1.0; 6]);
        assert_eq!((outcome.as_str(), times.as_str()), ("x beats y", "0.50 times y (95 % interval 0.50 to 0.50)"));
        assert_eq!(says(&[3.0; 6]).0, "x is worse than y");
        let (outcome, times) = says(&[1.0, 3.0, 1.0, 3.0, 1.0, 3.0]);
        assert_eq!(outcome, "no difference is shown between x and y");
        assert!(times.starts_with("1.00 times y (95 % interval 0.") && times.ends_with("; no difference is shown)"));
        // Five that agree are too few: 2 / 32 is more than 5 %.
        let (outcome, times) = says(&[1.0; 5]);
        let why = |n| format!(": a sign test on {n} cannot reach 5 %, as at least 6 are needed");
        assert_eq!(outcome, format!("there are too few texts to tell x from y{}", why("5 texts")));
        assert_eq!(
            times,
            format!("0.50 times y (95 % interval 0.50 to 0.50; too few texts to tell{})", why("5 texts"))
        );
        let one = format!("0.50 times y (no interval from one text; too few texts to tell{})", why("1 text"));
        assert_eq!(says(&[1.0]).1, one);
        // An interval that leaves out 0 beside a sign test that does not see it: 5 of 6 texts a lot lower.
        let (outcome, _) = says(&[0.5, 0.5, 0.5, 0.5, 0.5, 2.1]);
        let why = ": only 5 of 6 texts agree, and the sign test asks for 6";
        assert_eq!(outcome, format!("no difference is shown between x and y{why}"));
    }

    #[test]
    fn lists_end_in_and() {
        assert_eq!([&[][..], &["a"], &["a", "b"], &["a", "b", "c"]].map(listed), ["", "a", "a and b", "a, b and c"]);
    }

    #[test]
    fn shares_are_written_in_percent() {
        let share = Interval { estimate: 0.4321, low: Some(0.4), high: Some(0.51), n: 3 };
        assert_eq!(percent_interval(share, 1), "43.2 % (40.0 to 51.0)");
        assert_eq!(percent_interval(Interval { low: None, ..share }, 0), "43 %");
    }
}

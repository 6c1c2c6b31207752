//! Numbers that options take: each parser says what range it takes, and clap names the option.

use std::str::FromStr;

/// Threads beyond this are a typing error: each of them takes memory, and no machine has as many cores.
const MAX_THREADS: usize = 1024;

fn within<T: FromStr>(text: &str, is_in: impl Fn(&T) -> bool, range: &str) -> Result<T, String> {
    text.trim().parse().ok().filter(is_in).ok_or_else(|| format!("give {range}"))
}

/// A whole number of at least 1.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    within(text, |n| *n >= 1, "a whole number of at least 1")
}

/// Threads of a pool.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    within(text, |n| (1..=MAX_THREADS).contains(n), &format!("a whole number from 1 to {MAX_THREADS}"))
}

/// A share that may be nothing or everything.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    of_share(text, |x| (0.0..=1.0).contains(x), "a share in [0, 1]")
}

/// A share of something to keep: not nothing.
pub(crate) fn kept_share(text: &str) -> Result<f64, String> {
    of_share(text, |x| *x > 0.0 && *x <= 1.0, "a share in (0, 1]")
}

/// A share of something to keep that leaves something out.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    of_share(text, |x| *x > 0.0 && *x < 1.0, "a share in (0, 1)")
}

/// As [`within`]; what looks like a percentage is told as the share that it is.
fn of_share(text: &str, is_in: impl Fn(&f64) -> bool, range: &str) -> Result<f64, String> {
    let percent = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    let meant = percent.filter(|x| *x > 1.0).map(|x| x / 100.0).filter(&is_in);
    let range = meant.map_or_else(|| range.into(), |share| format!("{range}, such as {share} for {} %", 100.0 * share));
    within(text, is_in, &range)
}

/// A number of at least 0.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    within(text, |x: &f64| x.is_finite() && *x >= 0.0, "a number of at least 0")
}

/// A threshold on a cosine.
pub(crate) fn cosine(text: &str) -> Result<f32, String> {
    within(text, |x| (-1.0..1.0).contains(x), "a cosine in [-1, 1)")
}

/// Bytes, as `2GB`, `1.5 GiB` or `800000000`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "tb" => Some(1e12),
        "kib" => Some(1024.0),
        "mib" => Some(1024f64.powi(2)),
        "gib" => Some(1024f64.powi(3)),
        "tib" => Some(1024f64.powi(4)),
        _ => None,
    };
    let number = text[..digits].parse::<f64>().ok();
    number.zip(unit).map(|(number, unit)| (number * unit) as u64).ok_or("give a size such as 2GB or 1.5GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(bytes("800000000"), Ok(800_000_000));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(1_610_612_736));
        for bad in ["", "GB", "2 apples", "-1GB", "50%", "1.2.3"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_and_what_is_no_number() {
        let nothing = ["", "x", "nan", "inf", "-inf", "1e999", "-1"];
        for bad in nothing {
            for faulty in [share(bad), kept_share(bad), part(bad), not_negative(bad)] {
                assert!(faulty.is_err(), "{bad}");
            }
            assert!(count(bad).is_err() && threads(bad).is_err(), "{bad}");
            assert!(cosine(bad).is_err() || bad == "-1", "{bad}");
        }
        assert_eq!((share("0"), share("1"), share("1.1").is_err()), (Ok(0.0), Ok(1.0), true));
        assert_eq!((kept_share("0").is_err(), kept_share("1"), part("1").is_err()), (true, Ok(1.0), true));
        assert_eq!(part("50"), Err("give a share in (0, 1), such as 0.5 for 50 %".into()));
        assert_eq!(kept_share("35 %"), Err("give a share in (0, 1], such as 0.35 for 35 %".into()));
        assert_eq!(part("250"), Err("give a share in (0, 1)".into()));
        assert_eq!((cosine("1").is_err(), cosine("-1"), count(" 3 ")), (true, Ok(-1.0), Ok(3)));
        assert_eq!((count("0").is_err(), threads("1024"), threads("1025").is_err()), (true, Ok(1024), true));
    }
}

//! The date that chat templates see. It never changes: a prompt must not depend on the day it is made.

use minijinja::{Error, ErrorKind};

/// `strftime_now` of chat templates: 26 July 2024, midnight, the date that Llama's own templates fall back to.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        // `%-d` is `%d` without the leading zero.
        let is_bare = code == Some('-');
        if is_bare {
            code = chars.next();
        }
        let text = code.and_then(directive).ok_or_else(|| {
            let code = code.map(String::from).unwrap_or_default();
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{code}"))
        })?;
        let bare = text.trim_start_matches(['0', ' ']);
        out.push_str(match is_bare {
            true if bare.is_empty() => "0",
            true => bare,
            false => text,
        });
    }
    Ok(out)
}

fn directive(code: char) -> Option<&'static str> {
    Some(match code {
        'a' => "Fri",
        'A' => "Friday",
        'b' | 'h' => "Jul",
        'B' => "July",
        'c' => "Fri Jul 26 00:00:00 2024",
        'd' | 'e' => "26",
        'D' | 'x' => "07/26/24",
        'F' => "2024-07-26",
        'G' | 'Y' => "2024",
        'H' | 'M' | 'S' => "00",
        'I' => "12",
        'j' => "208",
        'm' => "07",
        'p' => "AM",
        'R' => "00:00",
        'T' | 'X' => "00:00:00",
        'u' | 'w' => "5",
        'y' => "24",
        'z' => "+0000",
        'Z' => "UTC",
        '%' => "%",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_llamas() {
        assert_eq!(strftime_now("%d %b %Y").unwrap(), "26 Jul 2024");
        assert_eq!(strftime_now("%A, %B %-d, %Y; %-m %-H %j 100%%").unwrap(), "Friday, July 26, 2024; 7 0 208 100%");
        for wrong in ["%Q", "%", "%-", "%é"] {
            assert!(strftime_now(wrong).unwrap_err().to_string().contains("does not know %"), "{wrong}");
        }
    }
}

//! Names that options take: help and errors list the rows of a table, so a new row needs no new text.

use std::fmt::Display;

/// The names of all rows, in words.
pub(crate) fn names<N: Display>(names: impl IntoIterator<Item = N>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A parser of one row's name.
pub(crate) fn one_of<T: Sync>(
    what: &'static str,
    table: &'static [T],
    name: fn(&T) -> &'static str,
) -> impl Fn(&str) -> Result<&'static T, String> + Clone {
    move |text: &str| {
        let found = table.iter().find(|row| name(row) == text.trim());
        found.ok_or_else(|| format!("there is no {what} {text:?}: choose one of {}", names(table.iter().map(name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_name() {
        let parse = one_of("fruit", &["apple", "fig", "plum"], |name| name);
        assert_eq!(parse(" fig "), Ok(&"fig"));
        assert_eq!(parse("pear").unwrap_err(), "there is no fruit \"pear\": choose one of apple, fig or plum");
        assert_eq!((names(["a"]), names([""; 0])), ("a".into(), String::new()));
    }
}

//! The numbers of a drawing in tidy form, for its CSV file: a line for each value, columns named with their units.

use crate::report::text::clean;

/// What the titles of axes say of their scale, which the numbers do not have.
const LOG: &str = " (log scale)";

/// What a drawing shows, as lines of cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(|name| name.trim_end_matches(LOG).into()).collect(), rows: Vec::new() }
    }

    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// RFC 4180, UTF-8, lines that end in a line feed. An empty cell is no data.
    pub fn csv(&self) -> String {
        let line = |cells: &Vec<String>| {
            let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
            cells.join(",") + "\n"
        };
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

/// A number with all its digits; nothing where it is not known.
pub(super) fn cell(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(String::new, |value| value.to_string())
}

fn quoted(text: &str) -> String {
    let text = clean(text);
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        let mut table = Table::new(["Slots kept, % (log scale)", "name"]);
        table.push([cell(Some(-12.5)), "a \"b\"\nc".into()]);
        table.push([cell(None), cell(Some(f64::NAN))]);
        assert_eq!(table.csv(), "\"Slots kept, %\",name\n-12.5,\"a \"\"b\"\" c\"\n,\n");
    }
}

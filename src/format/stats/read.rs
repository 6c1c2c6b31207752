//! Reads `stats.parquet` back: every figure of every head, by sample.

use std::collections::BTreeMap;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::{Field, Row};

use crate::files::open_regular;
use crate::format::FormatError;

/// What a figure is of: metric, state, and eps, budget and rule where they apply, as text that sorts and compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FigureKey {
    pub(crate) metric: String,
    pub(crate) state: String,
    pub(crate) eps: Option<String>,
    pub(crate) budget: Option<String>,
    pub(crate) rule: Option<String>,
}

/// Data set and row id.
pub(crate) type SampleKey = (String, String);

/// Values by figure, then sample, then head (layer, KV head).
pub(crate) type Stats = BTreeMap<FigureKey, BTreeMap<SampleKey, BTreeMap<(usize, usize), f64>>>;

/// Figures for which `wanted` holds; unknown values are left out.
pub(crate) fn read_stats(path: &Path, wanted: &dyn Fn(&FigureKey) -> bool) -> Result<Stats, FormatError> {
    let fault = |source| FormatError::Table { path: path.into(), source };
    let file = open_regular(path)?;
    let reader = SerializedFileReader::new(file).map_err(fault)?;
    let mut stats = Stats::new();
    for row in reader.get_row_iter(None).map_err(fault)? {
        let Some((key, sample, head, value)) = row.and_then(|row| read_row(&row)).map_err(fault)? else { continue };
        if wanted(&key) {
            stats.entry(key).or_default().entry(sample).or_default().insert(head, value);
        }
    }
    Ok(stats)
}

type Line = (FigureKey, SampleKey, (usize, usize), f64);

/// `None` for a row without value.
fn read_row(row: &Row) -> Result<Option<Line>, ParquetError> {
    let mut fields: BTreeMap<&str, &Field> =
        row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
    let mut take = |name: &str| {
        fields.remove(name).ok_or_else(|| ParquetError::General(format!("the table has no column {name}")))
    };
    let wrong = |name: &str| ParquetError::General(format!("column {name} has another type than it should"));
    let text = |name: &str, field: &Field| match field {
        Field::Str(text) => Ok(Some(text.clone())),
        Field::Null => Ok(None),
        _ => Err(wrong(name)),
    };
    let whole = |name: &str, field: &Field| match field {
        Field::Int(n) => usize::try_from(*n).map_err(|_| wrong(name)),
        _ => Err(wrong(name)),
    };
    let some = |name: &str, field: &Field| text(name, field)?.ok_or_else(|| wrong(name));
    let value = match take("value")? {
        Field::Double(value) => *value,
        Field::Null => return Ok(None),
        _ => return Err(wrong("value")),
    };
    let number = |name: &str, field: &Field| match field {
        Field::Float(x) => Ok(Some(x.to_string())),
        Field::Double(x) => Ok(Some(x.to_string())),
        Field::Null => Ok(None),
        _ => Err(wrong(name)),
    };
    let key = FigureKey {
        metric: some("metric", take("metric")?)?,
        state: some("state", take("state")?)?,
        eps: number("eps", take("eps")?)?,
        budget: number("budget", take("budget")?)?,
        rule: text("rule", take("rule")?)?,
    };
    let sample = (some("dataset", take("dataset")?)?, some("sample", take("sample")?)?);
    let head = (whole("layer", take("layer")?)?, whole("kv_head", take("kv_head")?)?);
    Ok(Some((key, sample, head, value)))
}

/// What a table says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// Names and texts in its footer, by name.
    pub metadata: BTreeMap<String, String>,
    /// Its columns.
    pub columns: Vec<String>,
    /// Its rows.
    pub n_rows: usize,
    /// Rows with a value by metric.
    pub metrics: BTreeMap<String, usize>,
}

/// What a table holds.
///
/// - Errors: a file that is no table of figures
pub fn facts(path: &Path) -> Result<TableFacts, FormatError> {
    let fault = |source| FormatError::Table { path: path.into(), source };
    let file = open_regular(path)?;
    let reader = SerializedFileReader::new(file).map_err(fault)?;
    let footer = reader.metadata().file_metadata();
    let words = footer.key_value_metadata().into_iter().flatten();
    // The schema in Arrow's words, which some writers add, is for programs.
    let metadata = words.filter(|word| word.key != "ARROW:schema");
    let metadata = metadata.map(|word| (word.key.clone(), word.value.clone().unwrap_or_default())).collect();
    let columns = footer.schema_descr().columns().iter().map(|column| column.name().to_string()).collect();
    let n_rows = usize::try_from(footer.num_rows()).unwrap_or_default();
    let mut metrics = BTreeMap::new();
    for (key, samples) in read_stats(path, &|_| true)? {
        *metrics.entry(key.metric).or_default() += samples.values().map(BTreeMap::len).sum::<usize>();
    }
    Ok(TableFacts { metadata, columns, n_rows, metrics })
}

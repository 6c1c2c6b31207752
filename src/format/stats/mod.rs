//! `stats.parquet`: one row per sample, head, state and figure.

mod read;

pub(crate) use read::{FigureKey, SampleKey, Stats, read_stats};
pub use read::{TableFacts, facts};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::files::{AtomicFile, HashingWriter, ModelIdentity, TOOL_VERSION};
use crate::format::FormatError;
use crate::format::dump::{SampleEntry, State};

/// The schema's name.
pub const NAME: &str = "kvscope.stats";
/// Name of the table in the analysis' folder.
pub(crate) const TABLE_FILE: &str = "stats.parquet";
/// Rows of a row group, which is what is held in memory.
const GROUP_ROWS: usize = 1 << 17;

const SCHEMA: &str = "message kvscope_stats {
    required binary dataset (string);
    required binary sample (string);
    required int64 n_tokens;
    required int32 layer;
    required int32 kv_head;
    required binary state (string);
    required binary metric (string);
    optional float eps;
    optional double budget;
    optional binary rule (string);
    optional double value;
}";

/// Faults of a table, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    read_stats(path, &|_| false).err().map(|error| error.to_string()).into_iter().collect()
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatsRow<'a> {
    pub(crate) sample: &'a SampleEntry,
    pub(crate) layer: usize,
    pub(crate) kv_head: usize,
    pub(crate) state: State,
    pub(crate) metric: &'static str,
    pub(crate) eps: Option<f32>,
    pub(crate) budget: Option<f64>,
    pub(crate) rule: Option<&'static str>,
    pub(crate) value: Option<f64>,
}

/// The columns of the open row group.
#[derive(Debug, Default)]
struct Columns {
    dataset: Vec<ByteArray>,
    sample: Vec<ByteArray>,
    n_tokens: Vec<i64>,
    layer: Vec<i32>,
    kv_head: Vec<i32>,
    state: Vec<ByteArray>,
    metric: Vec<ByteArray>,
    eps: Vec<f32>,
    eps_levels: Vec<i16>,
    budget: Vec<f64>,
    budget_levels: Vec<i16>,
    rule: Vec<ByteArray>,
    rule_levels: Vec<i16>,
    value: Vec<f64>,
    value_levels: Vec<i16>,
    /// Texts of the sample that the last row was of, shared by all of its rows.
    texts: (ByteArray, ByteArray),
}

/// An open table; it appears under its name at the end.
pub(crate) struct StatsTable {
    path: PathBuf,
    writer: SerializedFileWriter<HashingWriter<AtomicFile>>,
    columns: Columns,
}

impl StatsTable {
    pub(crate) fn create(path: &Path, model: &ModelIdentity) -> Result<Self, FormatError> {
        let fault = |source| FormatError::Table { path: path.into(), source };
        let note = |key: &str, text: &str| KeyValue::new(key.into(), text.to_string());
        let notes = vec![
            note("schema", &format!("{NAME}/1")),
            note("tool", TOOL_VERSION),
            note("model", &model.name),
            note("model_fingerprint", &model.fingerprint),
        ];
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(notes))
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(fault)?);
        let file = HashingWriter::new(AtomicFile::create(path)?);
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(fault)?;
        Ok(Self { path: path.into(), writer, columns: Columns::default() })
    }

    pub(crate) fn push(&mut self, row: &StatsRow<'_>) -> Result<(), FormatError> {
        self.columns.push(row);
        if self.columns.layer.len() < GROUP_ROWS {
            return Ok(());
        }
        self.flush()
    }

    /// Puts the table under its name; its digest.
    pub(crate) fn finish(mut self) -> Result<String, FormatError> {
        self.flush()?;
        let path = self.path;
        let file = self.writer.into_inner().map_err(|source| FormatError::Table { path, source })?;
        let (file, sha256, _) = file.finish();
        file.commit()?;
        Ok(sha256)
    }

    fn flush(&mut self) -> Result<(), FormatError> {
        let columns = std::mem::take(&mut self.columns);
        if columns.layer.is_empty() {
            return Ok(());
        }
        columns.write(&mut self.writer).map_err(|source| FormatError::Table { path: self.path.clone(), source })
    }
}

impl Columns {
    fn push(&mut self, row: &StatsRow<'_>) {
        let SampleEntry { dataset, id, n_tokens, .. } = row.sample;
        let texts = &mut self.texts;
        for (kept, text) in [(&mut texts.0, dataset), (&mut texts.1, id)] {
            if self.layer.is_empty() || kept.data() != text.as_bytes() {
                *kept = ByteArray::from(text.as_str());
            }
        }
        self.dataset.push(texts.0.clone());
        self.sample.push(texts.1.clone());
        self.n_tokens.push(*n_tokens as i64);
        self.layer.push(row.layer as i32);
        self.kv_head.push(row.kv_head as i32);
        self.state.push(ByteArray::from(row.state.name()));
        self.metric.push(ByteArray::from(row.metric));
        self.eps.extend(row.eps);
        self.eps_levels.push(i16::from(row.eps.is_some()));
        self.budget.extend(row.budget);
        self.budget_levels.push(i16::from(row.budget.is_some()));
        self.rule.extend(row.rule.map(ByteArray::from));
        self.rule_levels.push(i16::from(row.rule.is_some()));
        self.value.extend(row.value);
        self.value_levels.push(i16::from(row.value.is_some()));
    }

    fn write(&self, writer: &mut SerializedFileWriter<HashingWriter<AtomicFile>>) -> Result<(), ParquetError> {
        let mut group = writer.next_row_group()?;
        column::<ByteArrayType>(&mut group, &self.dataset, None)?;
        column::<ByteArrayType>(&mut group, &self.sample, None)?;
        column::<Int64Type>(&mut group, &self.n_tokens, None)?;
        column::<Int32Type>(&mut group, &self.layer, None)?;
        column::<Int32Type>(&mut group, &self.kv_head, None)?;
        column::<ByteArrayType>(&mut group, &self.state, None)?;
        column::<ByteArrayType>(&mut group, &self.metric, None)?;
        column::<FloatType>(&mut group, &self.eps, Some(&self.eps_levels))?;
        column::<DoubleType>(&mut group, &self.budget, Some(&self.budget_levels))?;
        column::<ByteArrayType>(&mut group, &self.rule, Some(&self.rule_levels))?;
        column::<DoubleType>(&mut group, &self.value, Some(&self.value_levels))?;
        group.close().map(drop)
    }
}

/// Writes the next column of the schema; `levels` are 1 where a value is present.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, HashingWriter<AtomicFile>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("more columns than the schema has".into()));
    };
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

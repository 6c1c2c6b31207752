//! `explorer.safetensors`: what the page's explorer shows of some samples: the texts of their tokens, for every head how alike neighbours
//! are and how much attention each token got, and of a few heads the states themselves.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::files::{
    Document, FileError, InputHash, ModelIdentity, is_inside, parse_json, read_own, sha256_bytes, sha256_own,
};
use crate::format::FormatError;
use crate::format::dump::{DumpError, SampleWriter, State, TensorSpec};
use crate::math::Float;

/// Name of the file within the analysis' folder.
pub const FILE: &str = "explorer.safetensors";
/// Longest sample that is explored.
pub const MAX_TOKENS: usize = 1 << 15;
/// Most query heads of a layer.
const MAX_Q_HEADS: usize = 1 << 16;
/// The header's word under which [`Explorer`] stands.
const WORD: &str = "kvscope";
/// Up to so many tokens the highest cosines of blocks are quickly found from the states.
const BLOCKS_FROM: usize = 2048;
/// Blocks a side of [`ExplorerTensor::Highest`], at most.
const MAX_BLOCKS: usize = 512;

/// What the file holds: the word in its header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explorer {
    /// `kvscope.explorer/1`.
    pub schema: String,
    /// Whose states these are.
    pub model: ModelIdentity,
    /// The samples.
    pub samples: Vec<ExploredSample>,
}

impl Document for Explorer {
    const NAME: &'static str = "kvscope.explorer";
    const VERSION: u32 = 1;
    const MAX_BYTES: u64 = 1 << 31;
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExploredSample {
    /// Its data set.
    pub dataset: String,
    /// Its row id.
    pub id: String,
    /// Tokens T, 1 to [`MAX_TOKENS`].
    pub n_tokens: usize,
    /// What every token adds to the text of those before it; `None` where the dump does not tell.
    pub token_texts: Option<Vec<String>>,
    /// Layer and KV head of the rows of links and masses; none where keys or masses were not captured.
    pub heads: Vec<[usize; 2]>,
    /// Element type of the states.
    pub dtype: Float,
    /// Kept queries of every query head; 0 where none were captured.
    pub n_queries: usize,
    /// States that are held.
    pub states: Vec<State>,
    /// Layer and KV head of which states are held, the most telling first.
    pub shown: Vec<[usize; 2]>,
    /// Policies as typed, in whose scores' order the tokens of `heads` are held; none in files of earlier versions.
    #[serde(default)]
    pub orders: Vec<String>,
}

/// A tensor of the file; numbers are places in lists of [`Explorer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplorerTensor {
    /// Positions of a layer's kept queries, `[n_q]`, I64. Of a sample and layer.
    Positions(usize, usize),
    /// cos(k_t, k_{t+1}) of every head, `[heads, T - 1]`, F32; NaN where one of them has no direction. Of a sample.
    Links(usize),
    /// Attention mass over all queries, `[heads, T]`, F32. Of a sample.
    Mass(usize),
    /// Vectors `[T, D]`, or the group's kept queries, one query head behind the other, `[group · n_q, D]`. Of a sample and head.
    State(usize, [usize; 2], State),
    /// The highest cosine of two different tokens in every square of blocks, `[side, side]`, U8: 0 for -1 to 254 for 1, 255 for none.
    Highest(usize, [usize; 2], State),
    /// Tokens of every head, the one first that a score says is worth most, `[heads, T]`, U16. Of a sample and a policy.
    Order(usize, usize),
}

impl ExplorerTensor {
    /// The number of its sample.
    pub fn sample(self) -> usize {
        match self {
            Self::Positions(sample, _)
            | Self::Links(sample)
            | Self::Mass(sample)
            | Self::State(sample, ..)
            | Self::Highest(sample, ..)
            | Self::Order(sample, _) => sample,
        }
    }

    /// Its name in the file.
    pub fn name(self) -> String {
        let of_head = |sample: usize, [layer, head]: [usize; 2], state: State| {
            format!("samples.{sample}.layers.{layer}.heads.{head}.{}", state.name())
        };
        match self {
            Self::Positions(sample, layer) => format!("samples.{sample}.layers.{layer}.q_positions"),
            Self::Links(sample) => format!("samples.{sample}.links"),
            Self::Mass(sample) => format!("samples.{sample}.attn_mass"),
            Self::State(sample, head, state) => of_head(sample, head, state),
            Self::Highest(sample, head, state) => of_head(sample, head, state) + ".highest",
            Self::Order(sample, policy) => format!("samples.{sample}.orders.{policy}"),
        }
    }
}

/// Tokens a block, a power of two, and blocks a side, a multiple of 8, of the highest cosines; `None` where the sample is short.
pub fn blocks(n_tokens: usize) -> Option<(usize, usize)> {
    let block = (n_tokens.div_ceil(MAX_BLOCKS)).next_power_of_two();
    (n_tokens > BLOCKS_FROM).then(|| (block, n_tokens.div_ceil(block).next_multiple_of(8)))
}

impl Explorer {
    /// The tensors in the order of the file: those of four bytes and more begin at multiples of four.
    pub fn tensors(&self) -> Vec<ExplorerTensor> {
        let mut tensors = Vec::new();
        for (number, sample) in self.samples.iter().enumerate().filter(|(_, sample)| sample.n_queries > 0) {
            let mut layers: Vec<usize> = sample.shown.iter().map(|head| head[0]).collect();
            layers.sort_unstable();
            layers.dedup();
            tensors.extend(layers.into_iter().map(|layer| ExplorerTensor::Positions(number, layer)));
        }
        for (number, sample) in self.samples.iter().enumerate() {
            if !sample.heads.is_empty() {
                tensors.extend([ExplorerTensor::Links(number), ExplorerTensor::Mass(number)]);
            }
            for head in &sample.shown {
                for state in &sample.states {
                    tensors.push(ExplorerTensor::State(number, *head, *state));
                    if blocks(sample.n_tokens).is_some() {
                        tensors.push(ExplorerTensor::Highest(number, *head, *state));
                    }
                }
                if sample.n_queries > 0 {
                    tensors.push(ExplorerTensor::State(number, *head, State::Q));
                }
            }
        }
        for (number, sample) in self.samples.iter().enumerate().filter(|(_, sample)| !sample.heads.is_empty()) {
            tensors.extend((0..sample.orders.len()).map(|policy| ExplorerTensor::Order(number, policy)));
        }
        tensors
    }

    /// What a tensor is.
    pub fn spec(&self, tensor: ExplorerTensor) -> TensorSpec {
        let dim = self.model.head_dim;
        let of = |number: usize| &self.samples[number];
        let (element, shape) = match tensor {
            ExplorerTensor::Positions(number, _) => (Dtype::I64, vec![of(number).n_queries]),
            ExplorerTensor::Links(number) => (Dtype::F32, vec![of(number).heads.len(), of(number).n_tokens - 1]),
            ExplorerTensor::Mass(number) => (Dtype::F32, vec![of(number).heads.len(), of(number).n_tokens]),
            ExplorerTensor::State(number, _, State::Q) => {
                (of(number).dtype.into(), vec![self.model.group() * of(number).n_queries, dim])
            }
            ExplorerTensor::State(number, ..) => (of(number).dtype.into(), vec![of(number).n_tokens, dim]),
            ExplorerTensor::Highest(number, ..) => {
                (Dtype::U8, vec![blocks(of(number).n_tokens).map_or(0, |(_, side)| side); 2])
            }
            ExplorerTensor::Order(number, _) => (Dtype::U16, vec![of(number).heads.len(), of(number).n_tokens]),
        };
        TensorSpec { name: tensor.name(), element, shape }
    }

    /// What is impossible in it, in words.
    fn fault(&self) -> Option<String> {
        let (model, mut seen) = (&self.model, HashSet::new());
        let (n_q_heads, n_kv_heads, dim) = (model.n_q_heads, model.n_kv_heads, model.head_dim);
        if n_kv_heads == 0 || n_kv_heads > n_q_heads || n_q_heads > MAX_Q_HEADS || dim == 0 {
            return Some(format!("a model of {n_q_heads} query heads and {n_kv_heads} KV heads of {dim}"));
        }
        for sample in &self.samples {
            let name = format!("{}/{}", sample.dataset, sample.id);
            if !(1..=MAX_TOKENS).contains(&sample.n_tokens) {
                return Some(format!("{name} has {} tokens; 1 to {MAX_TOKENS} are explored", sample.n_tokens));
            }
            if let Some(n) = sample.token_texts.as_ref().map(Vec::len).filter(|n| *n != sample.n_tokens) {
                return Some(format!("{name} has {n} texts for {} tokens", sample.n_tokens));
            }
            seen.clear();
            let is_new = |head: &[usize; 2]| seen.insert(*head);
            if !sample.shown.iter().all(is_new) {
                return Some(format!("{name} has the states of a head twice"));
            }
            let outside = |[layer, head]: &[usize; 2]| *layer >= model.n_layers || *head >= model.n_kv_heads;
            if let Some([layer, head]) = sample.heads.iter().chain(&sample.shown).find(|head| outside(head)) {
                return Some(format!("{name} has head {head} of layer {layer}, which the model has not"));
            }
            if sample.states.iter().any(|state| !State::VECTORS.contains(state)) {
                return Some(format!("{name} has {:?} among its states", sample.states));
            }
            if sample.n_queries > sample.n_tokens {
                return Some(format!("{name} has {} queries of {} tokens", sample.n_queries, sample.n_tokens));
            }
        }
        None
    }
}

/// Writes the file tensor by tensor, in the order of [`Explorer::tensors`].
#[derive(Debug)]
pub struct ExplorerWriter(SampleWriter);

impl ExplorerWriter {
    /// Writes the header.
    pub fn create(dir: &Path, explorer: &Explorer) -> Result<Self, DumpError> {
        let path = dir.join(FILE);
        let words = serde_json::to_string(explorer).map_err(|source| FileError::Json {
            path: path.clone(),
            expected: Explorer::NAME,
            source,
        })?;
        let specs = explorer.tensors().into_iter().map(|tensor| explorer.spec(tensor)).collect();
        Ok(Self(SampleWriter::create(&path, specs, &[(WORD, words)])?))
    }

    /// Positions.
    pub fn positions(&mut self, tensor: ExplorerTensor, positions: &[usize]) -> Result<(), DumpError> {
        self.0.write_i64(&tensor.name(), positions.iter().map(|position| *position as i64))
    }

    /// Numbers, of which links may be NaN.
    pub fn numbers(&mut self, tensor: ExplorerTensor, values: &[f32]) -> Result<(), DumpError> {
        match tensor {
            ExplorerTensor::Links(_) => self.0.write_raw(&tensor.name(), values, f32::to_le_bytes),
            _ => self.0.write_f32(&tensor.name(), values),
        }
    }

    /// Cosines of blocks.
    pub fn blocks(&mut self, tensor: ExplorerTensor, cells: &[u8]) -> Result<(), DumpError> {
        self.0.write_raw(&tensor.name(), cells, |cell| [cell])
    }

    /// Tokens of heads in order, one head behind the other.
    pub fn order(&mut self, tensor: ExplorerTensor, tokens: &[u16]) -> Result<(), DumpError> {
        self.0.write_raw(&tensor.name(), tokens, u16::to_le_bytes)
    }

    /// Puts the file under its name; returns its name and digest.
    pub fn finish(self) -> Result<InputHash, DumpError> {
        Ok(InputHash { name: FILE.into(), sha256: self.0.finish()?.0 })
    }
}

/// A file that was read, and checked.
#[derive(Clone, Debug)]
pub struct ExplorerFile {
    /// What it holds.
    pub explorer: Explorer,
    bytes: Vec<u8>,
    /// Where each tensor stands in them.
    places: HashMap<String, Range<usize>>,
}

impl ExplorerFile {
    /// Reads the file that an analysis names.
    ///
    /// - Errors: a file that has changed since, of another kind or of a newer version; tensors that are not what its header says
    pub fn read(dir: &Path, file: &InputHash) -> Result<Self, FormatError> {
        let path = dir.join(&file.name);
        let damaged = |what: String| FormatError::damaged(&path, what);
        if !is_inside(&file.name) {
            return Err(damaged(format!("the name {:?} leads out of the analysis' folder", file.name)));
        }
        let bytes = read_own(&path, Explorer::NAME, Explorer::MAX_BYTES)?;
        let got = sha256_bytes(&bytes);
        if got != file.sha256 {
            return Err(damaged(format!("has SHA-256 {got:.12}… where the analysis says {:.12}…", file.sha256)));
        }
        let not_valid = |e| damaged(format!("not valid safetensors: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_valid)?;
        let Some(words) = header.metadata().as_ref().and_then(|words| words.get(WORD)) else {
            let found = "no schema id".into();
            return Err(FileError::WrongSchema { path, expected: Explorer::NAME, found }.into());
        };
        let explorer: Explorer = parse_json(words.as_bytes(), &path)?;
        if let Some(what) = explorer.fault() {
            return Err(damaged(what));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(not_valid)?;
        let mut places = HashMap::new();
        for tensor in explorer.tensors() {
            let TensorSpec { name, element, shape } = explorer.spec(tensor);
            let found = tensors.tensor(&name).map_err(|_| damaged(format!("holds no tensor {name}")))?;
            if found.dtype() != element || found.shape() != shape {
                let what = format!("{name} is {:?} {:?}, expected {element:?} {shape:?}", found.dtype(), found.shape());
                return Err(damaged(what));
            }
            let start = found.data().as_ptr() as usize - bytes.as_ptr() as usize;
            places.insert(name, start..start + found.data().len());
        }
        Ok(Self { explorer, bytes, places })
    }

    /// A tensor's bytes, little-endian; `None` of one that the file does not hold.
    pub fn bytes(&self, tensor: ExplorerTensor) -> Option<&[u8]> {
        self.bytes.get(self.places.get(&tensor.name())?.clone())
    }

    /// A tensor of F32.
    pub fn numbers(&self, tensor: ExplorerTensor) -> Vec<f32> {
        let bytes = self.bytes(tensor).unwrap_or_default();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// A tensor of U16.
    pub fn order(&self, tensor: ExplorerTensor) -> Vec<u16> {
        let bytes = self.bytes(tensor).unwrap_or_default();
        bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    }

    /// Whether an order names every token of each head once.
    fn is_order(&self, tensor: ExplorerTensor) -> bool {
        let n_tokens = self.explorer.samples[tensor.sample()].n_tokens;
        let mut seen = vec![0; n_tokens];
        self.order(tensor).chunks(n_tokens).enumerate().all(|(head, order)| {
            // Each head leaves another mark.
            order.iter().all(|token| {
                seen.get_mut(usize::from(*token)).is_some_and(|seen| std::mem::replace(seen, head + 1) <= head)
            })
        })
    }
}

/// What is wrong with the file that an analysis names; `None` when nothing is.
pub fn fault(dir: &Path, file: &InputHash) -> Option<String> {
    let read = match ExplorerFile::read(dir, file) {
        Err(error) => return Some(format!("the explorer: {error}")),
        Ok(read) => read,
    };
    for tensor in read.explorer.tensors() {
        let spec = read.explorer.spec(tensor);
        let is_whole = match (spec.element, read.bytes(tensor)) {
            (Dtype::F16, Some(bytes)) => bytes.as_chunks::<2>().0.iter().all(|b| f16::from_le_bytes(*b).is_finite()),
            (Dtype::F32, Some(bytes)) if !matches!(tensor, ExplorerTensor::Links(_)) => {
                bytes.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite())
            }
            (_, found) => found.is_some(),
        };
        if !is_whole {
            return Some(format!("the explorer: {} has a number that is not finite", spec.name));
        }
        if matches!(tensor, ExplorerTensor::Order(..)) && !read.is_order(tensor) {
            return Some(format!("the explorer: {} does not name every token once", spec.name));
        }
    }
    None
}

/// Faults of a file that is looked at by itself, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found = sha256_own(path).map(|(sha256, _)| {
        let file = InputHash { name, sha256 };
        fault(path.parent().unwrap_or(Path::new("")), &file)
    });
    let what = found.unwrap_or_else(|error| Some(error.to_string()));
    what.map(|what| format!("{}: {what}", path.display())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy() -> Explorer {
        let sample = ExploredSample {
            dataset: "d".into(),
            id: "1".into(),
            n_tokens: 3,
            token_texts: Some(["a", "<script>", "\u{202e}"].map(String::from).to_vec()),
            heads: vec![[0, 0], [0, 1]],
            dtype: Float::F16,
            n_queries: 1,
            states: vec![State::K],
            shown: vec![[0, 1]],
            orders: vec!["restkv".into()],
        };
        Explorer { schema: Explorer::schema_id(), model: ModelIdentity::toy(1, 4, 2, 2), samples: vec![sample] }
    }

    fn write(dir: &Path, explorer: &Explorer) -> InputHash {
        let mut writer = ExplorerWriter::create(dir, explorer).unwrap();
        for tensor in explorer.tensors() {
            let n: usize = explorer.spec(tensor).shape.iter().product();
            match tensor {
                ExplorerTensor::Positions(..) => writer.positions(tensor, &vec![0; n]).unwrap(),
                ExplorerTensor::Highest(..) => writer.blocks(tensor, &vec![255; n]).unwrap(),
                ExplorerTensor::Links(_) => writer.numbers(tensor, &vec![f32::NAN; n]).unwrap(),
                ExplorerTensor::Order(..) => {
                    writer.order(tensor, &(0..n).map(|place| (2 - place % 3) as u16).collect::<Vec<_>>()).unwrap();
                }
                _ => writer.numbers(tensor, &(0..n).map(|x| (x % 1000) as f32).collect::<Vec<_>>()).unwrap(),
            }
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), &toy());
        let read = ExplorerFile::read(dir.path(), &file).unwrap();
        assert_eq!(read.explorer, toy());
        assert_eq!(fault(dir.path(), &file), None);
        assert_eq!(read.numbers(ExplorerTensor::Mass(0)), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(read.numbers(ExplorerTensor::Links(0)).iter().all(|x| x.is_nan()));
        assert_eq!(read.order(ExplorerTensor::Order(0, 0)), [2, 1, 0, 2, 1, 0]);
        let key = read.bytes(ExplorerTensor::State(0, [0, 1], State::K)).unwrap();
        assert_eq!(f16::from_le_bytes([key[10], key[11]]), f16::from_f32(5.0));
        // Two query heads of one query each.
        assert_eq!(read.bytes(ExplorerTensor::State(0, [0, 1], State::Q)).unwrap().len(), 2 * 2 * 2);
        assert_eq!(read.bytes(ExplorerTensor::State(0, [0, 0], State::K)), None);
    }

    #[test]
    fn blocks_are_powers_of_two() {
        assert_eq!((blocks(2048), blocks(2049), blocks(8192)), (None, Some((8, 264)), Some((16, 512))));
        assert_eq!(blocks(MAX_TOKENS), Some((64, 512)));
    }

    #[test]
    fn files_that_are_not_what_they_say_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = |change: &dyn Fn(&mut Explorer)| {
            let mut explorer = toy();
            change(&mut explorer);
            let file = write(dir.path(), &explorer);
            ExplorerFile::read(dir.path(), &file).unwrap_err().to_string()
        };
        assert!(error(&|e| e.samples[0].shown = vec![[1, 0]]).contains("head 0 of layer 1"));
        let mut twice = toy();
        twice.samples[0].shown = vec![[0, 0]; 2];
        assert!(twice.fault().unwrap().contains("twice"));
        assert!(error(&|e| e.samples[0].token_texts = Some(vec![])).contains("0 texts for 3 tokens"));
        assert!(error(&|e| e.samples[0].n_tokens = MAX_TOKENS + 1).contains("32769 tokens"));
        assert!(error(&|e| e.schema = "kvscope.explorer/9".into()).contains("version 9"));
        let explorer = toy();
        let mut writer = ExplorerWriter::create(dir.path(), &explorer).unwrap();
        for tensor in explorer.tensors() {
            let n: usize = explorer.spec(tensor).shape.iter().product();
            match tensor {
                ExplorerTensor::Positions(..) => writer.positions(tensor, &vec![0; n]).unwrap(),
                ExplorerTensor::Order(..) => writer.order(tensor, &[0, 1, 2, 0, 2, 2]).unwrap(),
                _ => writer.numbers(tensor, &vec![0.0; n]).unwrap(),
            }
        }
        let file = writer.finish().unwrap();
        assert!(fault(dir.path(), &file).unwrap().contains("every token once"));
        let mut file = write(dir.path(), &toy());
        file.sha256 = "0".repeat(64);
        assert!(fault(dir.path(), &file).unwrap().contains("where the analysis says"));
        file.name = "../explorer.safetensors".into();
        assert!(fault(dir.path(), &file).unwrap().contains("leads out"));
    }
}

//! The tensor table of a GGUF file, and tensors unpacked from its data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::model::StorageType;
use crate::model::gguf::cursor::Cursor;
use crate::model::gguf::{Gguf, GgufError};
use crate::model::matrix::unpack;

/// Most dimensions a tensor of the format may have.
const MAX_DIMS: u32 = 4;

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Storage type.
    pub dtype: StorageType,
    /// Row-major shape: the order of the file, which names the innermost dimension first, reversed.
    pub shape: Vec<usize>,
    /// Which file of a split model holds it, from 0.
    pub part: usize,
    /// First byte in that file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

pub(super) struct Table {
    pub(super) readable: BTreeMap<String, TensorInfo>,
    pub(super) unreadable: BTreeMap<String, String>,
}

/// Reads the table and checks that tensors follow each other without gap or overlap, aligned, inside the file.
///
/// An offset that is not the sum of the sizes before it means that a size is wrong: most often, another type than the data's.
pub(super) fn read_table(
    path: &Path,
    bytes: &[u8],
    cursor: &mut Cursor,
    n_tensors: usize,
    alignment: u64,
) -> Result<Table, GgufError> {
    let len = bytes.len() as u64;
    let mut table = Table { readable: BTreeMap::new(), unreadable: BTreeMap::new() };
    // Where the next tensor must begin; unknown behind one whose size is.
    let mut due = Some(0u64);
    for i in 0..n_tensors {
        let name = cursor.string(&format!("the name of tensor {i} of {n_tensors}"))?;
        let layout = |what: String| GgufError::Layout { path: path.to_path_buf(), name: name.clone(), what };
        if table.readable.contains_key(&name) || table.unreadable.contains_key(&name) {
            return Err(layout("appears twice".into()));
        }
        let n_dims = cursor.u32(&name)?;
        if n_dims > MAX_DIMS {
            return Err(layout(format!("has {n_dims} dimensions; the format allows {MAX_DIMS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            shape.push(cursor.u64(&name)?);
        }
        let kind = cursor.u32(&name)?;
        let offset = cursor.u64(&name)?;
        if offset % alignment != 0 {
            return Err(layout(format!("begins at byte {offset} of the data, which is not a multiple of {alignment}")));
        }
        if let Some(due) = due.filter(|due| *due != offset) {
            let what = format!(
                "begins at byte {offset} of the data; {due} is due by the types and shapes of the tensors before it"
            );
            return Err(layout(what));
        }
        let Some(storage) = Storage::of(kind) else {
            due = None;
            table.unreadable.insert(name, format!("type {kind}"));
            continue;
        };
        let bytes = storage.bytes(&shape).map_err(layout)?;
        let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(alignment));
        due = Some(end.ok_or_else(|| layout("ends behind the largest file".into()))?);
        let Some(dtype) = storage.dtype else {
            table.unreadable.insert(name, storage.name.into());
            continue;
        };
        let shape = shape.iter().rev().map(|n| usize::try_from(*n)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| layout("is too large for this machine".into()))?;
        table.readable.insert(name, TensorInfo { dtype, shape, part: 0, offset, bytes });
    }
    let data = (cursor.position() as u64).next_multiple_of(alignment);
    for (name, info) in &mut table.readable {
        let end = data.checked_add(info.offset).and_then(|begin| begin.checked_add(info.bytes));
        match end {
            Some(end) if end <= len => info.offset += data,
            _ => {
                return Err(GgufError::Truncated {
                    path: path.to_path_buf(),
                    what: format!("tensor {name}"),
                    end: end.unwrap_or(u64::MAX),
                    len,
                });
            }
        }
    }
    check_overlap(path, &table.readable)?;
    Ok(table)
}

/// Overlaps behind a tensor of unknown size; elsewhere there are none.
fn check_overlap(path: &Path, tensors: &BTreeMap<String, TensorInfo>) -> Result<(), GgufError> {
    let mut by_place: Vec<_> = tensors.iter().map(|(name, info)| (info.offset, info.bytes, name)).collect();
    by_place.sort_unstable();
    for pair in by_place.windows(2) {
        if let [(offset, bytes, first), (next, _, second)] = pair
            && offset + bytes > *next
        {
            let what = format!("begins at byte {next}, inside tensor {first}");
            return Err(GgufError::Layout { path: path.to_path_buf(), name: second.to_string(), what });
        }
    }
    Ok(())
}

/// A line of the table of storage types.
struct Storage {
    /// Its number in the file.
    kind: u32,
    name: &'static str,
    /// Values of a block.
    block_len: u64,
    /// Bytes of a block.
    block_bytes: u64,
    /// How it is read; `None` for types that are not.
    dtype: Option<StorageType>,
}

/// Every storage type of the format.
#[rustfmt::skip]
const STORAGES: &[Storage] = &[
    Storage { kind: 0, name: "F32", block_len: 1, block_bytes: 4, dtype: Some(StorageType::F32) },
    Storage { kind: 1, name: "F16", block_len: 1, block_bytes: 2, dtype: Some(StorageType::F16) },
    Storage { kind: 2, name: "Q4_0", block_len: 32, block_bytes: 18, dtype: Some(StorageType::Q4_0) },
    Storage { kind: 3, name: "Q4_1", block_len: 32, block_bytes: 20, dtype: Some(StorageType::Q4_1) },
    Storage { kind: 6, name: "Q5_0", block_len: 32, block_bytes: 22, dtype: Some(StorageType::Q5_0) },
    Storage { kind: 7, name: "Q5_1", block_len: 32, block_bytes: 24, dtype: Some(StorageType::Q5_1) },
    Storage { kind: 8, name: "Q8_0", block_len: 32, block_bytes: 34, dtype: Some(StorageType::Q8_0) },
    Storage { kind: 9, name: "Q8_1", block_len: 32, block_bytes: 40, dtype: None },
    Storage { kind: 10, name: "Q2_K", block_len: 256, block_bytes: 84, dtype: Some(StorageType::Q2K) },
    Storage { kind: 11, name: "Q3_K", block_len: 256, block_bytes: 110, dtype: Some(StorageType::Q3K) },
    Storage { kind: 12, name: "Q4_K", block_len: 256, block_bytes: 144, dtype: Some(StorageType::Q4K) },
    Storage { kind: 13, name: "Q5_K", block_len: 256, block_bytes: 176, dtype: Some(StorageType::Q5K) },
    Storage { kind: 14, name: "Q6_K", block_len: 256, block_bytes: 210, dtype: Some(StorageType::Q6K) },
    Storage { kind: 15, name: "Q8_K", block_len: 256, block_bytes: 292, dtype: None },
    Storage { kind: 16, name: "IQ2_XXS", block_len: 256, block_bytes: 66, dtype: None },
    Storage { kind: 17, name: "IQ2_XS", block_len: 256, block_bytes: 74, dtype: None },
    Storage { kind: 18, name: "IQ3_XXS", block_len: 256, block_bytes: 98, dtype: None },
    Storage { kind: 19, name: "IQ1_S", block_len: 256, block_bytes: 50, dtype: None },
    Storage { kind: 20, name: "IQ4_NL", block_len: 32, block_bytes: 18, dtype: Some(StorageType::Iq4Nl) },
    Storage { kind: 21, name: "IQ3_S", block_len: 256, block_bytes: 110, dtype: None },
    Storage { kind: 22, name: "IQ2_S", block_len: 256, block_bytes: 82, dtype: None },
    Storage { kind: 23, name: "IQ4_XS", block_len: 256, block_bytes: 136, dtype: Some(StorageType::Iq4Xs) },
    Storage { kind: 24, name: "I8", block_len: 1, block_bytes: 1, dtype: None },
    Storage { kind: 25, name: "I16", block_len: 1, block_bytes: 2, dtype: None },
    Storage { kind: 26, name: "I32", block_len: 1, block_bytes: 4, dtype: None },
    Storage { kind: 27, name: "I64", block_len: 1, block_bytes: 8, dtype: None },
    Storage { kind: 28, name: "F64", block_len: 1, block_bytes: 8, dtype: None },
    Storage { kind: 29, name: "IQ1_M", block_len: 256, block_bytes: 56, dtype: None },
    Storage { kind: 30, name: "BF16", block_len: 1, block_bytes: 2, dtype: Some(StorageType::BF16) },
    Storage { kind: 34, name: "TQ1_0", block_len: 256, block_bytes: 54, dtype: Some(StorageType::Tq1_0) },
    Storage { kind: 35, name: "TQ2_0", block_len: 256, block_bytes: 66, dtype: Some(StorageType::Tq2_0) },
    Storage { kind: 39, name: "MXFP4", block_len: 32, block_bytes: 17, dtype: Some(StorageType::Mxfp4) },
    Storage { kind: 40, name: "NVFP4", block_len: 64, block_bytes: 36, dtype: None },
    Storage { kind: 41, name: "Q1_0", block_len: 128, block_bytes: 18, dtype: None },
];

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = STORAGES.iter().find(|storage| storage.dtype == Some(*self));
        storage.map_or(Ok(()), |storage| f.write_str(storage.name))
    }
}

impl Storage {
    fn of(kind: u32) -> Option<&'static Self> {
        STORAGES.iter().find(|storage| storage.kind == kind)
    }

    /// Bytes of a tensor whose innermost dimension comes first.
    fn bytes(&self, shape: &[u64]) -> Result<u64, String> {
        let too_large = || "has more elements than can be counted".to_string();
        let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim)).ok_or_else(too_large)?;
        if elements == 0 {
            return Err("has a dimension of 0".into());
        }
        let (block, width) = (self.block_len, shape.first().copied().unwrap_or(1));
        if width % block != 0 {
            let name = self.name;
            return Err(format!("has rows of {width} values, which {name} cannot store: its blocks hold {block}"));
        }
        (elements / block).checked_mul(self.block_bytes).ok_or_else(too_large)
    }
}

impl Gguf {
    /// Where a tensor lies.
    ///
    /// Errors: `GgufError::NoTensor`, or `GgufError::UnsupportedType` when its storage type is not read.
    pub fn tensor_info(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        if let Some(info) = self.tensors.get(name) {
            return Ok(info);
        }
        let (path, name) = (self.path.clone(), name.to_string());
        match self.unreadable.get(&name) {
            Some(dtype) => Err(GgufError::UnsupportedType { path, name, dtype: dtype.clone() }),
            None => Err(GgufError::NoTensor { path, name }),
        }
    }

    /// The bytes of a tensor as stored.
    ///
    /// Errors: as [`Gguf::tensor_info`].
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8], GgufError> {
        let info = self.tensor_info(name)?;
        let range = info.offset as usize..(info.offset + info.bytes) as usize;
        let part = self.parts.get(info.part).map_or(&[][..], |part| &**part);
        part.get(range).ok_or_else(|| GgufError::Truncated {
            path: self.path.clone(),
            what: format!("tensor {name}"),
            end: info.offset + info.bytes,
            len: part.len() as u64,
        })
    }

    /// A tensor unpacked to f32 on the CPU, in row-major order.
    ///
    /// Errors: as [`Gguf::tensor_info`], or `GgufError::Unpack`.
    pub fn tensor(&self, name: &str) -> Result<Tensor, GgufError> {
        let info = self.tensor_info(name)?;
        let bytes = self.tensor_bytes(name)?;
        let Some(values) = unpack(info.dtype, bytes) else {
            let what = format!("holds {} bytes, which are no whole blocks of {}", bytes.len(), info.dtype);
            return Err(GgufError::Layout { path: self.path.clone(), name: name.into(), what });
        };
        Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu).map_err(|source| GgufError::Unpack {
            path: self.path.clone(),
            name: name.into(),
            source,
        })
    }
}

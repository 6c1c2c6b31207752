//! The tensor table of a GGUF file, and tensors unpacked from its data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::QStorage;
use candle_core::quantized::QTensor;
use half::bf16;
use half::f16;

use crate::model::gguf::Gguf;
use crate::model::gguf::GgufError;
use crate::model::gguf::cursor::Cursor;

/// Most dimensions a tensor of the format may have.
const MAX_DIMS: u32 = 4;

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Storage type.
    pub dtype: GgmlDType,
    /// Row-major shape: the order of the file, which names the innermost dimension first, reversed.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

pub(super) struct Table {
    pub(super) readable: BTreeMap<String, TensorInfo>,
    pub(super) unreadable: BTreeMap<String, String>,
}

/// Reads the table and checks that all tensors lie inside the file, aligned, without overlap.
pub(super) fn read_table(
    path: &Path,
    bytes: &[u8],
    cursor: &mut Cursor,
    n_tensors: usize,
    alignment: u64,
) -> Result<Table, GgufError> {
    let len = bytes.len() as u64;
    let mut table = Table { readable: BTreeMap::new(), unreadable: BTreeMap::new() };
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
        let Some(dtype) = dtype_of(kind) else {
            table.unreadable.insert(name, type_name(kind));
            continue;
        };
        let bytes = stored_bytes(&shape, dtype).map_err(layout)?;
        let shape = shape.iter().rev().map(|n| usize::try_from(*n)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| layout("is too large for this machine".into()))?;
        table.readable.insert(name, TensorInfo { dtype, shape, offset, bytes });
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

/// Bytes of a tensor whose innermost dimension comes first.
fn stored_bytes(shape: &[u64], dtype: GgmlDType) -> Result<u64, String> {
    let too_large = || "has more elements than can be counted".to_string();
    let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim)).ok_or_else(too_large)?;
    if elements == 0 {
        return Err("has a dimension of 0".into());
    }
    let (block, width) = (dtype.block_size() as u64, shape.first().copied().unwrap_or(1));
    if width % block != 0 {
        return Err(format!("has rows of {width} values, which {dtype:?} cannot store: its blocks hold {block}"));
    }
    (elements / block).checked_mul(dtype.type_size() as u64).ok_or_else(too_large)
}

/// Storage types by their number in the file.
fn dtype_of(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Name of a storage type that is not read.
fn type_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type {kind}"),
    };
    name.to_string()
}

impl Gguf {
    /// Where a tensor lies.
    ///
    /// Errors: [`GgufError::NoTensor`], or [`GgufError::UnsupportedType`] when its storage type is not read.
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
        self.bytes.get(range).ok_or_else(|| GgufError::Truncated {
            path: self.path.clone(),
            what: format!("tensor {name}"),
            end: info.offset + info.bytes,
            len: self.bytes.len() as u64,
        })
    }

    /// A tensor as stored, in blocks, on the CPU.
    ///
    /// Errors: as [`Gguf::tensor_info`], or [`GgufError::Unpack`].
    pub fn qtensor(&self, name: &str) -> Result<QTensor, GgufError> {
        let info = self.tensor_info(name)?;
        let bytes = self.tensor_bytes(name)?;
        // The library asserts the alignment of its blocks, at most 4 bytes; a file may promise less.
        let mut words = Vec::new();
        let aligned = if (bytes.as_ptr() as usize).is_multiple_of(4) {
            bytes
        } else {
            words.resize(bytes.len().div_ceil(4), 0u32);
            let copy: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            copy[..bytes.len()].copy_from_slice(bytes);
            &copy[..bytes.len()]
        };
        QStorage::from_data(Cow::Borrowed(aligned), &Device::Cpu, info.dtype)
            .and_then(|storage| QTensor::new(storage, info.shape.as_slice()))
            .map_err(|source| self.unpack(name, source))
    }

    /// A tensor unpacked to f32 on the CPU, in row-major order.
    ///
    /// Errors: as [`Gguf::qtensor`].
    pub fn tensor(&self, name: &str) -> Result<Tensor, GgufError> {
        let info = self.tensor_info(name)?;
        let bytes = self.tensor_bytes(name)?;
        let values: Vec<f32> = match info.dtype {
            GgmlDType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            GgmlDType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            GgmlDType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => return self.qtensor(name)?.dequantize(&Device::Cpu).map_err(|source| self.unpack(name, source)),
        };
        Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu).map_err(|source| self.unpack(name, source))
    }

    fn unpack(&self, name: &str, source: candle_core::Error) -> GgufError {
        GgufError::Unpack { path: self.path.clone(), name: name.to_string(), source }
    }
}

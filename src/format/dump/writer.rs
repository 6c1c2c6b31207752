//! Writes one sample's safetensors file tensor by tensor, so that no more than one tensor is ever in memory.

use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value};

use crate::files::{AtomicFile, FileError, HashingWriter};
use crate::format::dump::layout::float_of;
use crate::format::dump::{DumpError, TensorSpec};
use crate::math::{Float, first_not_below, narrow_f16};

/// Values that are converted at a time: enough for long writes, little beside a layer.
const VALUES_AT_ONCE: usize = 1 << 16;

/// An open sample file. Tensors are written in the declared order; the file appears under its name at the end.
#[derive(Debug)]
pub struct SampleWriter {
    out: HashingWriter<AtomicFile>,
    specs: std::vec::IntoIter<TensorSpec>,
    target: std::path::PathBuf,
    buffer: Vec<u8>,
}

impl SampleWriter {
    /// Writes the header for `specs`. `metadata` becomes the header's string map.
    pub fn create(path: &Path, specs: Vec<TensorSpec>, metadata: &[(&str, String)]) -> Result<Self, DumpError> {
        let mut header = Map::new();
        let texts: Map<String, Value> =
            metadata.iter().map(|(key, text)| ((*key).to_string(), Value::String(text.clone()))).collect();
        header.insert("__metadata__".into(), Value::Object(texts));
        let mut offset = 0u64;
        for spec in &specs {
            let end = offset + spec.bytes();
            let entry = serde_json::json!({
                "dtype": spec.element, "shape": spec.shape, "data_offsets": [offset, end],
            });
            header.insert(spec.name.clone(), entry);
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        // The format wants the data to start at a multiple of 8; spaces are allowed after the header.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut writer = Self {
            out: HashingWriter::new(AtomicFile::create(path)?),
            specs: specs.into_iter(),
            target: path.to_path_buf(),
            buffer: Vec::new(),
        };
        writer.put(&(text.len() as u64).to_le_bytes())?;
        writer.put(&text)?;
        Ok(writer)
    }

    /// Writes the next declared tensor from f32 values, converting to its element type.
    ///
    /// - Errors: a number that is not finite, before or after
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<(), DumpError> {
        self.write_f32_parts(name, &[values])
    }

    /// As [`SampleWriter::write_f32`], from parts that follow each other, such as one slice per head.
    pub fn write_f32_parts<P: AsRef<[f32]>>(&mut self, name: &str, parts: &[P]) -> Result<(), DumpError> {
        let n_values = parts.iter().map(|part| part.as_ref().len()).sum();
        let spec = self.next_spec(name, n_values)?;
        let Some(float) = float_of(spec.element) else {
            return Err(DumpError::inconsistent(&self.target, format!("{name} is declared as {}", spec.element)));
        };
        let mut halves = Vec::new();
        for part in parts.iter().flat_map(|part| part.as_ref().chunks(VALUES_AT_ONCE)) {
            if let Some(at) = first_not_below(part, float.limit()) {
                return Err(self.unwritable(spec, part[at]));
            }
            match float {
                Float::F16 => {
                    halves.resize(part.len(), f16::ZERO);
                    narrow_f16(part, &mut halves);
                    fill(&mut self.buffer, &halves, f16::to_le_bytes);
                }
                Float::Bf16 => fill(&mut self.buffer, part, |x| bf16::from_f32(x).to_le_bytes()),
                Float::F32 => fill(&mut self.buffer, part, f32::to_le_bytes),
            }
            self.put_buffer()?;
        }
        Ok(())
    }

    fn unwritable(&self, TensorSpec { name, element, .. }: TensorSpec, value: f32) -> DumpError {
        let path = self.target.clone();
        if value.is_finite() {
            DumpError::Overflow { path, name, value, element }
        } else {
            DumpError::NotFinite { path, name, value }
        }
    }

    /// Writes the next declared tensor from values of its own type, as they are: `bytes_of` gives a value's little-endian bytes.
    pub fn write_raw<const N: usize, T: Copy>(
        &mut self,
        name: &str,
        values: &[T],
        bytes_of: impl Fn(T) -> [u8; N],
    ) -> Result<(), DumpError> {
        let spec = self.next_spec(name, values.len())?;
        if spec.element.bitsize() != 8 * N {
            return Err(DumpError::inconsistent(&self.target, format!("{name} is declared as {}", spec.element)));
        }
        for part in values.chunks(VALUES_AT_ONCE) {
            fill(&mut self.buffer, part, &bytes_of);
            self.put_buffer()?;
        }
        Ok(())
    }

    /// Writes the next declared tensor from integers.
    pub fn write_i64(&mut self, name: &str, values: impl ExactSizeIterator<Item = i64>) -> Result<(), DumpError> {
        self.next_spec(name, values.len())?;
        let bytes: Vec<u8> = values.flat_map(i64::to_le_bytes).collect();
        self.put(&bytes)
    }

    /// Puts the file under its name; returns its digest and size.
    pub fn finish(mut self) -> Result<(String, u64), DumpError> {
        if let Some(spec) = self.specs.next() {
            return Err(DumpError::OutOfTurn { path: self.target, expected: spec.name, got: "the end".into() });
        }
        let (file, sha256, bytes) = self.out.finish();
        file.commit()?;
        Ok((sha256, bytes))
    }

    fn next_spec(&mut self, name: &str, n: usize) -> Result<TensorSpec, DumpError> {
        let due = self.specs.next();
        let expected = due.as_ref().map_or("the end".to_string(), |spec| spec.name.clone());
        match due {
            Some(spec) if spec.name == name => {
                let wanted: usize = spec.shape.iter().product();
                if wanted != n {
                    let what = format!("{name} has {n} values where its shape {:?} needs {wanted}", spec.shape);
                    return Err(DumpError::inconsistent(&self.target, what));
                }
                Ok(spec)
            }
            _ => Err(DumpError::OutOfTurn { path: self.target.clone(), expected, got: name.into() }),
        }
    }

    fn put_buffer(&mut self) -> Result<(), DumpError> {
        self.out.write_all(&self.buffer).map_err(|e| FileError::io("write", &self.target, e).into())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.out.write_all(bytes).map_err(|e| FileError::io("write", &self.target, e).into())
    }
}

/// Replaces the buffer with the bytes of the values.
fn fill<const N: usize, T: Copy>(buffer: &mut Vec<u8>, values: &[T], bytes_of: impl Fn(T) -> [u8; N]) {
    buffer.resize(N * values.len(), 0);
    buffer.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(bytes, x)| *bytes = bytes_of(*x));
}

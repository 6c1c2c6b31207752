//! Bounded little-endian reads from the header of a GGUF file.

use std::path::Path;

use crate::model::gguf::{GgufError, Value};

/// Arrays of arrays deeper than this are refused; no known file nests at all.
const MAX_DEPTH: u32 = 4;

/// A position in the file from which nothing is read past the end.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn malformed(&self, what: String) -> GgufError {
        GgufError::Malformed { path: self.path.to_path_buf(), at: self.at as u64, what }
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], GgufError> {
        if n > self.remaining() {
            return Err(GgufError::Truncated {
                path: self.path.to_path_buf(),
                what: what.to_string(),
                end: (self.at as u64).saturating_add(n as u64),
                len: self.bytes.len() as u64,
            });
        }
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `min_bytes` each, refused when the rest of the file cannot hold that many.
    pub(super) fn count(&mut self, min_bytes: usize, what: &str) -> Result<usize, GgufError> {
        let count = self.u64(what)?;
        self.check_count(count, min_bytes, what)
    }

    pub(super) fn check_count(&self, count: u64, min_bytes: usize, what: &str) -> Result<usize, GgufError> {
        let most = self.remaining() / min_bytes.max(1);
        match usize::try_from(count) {
            Ok(n) if n <= most => Ok(n),
            _ => {
                Err(self.malformed(format!("{what} is {count}, but the rest of the file has room for {most} at most")))
            }
        }
    }

    /// A name: a key's or a tensor's.
    pub(super) fn string(&mut self, what: &str) -> Result<String, GgufError> {
        self.text(what)?.map(Into::into).ok_or_else(|| self.malformed(format!("{what} is not UTF-8")))
    }

    /// A text; `None` when it is not UTF-8.
    fn text(&mut self, what: &str) -> Result<Option<&'a str>, GgufError> {
        let n = self.count(1, &format!("the length of {what}"))?;
        Ok(std::str::from_utf8(self.take(n, what)?).ok())
    }

    /// A metadata value of the type with number `kind`.
    pub(super) fn value(&mut self, kind: u32, key: &str) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::U64(u64::from(self.array::<1>(key)?[0])),
            1 => Value::I64(i64::from(i8::from_le_bytes(self.array(key)?))),
            2 => Value::U64(u64::from(u16::from_le_bytes(self.array(key)?))),
            3 => Value::I64(i64::from(i16::from_le_bytes(self.array(key)?))),
            4 => Value::U64(u64::from(self.u32(key)?)),
            5 => Value::I64(i64::from(i32::from_le_bytes(self.array(key)?))),
            6 => Value::F64(f64::from(f32::from_le_bytes(self.array(key)?))),
            7 => Value::Bool(self.bool(key)?),
            8 => self.text(key)?.map_or(Value::NotUtf8, |text| Value::String(text.into())),
            9 => self.array_value(key, 0)?,
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.malformed(format!("{key} has the unknown value type {other}"))),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool, GgufError> {
        match self.array::<1>(key)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.malformed(format!("{key} is a truth value of {other}, which is neither 0 nor 1"))),
        }
    }

    fn array_value(&mut self, key: &str, depth: u32) -> Result<Value, GgufError> {
        let kind = self.u32(key)?;
        let what = format!("the length of {key}");
        Ok(match kind {
            0 => Value::U64s(self.fixed::<1>(&what)?.map(|b| u64::from(b[0])).collect()),
            1 => Value::I64s(self.fixed(&what)?.map(|b| i64::from(i8::from_le_bytes(b))).collect()),
            2 => Value::U64s(self.fixed(&what)?.map(|b| u64::from(u16::from_le_bytes(b))).collect()),
            3 => Value::I64s(self.fixed(&what)?.map(|b| i64::from(i16::from_le_bytes(b))).collect()),
            4 => Value::U64s(self.fixed(&what)?.map(|b| u64::from(u32::from_le_bytes(b))).collect()),
            5 => Value::I64s(self.fixed(&what)?.map(|b| i64::from(i32::from_le_bytes(b))).collect()),
            6 => Value::F64s(self.fixed(&what)?.map(|b| f64::from(f32::from_le_bytes(b))).collect()),
            7 => {
                let n = self.count(1, &what)?;
                let mut out = Vec::with_capacity(n);
                for _ in 0..n {
                    out.push(self.bool(key)?);
                }
                Value::Bools(out)
            }
            8 => {
                let n = self.count(8, &what)?;
                let mut out = Vec::with_capacity(n);
                for i in 0..n {
                    out.push(self.text(&format!("{key}[{i}]"))?.map(Into::into));
                }
                out.into_iter().collect::<Option<_>>().map_or(Value::NotUtf8, Value::Strings)
            }
            9 if depth == MAX_DEPTH => {
                return Err(self.malformed(format!("{key} nests arrays more than {MAX_DEPTH} deep")));
            }
            9 => {
                let n = self.count(12, &what)?;
                let mut out = Vec::with_capacity(n);
                for _ in 0..n {
                    out.push(self.array_value(key, depth + 1)?);
                }
                Value::Arrays(out)
            }
            10 => Value::U64s(self.fixed(&what)?.map(u64::from_le_bytes).collect()),
            11 => Value::I64s(self.fixed(&what)?.map(i64::from_le_bytes).collect()),
            12 => Value::F64s(self.fixed(&what)?.map(f64::from_le_bytes).collect()),
            other => return Err(self.malformed(format!("{key} is an array of the unknown value type {other}"))),
        })
    }

    /// The elements of an array of `N`-byte numbers.
    fn fixed<const N: usize>(&mut self, what: &str) -> Result<impl Iterator<Item = [u8; N]> + use<'a, N>, GgufError> {
        let n = self.count(N, what)?;
        Ok(self.take(n * N, what)?.as_chunks::<N>().0.iter().copied())
    }
}

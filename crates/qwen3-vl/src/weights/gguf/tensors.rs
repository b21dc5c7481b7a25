//! What a GGUF file says of its tensors, checked against the file.

use std::collections::{BTreeMap, HashMap};

use super::cursor::Cursor;
use super::types::{self, TensorType};
use crate::quote::quoted;

/// Most bytes of a name (ggml: `GGML_MAX_NAME`).
const LONGEST_NAME: u64 = 64;
/// Most axes (ggml: `GGML_MAX_DIMS`).
const MOST_AXES: u32 = 4;
/// Fewest bytes of a tensor's entry.
const LEAST_BYTES: u64 = 8 + 1 + 4 + 4 + 8;
/// The largest model has about a thousand.
const MOST_TENSORS: u64 = 65_536;

/// Where a tensor is and what it is like.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub(super) dtype: TensorType,
    /// Slowest axis first, as everywhere but in the file.
    pub shape: Vec<usize>,
    /// Of its first byte, in the file.
    pub(super) start: u64,
    pub(super) bytes: usize,
}

/// A tensor whose place in the file is not known yet.
pub(super) struct Entry {
    name: String,
    dtype: Result<TensorType, String>,
    shape: Vec<usize>,
    /// From where the tensors begin.
    offset: u64,
}

impl Entry {
    /// Reads that many entries.
    pub(super) fn read_all(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Self>, String> {
        if count > MOST_TENSORS || count > cursor.left() / LEAST_BYTES {
            return Err(format!("it would have {count} tensors"));
        }
        (0..count).map(|_| Self::read(cursor)).collect()
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        let name = cursor.name("tensor", LONGEST_NAME)?;
        let axes = cursor.u32()?;
        if axes > MOST_AXES {
            return Err(format!("tensor {} has {axes} axes", quoted(&name)));
        }
        let mut shape = Vec::with_capacity(MOST_AXES as usize);
        for _ in 0..axes {
            let length = cursor.u64()?;
            let length = usize::try_from(length).ok().filter(|length| *length > 0);
            let length = length.ok_or_else(|| {
                format!("tensor {} has an axis of impossible length", quoted(&name))
            })?;
            shape.push(length);
        }
        shape.reverse();
        Ok(Self {
            dtype: types::of(cursor.u32()?),
            offset: cursor.u64()?,
            name,
            shape,
        })
    }

    /// Its place, if it is a whole number of blocks inside the file.
    fn place(self, (data, alignment): (u64, u64), length: u64) -> Result<TensorInfo, String> {
        let Self { shape, offset, .. } = self;
        let dtype = self.dtype?;
        let wrong = || format!("tensor {} does not lie in the file", quoted(&self.name));
        let mut values = 1u64;
        for axis in &shape {
            values = values.checked_mul(*axis as u64).ok_or_else(wrong)?;
        }
        let row = shape.last().map_or(1, |row| *row as u64);
        if !row.is_multiple_of(dtype.block()) {
            let name = quoted(&self.name);
            let block = dtype.block();
            return Err(format!(
                "rows of tensor {name} have {row} values, in blocks of {block}"
            ));
        }
        if !offset.is_multiple_of(alignment) {
            let name = quoted(&self.name);
            return Err(format!("tensor {name} begins at {offset}, not aligned"));
        }
        let bytes = (values / dtype.block()).checked_mul(dtype.block_bytes());
        let bytes = bytes.ok_or_else(wrong)?;
        let start = data.checked_add(offset).ok_or_else(wrong)?;
        let end = start.checked_add(bytes).ok_or_else(wrong)?;
        if end > length {
            return Err(wrong());
        }
        Ok(TensorInfo {
            dtype,
            shape,
            start,
            bytes: usize::try_from(bytes).map_err(|_| wrong())?,
        })
    }
}

/// Types of these tensors that cannot be read, and how many tensors have them; none if all can be.
pub(super) fn unreadable(entries: &[Entry]) -> Option<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in entries
        .iter()
        .filter_map(|entry| entry.dtype.as_ref().err())
    {
        *counts.entry(name).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .take(10)
        .map(|(name, count)| format!("{name} ({count})"))
        .collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

/// The places of all tensors, of which none may have bytes in common with another.
pub(super) fn places(
    entries: Vec<Entry>,
    (data, alignment): (u64, u64),
    length: u64,
) -> Result<HashMap<String, TensorInfo>, String> {
    let mut tensors = HashMap::new();
    for entry in entries {
        let name = entry.name.clone();
        let info = entry.place((data, alignment), length)?;
        if tensors.insert(name.clone(), info).is_some() {
            return Err(format!("it has the tensor {} twice", quoted(&name)));
        }
    }
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.start);
    for pair in order.windows(2) {
        let [(one, a), (other, b)] = pair else {
            continue;
        };
        if a.start + a.bytes as u64 > b.start {
            let (one, other) = (quoted(one), quoted(other));
            return Err(format!("the tensors {one} and {other} overlap"));
        }
    }
    Ok(tensors)
}

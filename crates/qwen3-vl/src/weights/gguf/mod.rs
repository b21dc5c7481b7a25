//! GGUF, the files of llama.cpp: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! candle has a reader of this format too. It makes room for what the file claims to hold, and
//! gives up the whole file for one tensor of a type that it does not know, without its name: here a
//! length is compared with the file before anything is made of it, and types are named.
//!
//! A model is two files, or more: the language model, which may be split, and the vision tower
//! (`mmproj`). [`GgufModel`] finds and opens them, [`GgufTensors`] gives their tensors the names of
//! Hugging Face.

mod cursor;
pub(crate) mod find;
mod metadata;
mod model;
mod names;
mod stored;
mod tensors;
mod types;
mod value;

use std::collections::HashMap;
use std::path::Path;

use super::WeightsError;
use super::bytes::{Source, WeightFile, cut_off};
use crate::file::is_lfs_pointer;
use crate::quote::shortened;
use cursor::Cursor;
pub use metadata::Metadata;
pub use model::GgufModel;
pub(crate) use model::in_folder;
pub(super) use stored::GgufTensors;
pub use tensors::TensorInfo;
pub(crate) use types::block_name;

/// Where the tensors begin if the file does not say otherwise.
const ALIGNMENT: u64 = 32;

/// What a GGUF file says that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", shortened(file))]
pub struct GgufError {
    /// Name of the file.
    pub file: String,
    /// What is wrong, and what would work.
    pub reason: String,
}

/// One file, whose header has been checked against its size.
#[derive(Debug)]
pub struct Gguf {
    source: Source,
    metadata: Metadata,
    tensors: HashMap<String, TensorInfo>,
}

impl Gguf {
    /// A file in a folder.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::of(WeightFile::open(path)?)
    }

    /// A file that may be elsewhere.
    pub(crate) fn of(file: WeightFile) -> Result<Self, WeightsError> {
        Self::new(&file.name, file.source, file.length)
    }

    /// A file in memory, to look at its header.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, WeightsError> {
        let length = bytes.len() as u64;
        Self::new("the file", Source::Memory(bytes), length)
    }

    fn new(file: &str, source: Source, length: u64) -> Result<Self, WeightsError> {
        let damaged = |reason| WeightsError::Damaged {
            file: shortened(file),
            reason,
        };
        let unusable = |reason| GgufError {
            file: file.into(),
            reason,
        };
        let mut start = vec![0; length.min(100) as usize];
        let read = source.read(0, &mut start);
        read.map_err(|e| cut_off(file, &e))?;
        if is_lfs_pointer(&start) {
            return Err(WeightsError::Pointer(shortened(file)));
        }
        let mut cursor = Cursor::new(&source, length);
        if cursor.array() != Ok(*b"GGUF") {
            return Err(damaged("it does not begin as a GGUF file does".into()));
        }
        match cursor.u32().map_err(damaged)? {
            2 | 3 => (),
            swapped if swapped.swap_bytes() <= 3 => {
                let reason = "its numbers are big-endian, which is not read";
                return Err(unusable(reason.into()).into());
            }
            version => {
                let reason = format!(
                    "it has version {version} of the format, 2 and 3 are read: convert the model \
                     again"
                );
                return Err(unusable(reason).into());
            }
        }
        let tensors = cursor.u64().map_err(damaged)?;
        let keys = cursor.u64().map_err(damaged)?;
        let values = Metadata::read(&mut cursor, keys).map_err(damaged)?;
        let entries = tensors::Entry::read_all(&mut cursor, tensors).map_err(damaged)?;
        let end = cursor.position();
        let metadata = Metadata::new(file.into(), values, cursor.finish());
        if let Some(types) = tensors::unreadable(&entries) {
            let readable = types::readable();
            let reason = format!(
                "tensors are stored as {types}, which is not known: known are {readable}. Take a \
                 file of another quantisation, such as Q4_K_M or Q8_0"
            );
            return Err(unusable(reason).into());
        }
        let alignment = metadata.integer("general.alignment")?.unwrap_or(ALIGNMENT);
        let data = match alignment.is_power_of_two() {
            true => end.checked_next_multiple_of(alignment),
            false => None,
        };
        let data = data.ok_or_else(|| damaged(format!("general.alignment is {alignment}")))?;
        let tensors = tensors::places(entries, (data, alignment), length).map_err(damaged)?;
        Ok(Self {
            source,
            metadata,
            tensors,
        })
    }

    /// What it says about its model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor by its own name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Name of the file, for errors.
    pub(crate) fn file(&self) -> &str {
        self.metadata.file()
    }

    /// Bytes of its tensors.
    fn size(&self) -> usize {
        let bytes = self.tensors.values().map(|tensor| tensor.bytes);
        bytes.fold(0, usize::saturating_add)
    }
}

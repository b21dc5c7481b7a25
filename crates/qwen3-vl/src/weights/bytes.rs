//! The bytes of a file of weights.
//!
//! Files are read, not mapped: if another process truncates a mapped file, SIGBUS ends this
//! process. Mapping would save no memory, because the model computes with copies.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use super::WeightsError;
use crate::file::open_regular;
use crate::quote::shortened;

/// A file elsewhere, of which pieces can be read.
pub(crate) trait ReadAt: Debug + Send + Sync {
    /// Fills `out` with the bytes from `start` on.
    ///
    /// # Errors
    ///
    /// Those of reading.
    fn read_at(&self, start: u64, out: &mut [u8]) -> io::Result<()>;
}

/// A file of weights that may not be here yet: its name, its bytes and their number.
#[derive(Debug)]
pub(crate) struct WeightFile {
    pub name: String,
    pub source: Source,
    pub length: u64,
}

impl WeightFile {
    /// A file that is here.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Io`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let (name, source, length) = Source::open(path)?;
        Ok(Self {
            name,
            source,
            length,
        })
    }
}

/// Bytes that can be read from any place.
#[derive(Debug)]
pub(crate) enum Source {
    /// In a file.
    File(File),
    /// In the program.
    Static(&'static [u8]),
    /// In memory.
    Memory(Vec<u8>),
    /// Elsewhere.
    Remote(Box<dyn ReadAt>),
}

impl Source {
    /// A regular file, with its name for errors and its length.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Io`].
    pub(super) fn open(path: &Path) -> Result<(String, Self, u64), WeightsError> {
        let (file, length) = open_regular(path).map_err(|source| WeightsError::Io {
            path: path.into(),
            source,
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), Self::File(file), length))
    }

    /// Fills `out` with the bytes from `start` on.
    ///
    /// # Errors
    ///
    /// Those of reading; [`io::ErrorKind::UnexpectedEof`] if there are fewer.
    pub(super) fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => read_exact_at(file, start, out),
            Self::Static(bytes) => copy(bytes, start, out),
            Self::Memory(bytes) => copy(bytes, start, out),
            Self::Remote(file) => file.read_at(start, out),
        }
    }
}

fn copy(bytes: &[u8], start: u64, out: &mut [u8]) -> io::Result<()> {
    let range = usize::try_from(start).ok().and_then(|start| {
        let end = start.checked_add(out.len())?;
        bytes.get(start..end)
    });
    out.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, start: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut start: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, out, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start += read as u64;
        out = &mut out[read..];
    }
    Ok(())
}

/// The error of a file whose length was checked when it was opened, and which cannot be read now.
pub(super) fn cut_off(file: &str, error: &io::Error) -> WeightsError {
    WeightsError::Damaged {
        file: shortened(file),
        reason: why_cut_off(error),
    }
}

/// Why bytes cannot be read that were there when the file was opened.
pub(super) fn why_cut_off(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it was cut off while it was read".into(),
        _ => error.to_string(),
    }
}

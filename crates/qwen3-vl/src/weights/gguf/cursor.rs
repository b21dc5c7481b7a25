//! The header of a GGUF file, piece by piece.

use std::ops::Range;

use super::super::bytes::{Source, why_cut_off};

/// Most bytes of what stands before the tensors, as for safetensors. Qwen's vocabulary and merges
/// have 6 MB.
const HEADER_LIMIT: u64 = 100_000_000;
/// Bytes that are read at once, at least.
const PIECE: u64 = 1 << 20;

/// What has been read of a file, and how far it has been understood. A length is compared with what
/// is left of the file before anything is made of it.
pub(super) struct Cursor<'a> {
    source: &'a Source,
    /// Of the whole file.
    length: u64,
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source, length: u64) -> Self {
        Self {
            source,
            length,
            bytes: Vec::new(),
            at: 0,
        }
    }

    /// Bytes of the file behind here.
    pub(super) fn left(&self) -> u64 {
        self.length - self.at as u64
    }

    /// The next bytes, as a place in what [`Cursor::finish`] gives.
    pub(super) fn skip(&mut self, count: u64) -> Result<Range<usize>, String> {
        if count > self.left() {
            return Err("it ends inside its header".into());
        }
        let end = self.at as u64 + count;
        if end > HEADER_LIMIT {
            return Err(format!("its header has more than {HEADER_LIMIT} bytes"));
        }
        self.read_to(end)?;
        let start = self.at;
        self.at = end as usize;
        Ok(start..self.at)
    }

    /// Reads up to `end`, and a good piece more if there is one.
    fn read_to(&mut self, end: u64) -> Result<(), String> {
        let have = self.bytes.len() as u64;
        if end <= have {
            return Ok(());
        }
        let most = self.length.min(HEADER_LIMIT);
        let end = end.max(have + have.max(PIECE)).min(most);
        let more = (end - have) as usize;
        let room = self.bytes.try_reserve_exact(more);
        room.map_err(|_| "there is no memory for its header".to_owned())?;
        self.bytes.resize(end as usize, 0);
        let piece = &mut self.bytes[have as usize..];
        self.source.read(have, piece).map_err(|e| why_cut_off(&e))
    }

    /// Some of the bytes that have been passed.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        self.bytes.get(place).unwrap_or_default()
    }

    /// The next bytes as a number, least byte first.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let place = self.skip(N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(place));
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text behind its length.
    pub(super) fn text(&mut self) -> Result<Range<usize>, String> {
        let length = self.u64()?;
        self.skip(length)
    }

    /// A name of at most `limit` bytes.
    pub(super) fn name(&mut self, what: &str, limit: u64) -> Result<String, String> {
        let length = self.u64()?;
        if !(1..=limit).contains(&length) {
            return Err(format!("the name of a {what} has {length} bytes"));
        }
        let place = self.skip(length)?;
        let name = std::str::from_utf8(self.bytes(place));
        name.map(Into::into)
            .map_err(|_| format!("the name of a {what} is no text"))
    }

    /// Where the next byte is.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// All bytes up to here.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.truncate(self.at);
        self.bytes.shrink_to_fit();
        self.bytes
    }
}

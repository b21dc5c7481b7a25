//! Matrices that are transposed in their file.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::WeightsError;

/// Bytes that are read at a time. They fit into a core's second-level cache, where they are
/// transposed.
const CHUNK: usize = 256 << 10;

/// A matrix `[rows, columns]` that the file has as the columns `first..first + rows` of a matrix
/// `[columns, width]`. Its rows are spread over all of that, so it is read once, as a whole.
#[derive(Debug)]
pub(super) struct Transposed {
    first: usize,
    width: usize,
    /// The values in row-major order, after they have been read.
    bytes: OnceLock<Vec<u8>>,
    reading: Mutex<()>,
}

impl Transposed {
    /// A matrix that has not been read yet.
    pub(super) fn new(first: usize, width: usize) -> Self {
        Self {
            first,
            width,
            bytes: OnceLock::new(),
            reading: Mutex::new(()),
        }
    }

    /// The values of the matrix `name` in row-major order, each of `size` bytes. `read` reads bytes
    /// of the matrix in the file, from a first one on.
    ///
    /// # Errors
    ///
    /// No memory, and those of `read`.
    pub(super) fn bytes(
        &self,
        name: &str,
        (rows, columns): (usize, usize),
        size: usize,
        read: impl Fn(usize, &mut [u8]) -> Result<(), WeightsError>,
    ) -> Result<&[u8], WeightsError> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        // One thread reads, the others wait.
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        let room = bytes.try_reserve_exact(rows * columns * size);
        room.map_err(|_| WeightsError::Memory(name.into()))?;
        bytes.resize(rows * columns * size, 0);
        let line = self.width * size;
        let lines = (CHUNK / line).clamp(1, columns);
        let mut piece = vec![0; lines * line];
        for at in (0..columns).step_by(lines) {
            let piece = &mut piece[..lines.min(columns - at) * line];
            read(at * line, piece)?;
            let place = (columns, at);
            match size {
                1 => self.turn::<1>(piece, &mut bytes, place),
                2 => self.turn::<2>(piece, &mut bytes, place),
                4 => self.turn::<4>(piece, &mut bytes, place),
                _ => self.turn::<8>(piece, &mut bytes, place),
            }
        }
        Ok(self.bytes.get_or_init(|| bytes))
    }

    /// Writes the lines of `piece` as columns of `out`, from column `at` on.
    fn turn<const SIZE: usize>(&self, piece: &[u8], out: &mut [u8], (columns, at): (usize, usize)) {
        let (values, _) = piece.as_chunks::<SIZE>();
        let (out, _) = out.as_chunks_mut::<SIZE>();
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            let column = values.iter().skip(self.first + row).step_by(self.width);
            for (out, value) in out[at..].iter_mut().zip(column) {
                *out = *value;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_find_their_places(
            (rows, columns, size) in (1usize..90, 1usize..400, 0u32..4),
            (first, after) in (0usize..5, 0usize..90),
        ) {
            let size = 1 << size;
            let width = first + rows + after;
            let file: Vec<u8> = (0..columns * width * size).map(|i| (i * 31 % 251) as u8).collect();
            let read_bytes = AtomicUsize::new(0);
            let read = |from: usize, out: &mut [u8]| {
                read_bytes.fetch_add(out.len(), Ordering::Relaxed);
                out.copy_from_slice(&file[from..][..out.len()]);
                Ok(())
            };
            let matrix = Transposed::new(first, width);
            for _ in 0..2 {
                let bytes = matrix.bytes("x", (rows, columns), size, read).unwrap();
                for (i, value) in bytes.chunks_exact(size).enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let from = (column * width + first + row) * size;
                    prop_assert_eq!(value, &file[from..from + size]);
                }
            }
            // Once, however often it is asked.
            prop_assert_eq!(read_bytes.into_inner(), file.len());
        }
    }
}

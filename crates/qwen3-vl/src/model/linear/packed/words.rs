//! Small integers in words of 32 bits, as checkpoints store them.

use std::ops::Range;

use crate::config::quantization::Bits;
use crate::weights::{StoredTensor, WeightsError};

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Which way integers go that share a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// Of one column, in rows that follow each other.
    Rows,
    /// Of one row, in columns that follow each other.
    Columns,
}

/// How a matrix `[rows, columns]` of integers is in words. Rows are outputs of the layer, columns
/// its inputs, or groups of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    pub(super) bits: Bits,
    pub(super) along: Along,
    /// Whether the file has the words of a row one behind the other, else those of a column.
    pub(super) by_rows: bool,
    /// At which place in its word the first, second, … integer is.
    pub(super) places: [u8; 8],
}

/// First integer in the lowest bits.
pub(super) const IN_ORDER: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

impl Packing {
    /// The shape of the tensor that holds such a matrix.
    pub(super) fn shape(&self, (rows, columns): (usize, usize)) -> Vec<usize> {
        let (rows, columns) = self.words((rows, columns));
        match self.by_rows {
            true => vec![rows, columns],
            false => vec![columns, rows],
        }
    }

    /// Words down and across.
    fn words(&self, (rows, columns): (usize, usize)) -> (usize, usize) {
        let per_word = self.bits.per_word();
        match self.along {
            Along::Rows => (rows.div_ceil(per_word), columns),
            Along::Columns => (rows, columns.div_ceil(per_word)),
        }
    }
}

/// A matrix of integers.
pub(super) struct Words {
    words: Vec<u32>,
    packing: Packing,
    rows: usize,
    columns: usize,
}

impl Words {
    /// Reads a tensor of the packing's shape.
    pub(super) fn read(
        stored: &dyn StoredTensor,
        packing: Packing,
        (rows, columns): (usize, usize),
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            words: read_words(stored)?,
            packing,
            rows,
            columns,
        })
    }

    /// The integer of a row and a column.
    pub(super) fn get(&self, row: usize, column: usize) -> u8 {
        let per_word = self.packing.bits.per_word();
        let (down, across, index) = match self.packing.along {
            Along::Rows => (row / per_word, column, row % per_word),
            Along::Columns => (row, column / per_word, column % per_word),
        };
        self.integer(self.words[self.word(down, across)], index)
    }

    /// Some rows, one behind the other. The first is a multiple of 8.
    pub(super) fn rows(&self, rows: Range<usize>, out: &mut [u8]) {
        let (per_word, columns) = (self.packing.bits.per_word(), self.columns);
        let across = self.packing.words((self.rows, columns)).1;
        let down = match self.packing.along {
            Along::Rows => rows.start / per_word..rows.end.div_ceil(per_word),
            Along::Columns => rows.clone(),
        };
        for across in 0..across {
            for down in down.clone() {
                let word = self.words[self.word(down, across)];
                match self.packing.along {
                    Along::Rows => {
                        let first = down * per_word;
                        for row in first..rows.end.min(first + per_word) {
                            let place = (row - rows.start) * columns + across;
                            out[place] = self.integer(word, row - first);
                        }
                    }
                    Along::Columns => {
                        let first = across * per_word;
                        let line = &mut out[(down - rows.start) * columns..][..columns];
                        for (index, out) in line[first..].iter_mut().take(per_word).enumerate() {
                            *out = self.integer(word, index);
                        }
                    }
                }
            }
        }
    }

    fn word(&self, down: usize, across: usize) -> usize {
        let all = self.packing.words((self.rows, self.columns));
        match self.packing.by_rows {
            true => down * all.1 + across,
            false => across * all.0 + down,
        }
    }

    fn integer(&self, word: u32, index: usize) -> u8 {
        let place = u32::from(self.packing.places[index]);
        match self.packing.bits {
            Bits::Four => (word >> (4 * place) & 15) as u8,
            Bits::Eight => (word >> (8 * place)) as u8,
        }
    }
}

/// All words of a tensor in I32.
pub(super) fn read_words(stored: &dyn StoredTensor) -> Result<Vec<u32>, WeightsError> {
    let bytes = stored.size();
    let mut words = Vec::new();
    let room = words.try_reserve_exact(bytes / 4);
    room.map_err(|_| WeightsError::Memory(stored.name().into()))?;
    let mut buffer = vec![0; CHUNK.min(bytes)];
    for first in (0..bytes).step_by(CHUNK) {
        let piece = &mut buffer[..CHUNK.min(bytes - first)];
        stored.read(first, piece)?;
        let (numbers, _) = piece.as_chunks();
        words.extend(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)));
    }
    Ok(words)
}

//! Positions, lengths and block tables of a pass, in the layout that the CUDA kernels read. Pure.

use crate::model::kv_cache::BLOCK_TOKENS;
use qwen3_vl_core::prompt::Position;

/// Rows of a tile of `attention.cu`: queries times the query heads that share a key head.
const TILE_ROWS: usize = 64;

/// A sequence in a launch (`sequence.cuh`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Index of its first query among those of all sequences.
    pub query: u32,
    /// Number of its queries: those of its last tokens.
    pub queries: u32,
    /// Number of its keys; 0 for a padding row.
    pub keys: u32,
    /// Index of its first page in the table of pages.
    pub page: u32,
}

/// A tile of queries (`attention.cu`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Index of the sequence.
    pub sequence: u32,
    /// Its first row among the sequence's rows.
    pub first: u32,
}

/// The input of one sequence to a pass.
#[derive(Clone, Debug)]
pub struct SequenceInput<'a> {
    /// Its next tokens.
    pub ids: &'a [u32],
    /// Their positions.
    pub positions: &'a [Position],
    /// Number of tokens in its cache.
    pub cached: usize,
    /// Number of its last tokens whose hidden states are wanted.
    pub outputs: usize,
    /// Addresses of its pages, including those that the next tokens are written to.
    pub pages: Vec<u64>,
}

/// Metadata of a pass. A row is one token of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionMetadata {
    /// Id of each row.
    pub ids: Vec<u32>,
    /// Position of each row: time, height, width.
    pub positions: Vec<u32>,
    /// Rows whose hidden states are wanted.
    pub outputs: Vec<u32>,
    /// Address of each row's key in the first layer; 0 for a padding row.
    pub slots: Vec<u64>,
    /// Block tables: addresses of the pages of all sequences, one sequence behind the other.
    pub pages: Vec<u64>,
    /// Sequences with one query.
    pub decoding: Vec<Sequence>,
    /// Sequences with more queries.
    pub prefilling: Vec<Sequence>,
    /// Their tiles, those with most keys first, so that no long tile runs last.
    pub tiles: Vec<Tile>,
}

impl AttentionMetadata {
    /// Metadata of a pass in which a token's keys of one layer take `token_bytes` and `group` query
    /// heads share a key head.
    pub fn new(inputs: &[SequenceInput<'_>], token_bytes: usize, group: usize) -> Self {
        let mut metadata = Self::default();
        for input in inputs {
            metadata.add(input, token_bytes);
        }
        metadata.tiles = tiles(&metadata.prefilling, group);
        metadata
    }

    fn add(&mut self, input: &SequenceInput<'_>, token_bytes: usize) {
        let queries = input.ids.len();
        let keys = input.cached + queries;
        let sequence = Sequence {
            query: self.ids.len() as u32,
            queries: queries as u32,
            keys: keys as u32,
            page: self.pages.len() as u32,
        };
        match queries {
            0 => return,
            1 => self.decoding.push(sequence),
            _ => self.prefilling.push(sequence),
        }
        self.ids.extend(input.ids);
        self.positions.extend(input.positions.iter().flatten());
        let rows = self.ids.len();
        self.outputs
            .extend((rows - input.outputs) as u32..rows as u32);
        self.slots.extend(
            (input.cached..keys).map(|at| {
                input.pages[at / BLOCK_TOKENS] + (at % BLOCK_TOKENS * token_bytes) as u64
            }),
        );
        self.pages
            .extend(&input.pages[..keys.div_ceil(BLOCK_TOKENS)]);
    }

    /// Metadata of `grids` grids of `patches` patches, whose patches attend to their own grid.
    /// Pages are offsets in bytes from the first key of the first grid; a patch takes
    /// `patch_bytes`.
    pub fn of_grids(grids: usize, patches: usize, patch_bytes: usize) -> Self {
        let pages = patches.div_ceil(BLOCK_TOKENS);
        let mut metadata = Self::default();
        for grid in 0..grids {
            let first = grid * patches;
            metadata.prefilling.push(Sequence {
                query: first as u32,
                queries: patches as u32,
                keys: patches as u32,
                page: metadata.pages.len() as u32,
            });
            let page = |n| ((first + n * BLOCK_TOKENS) * patch_bytes) as u64;
            metadata.pages.extend((0..pages).map(page));
        }
        metadata.tiles = tiles(&metadata.prefilling, 1);
        metadata
    }

    /// Pads a batch of decoding sequences, each with one query and one output, to `rows`. Padding
    /// rows are discarded and attend to nothing.
    pub fn pad(&mut self, rows: usize) {
        for row in self.ids.len()..rows {
            self.decoding.push(Sequence {
                query: row as u32,
                queries: 1,
                ..Sequence::default()
            });
        }
        self.ids.resize(rows, 0);
        self.outputs = (0..rows as u32).collect();
        self.positions.resize(3 * rows, 0);
        self.slots.resize(rows, 0);
    }
}

/// Tiles of sequences, those with most keys first.
fn tiles(sequences: &[Sequence], group: usize) -> Vec<Tile> {
    let mut tiles: Vec<(u32, Tile)> = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        let rows = sequence.queries as usize * group;
        for first in (0..rows).step_by(TILE_ROWS) {
            let last = (first + TILE_ROWS).min(rows) - 1;
            let seen = sequence.keys - sequence.queries + (last / group) as u32 + 1;
            let tile = Tile {
                sequence: index as u32,
                first: first as u32,
            };
            tiles.push((seen, tile));
        }
    }
    tiles.sort_by_key(|(seen, _)| std::cmp::Reverse(*seen));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: usize = 512;

    /// Calls `check` with sequences of the given numbers of cached and new tokens. Page n of
    /// sequence s is at (s + 1) << 40 | n << 20.
    fn with_inputs(sizes: &[(usize, usize)], check: impl FnOnce(&[SequenceInput<'_>])) {
        let ids: Vec<Vec<u32>> = sizes
            .iter()
            .map(|(_, new)| (0..*new as u32).collect())
            .collect();
        let positions: Vec<Vec<Position>> = sizes
            .iter()
            .map(|(_, new)| (0..*new as u32).map(|i| [i, i + 1, i + 2]).collect())
            .collect();
        let all: Vec<SequenceInput<'_>> = sizes
            .iter()
            .enumerate()
            .map(|(s, (cached, new))| SequenceInput {
                ids: &ids[s],
                positions: &positions[s],
                cached: *cached,
                outputs: (*new).min(2),
                // One page more than is used.
                pages: (0..=(cached + new) as u64 / BLOCK_TOKENS as u64)
                    .map(|n| (s as u64 + 1) << 40 | n << 20)
                    .collect(),
            })
            .collect();
        check(&all);
    }

    proptest! {
        /// Every row is written to its token's slot, and every query is in exactly one tile or
        /// decodes.
        #[test]
        fn every_row_has_its_place(
            sizes in prop::collection::vec((0usize..700, 0usize..300), 0..6),
            group in 1usize..9,
        ) {
            with_inputs(&sizes, |all| {
                let metadata = AttentionMetadata::new(all, TOKEN, group);
                let rows: usize = sizes.iter().map(|(_, new)| new).sum();
                assert_eq!(metadata.ids.len(), rows);
                assert_eq!(metadata.positions.len(), 3 * rows);
                let (mut row, mut outputs) = (0, Vec::new());
                for (s, (cached, new)) in sizes.iter().enumerate() {
                    for at in *cached..cached + new {
                        let page = (s as u64 + 1) << 40 | ((at / BLOCK_TOKENS) as u64) << 20;
                        assert_eq!(metadata.slots[row], page + (at % BLOCK_TOKENS * TOKEN) as u64);
                        row += 1;
                    }
                    outputs.extend((row - (*new).min(2)..row).map(|row| row as u32));
                }
                assert_eq!(metadata.outputs, outputs);
                let mut covered = vec![0; rows * group];
                for one in &metadata.decoding {
                    assert_eq!(one.queries, 1);
                    let first = one.query as usize * group;
                    covered[first..first + group].iter_mut().for_each(|n| *n += 1);
                }
                for tile in &metadata.tiles {
                    let of = metadata.prefilling[tile.sequence as usize];
                    let end = (tile.first as usize + TILE_ROWS).min(of.queries as usize * group);
                    let base = of.query as usize * group;
                    covered[base + tile.first as usize..base + end].iter_mut().for_each(|n| *n += 1);
                }
                assert!(covered.iter().all(|n| *n == 1), "{covered:?}");
                for one in metadata.decoding.iter().chain(&metadata.prefilling) {
                    for n in 0..(one.keys as usize).div_ceil(BLOCK_TOKENS) {
                        let page = metadata.pages[one.page as usize + n];
                        assert_eq!(page >> 20 & 0xfffff, n as u64);
                        assert_eq!(page >> 40, metadata.pages[one.page as usize] >> 40);
                    }
                }
            });
        }
    }

    #[test]
    fn padding_rows_are_discarded_and_attend_to_nothing() {
        with_inputs(&[(5, 1), (200, 1)], |all| {
            let mut metadata = AttentionMetadata::new(all, TOKEN, 2);
            metadata.pad(4);
            assert_eq!((metadata.ids.len(), metadata.positions.len()), (4, 12));
            assert_eq!(metadata.slots[2..], [0, 0]);
            let padding: Vec<_> = metadata.decoding[2..]
                .iter()
                .map(|s| (s.query, s.keys))
                .collect();
            assert_eq!(padding, [(2, 0), (3, 0)]);
        });
    }

    #[test]
    fn tiles_with_most_keys_come_first() {
        let of = |queries, keys| Sequence {
            queries,
            keys,
            ..Sequence::default()
        };
        let order: Vec<_> = tiles(&[of(100, 100), of(2, 1000)], 1)
            .into_iter()
            .map(|tile| (tile.sequence, tile.first))
            .collect();
        assert_eq!(order, [(1, 0), (0, 64), (0, 0)]);
    }
}

//! What a pass must know on the device, as numbers. Pure.

use crate::model::kv_cache::BLOCK_TOKENS;
use qwen3_vl_core::prompt::Position;

/// Rows of a tile of `attention.cu`: queries times the heads that share a key.
const TILE_ROWS: usize = 64;

/// A sequence in a launch (`sequence.cuh`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// First of its queries among those of all.
    pub query: u32,
    /// Its queries: the last of its keys.
    pub queries: u32,
    /// Its keys; none of a sequence that fills a batch.
    pub keys: u32,
    /// Place of its first page in the table of pages.
    pub page: u32,
}

/// A tile of queries (`attention.cu`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Which sequence.
    pub sequence: u32,
    /// First row of it.
    pub first: u32,
}

/// What one sequence brings into a pass.
#[derive(Clone, Debug)]
pub struct SequenceInput<'a> {
    /// Its next tokens.
    pub ids: &'a [u32],
    /// Their positions.
    pub positions: &'a [Position],
    /// Tokens in its cache.
    pub cached: usize,
    /// How many hidden states are asked for: those of its last tokens.
    pub outputs: usize,
    /// Addresses of its pages, with room for the next tokens.
    pub pages: Vec<u64>,
}

/// All that a pass needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionMetadata {
    /// Id of each row.
    pub ids: Vec<u32>,
    /// Position of each row: time, height, width.
    pub positions: Vec<u32>,
    /// Rows whose hidden states are asked for.
    pub outputs: Vec<u32>,
    /// Where each row's key goes in the first layer.
    pub slots: Vec<u64>,
    /// Pages of all sequences.
    pub pages: Vec<u64>,
    /// Sequences with one query.
    pub decoding: Vec<Sequence>,
    /// Those with more.
    pub prefilling: Vec<Sequence>,
    /// Their tiles, those with most keys first, so that no long one is left at the end.
    pub tiles: Vec<Tile>,
}

impl AttentionMetadata {
    /// Plans a pass in which keys of a token take `token_bytes` of a page and `group` query heads
    /// share a key.
    pub fn new(brought: &[SequenceInput<'_>], token_bytes: usize, group: usize) -> Self {
        let mut plan = Self::default();
        for part in brought {
            plan.add(part, token_bytes);
        }
        plan.tiles = tiles(&plan.prefilling, group);
        plan
    }

    fn add(&mut self, part: &SequenceInput<'_>, token_bytes: usize) {
        let queries = part.ids.len();
        let keys = part.cached + queries;
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
        self.ids.extend(part.ids);
        self.positions.extend(part.positions.iter().flatten());
        let rows = self.ids.len();
        self.outputs
            .extend((rows - part.outputs) as u32..rows as u32);
        self.slots
            .extend((part.cached..keys).map(|at| {
                part.pages[at / BLOCK_TOKENS] + (at % BLOCK_TOKENS * token_bytes) as u64
            }));
        self.pages
            .extend(&part.pages[..keys.div_ceil(BLOCK_TOKENS)]);
    }

    /// Grids of so many patches, each of which sees its own. Pages are told as the distance from
    /// the first key of the first grid, where a patch takes `patch_bytes`.
    pub fn of_grids(grids: usize, patches: usize, patch_bytes: usize) -> Self {
        let pages = patches.div_ceil(BLOCK_TOKENS);
        let mut plan = Self::default();
        for grid in 0..grids {
            let first = grid * patches;
            plan.prefilling.push(Sequence {
                query: first as u32,
                queries: patches as u32,
                keys: patches as u32,
                page: plan.pages.len() as u32,
            });
            let page = |n| ((first + n * BLOCK_TOKENS) * patch_bytes) as u64;
            plan.pages.extend((0..pages).map(page));
        }
        plan.tiles = tiles(&plan.prefilling, 1);
        plan
    }

    /// Fills a batch of sequences with one query, of each of which one output is asked for, up to
    /// `rows`: what is added is not kept and sees nothing.
    pub fn fill(&mut self, rows: usize) {
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

    /// Sequences of so many cached and new tokens, whose page n of sequence s is at (s + 1) << 40 |
    /// n << 20.
    fn brought(sizes: &[(usize, usize)], check: impl FnOnce(&[SequenceInput<'_>])) {
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
                // One more than is used.
                pages: (0..=(cached + new) as u64 / BLOCK_TOKENS as u64)
                    .map(|n| (s as u64 + 1) << 40 | n << 20)
                    .collect(),
            })
            .collect();
        check(&all);
    }

    proptest! {
        /// Every row is written where its token belongs, and every query is in one tile or decodes.
        #[test]
        fn every_row_has_its_place(
            sizes in prop::collection::vec((0usize..700, 0usize..300), 0..6),
            group in 1usize..9,
        ) {
            brought(&sizes, |all| {
                let plan = AttentionMetadata::new(all, TOKEN, group);
                let rows: usize = sizes.iter().map(|(_, new)| new).sum();
                assert_eq!(plan.ids.len(), rows);
                assert_eq!(plan.positions.len(), 3 * rows);
                let (mut row, mut outputs) = (0, Vec::new());
                for (s, (cached, new)) in sizes.iter().enumerate() {
                    for at in *cached..cached + new {
                        let page = (s as u64 + 1) << 40 | ((at / BLOCK_TOKENS) as u64) << 20;
                        assert_eq!(plan.slots[row], page + (at % BLOCK_TOKENS * TOKEN) as u64);
                        row += 1;
                    }
                    outputs.extend((row - (*new).min(2)..row).map(|row| row as u32));
                }
                assert_eq!(plan.outputs, outputs);
                let mut covered = vec![0; rows * group];
                for one in &plan.decoding {
                    assert_eq!(one.queries, 1);
                    let first = one.query as usize * group;
                    covered[first..first + group].iter_mut().for_each(|n| *n += 1);
                }
                for tile in &plan.tiles {
                    let of = plan.prefilling[tile.sequence as usize];
                    let end = (tile.first as usize + TILE_ROWS).min(of.queries as usize * group);
                    let base = of.query as usize * group;
                    covered[base + tile.first as usize..base + end].iter_mut().for_each(|n| *n += 1);
                }
                assert!(covered.iter().all(|n| *n == 1), "{covered:?}");
                for one in plan.decoding.iter().chain(&plan.prefilling) {
                    for n in 0..(one.keys as usize).div_ceil(BLOCK_TOKENS) {
                        let page = plan.pages[one.page as usize + n];
                        assert_eq!(page >> 20 & 0xfffff, n as u64);
                        assert_eq!(page >> 40, plan.pages[one.page as usize] >> 40);
                    }
                }
            });
        }
    }

    #[test]
    fn what_fills_a_batch_is_not_kept_and_sees_nothing() {
        brought(&[(5, 1), (200, 1)], |all| {
            let mut plan = AttentionMetadata::new(all, TOKEN, 2);
            plan.fill(4);
            assert_eq!((plan.ids.len(), plan.positions.len()), (4, 12));
            assert_eq!(plan.slots[2..], [0, 0]);
            let fill: Vec<_> = plan.decoding[2..]
                .iter()
                .map(|s| (s.query, s.keys))
                .collect();
            assert_eq!(fill, [(2, 0), (3, 0)]);
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

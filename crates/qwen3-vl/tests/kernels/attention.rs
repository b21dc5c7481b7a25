//! Attention over the paged KV cache, and in the vision tower.

use half::bf16;
use qwen3_vl::cpu::attention::{Block, Shape, attend};
use qwen3_vl::model::kv_cache::BLOCK_TOKENS;

use crate::emulated::{Value, close, random, wide};
use crate::launch;

/// As `sequence.cuh` has it.
#[repr(C)]
struct Sequence {
    query: u32,
    queries: u32,
    keys: u32,
    page: u32,
}

/// As `attention.cu` has it.
#[repr(C)]
struct Tile {
    sequence: u32,
    first: u32,
}

/// Layers of the cache; attention reads the last one.
const LAYERS: usize = 2;

/// The cache of sequences of given lengths, each with pages of its own in shuffled order.
struct Cache<T> {
    memory: Vec<T>,
    /// Page number of each entry of the table.
    order: Vec<usize>,
    /// First entry of each sequence in the table.
    first: Vec<usize>,
    /// Values of the keys of one page and layer.
    size: usize,
}

impl<T: Value> Cache<T> {
    fn new(lengths: &[usize], kv_heads: usize, head: usize) -> Self {
        let pages = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS));
        let count: usize = pages.clone().sum();
        let size = BLOCK_TOKENS * kv_heads * head;
        let mut cache = Self {
            memory: random("cache", count * LAYERS * 2 * size, count as u64),
            order: (0..count).rev().collect(),
            first: pages
                .scan(0, |sum, n| {
                    *sum += n;
                    Some(*sum - n)
                })
                .collect(),
            size,
        };
        // Behind the last token of a sequence memory may have any content.
        for (sequence, length) in lengths.iter().enumerate() {
            for token in *length..length.next_multiple_of(BLOCK_TOKENS) {
                let page = cache.order[cache.first[sequence] + token / BLOCK_TOKENS];
                for part in 0..2 * LAYERS {
                    let first = (page * 2 * LAYERS + part) * size;
                    let at = first + token % BLOCK_TOKENS * kv_heads * head;
                    cache.memory[at..][..kv_heads * head].fill(T::of(f32::NAN));
                }
            }
        }
        cache
    }

    fn table(&self) -> Vec<u64> {
        let page = self.size * LAYERS * 2;
        self.order
            .iter()
            .map(|number| &raw const self.memory[number * page] as u64)
            .collect()
    }

    /// Offsets in bytes to the last layer, and from its keys to its values.
    fn offsets(&self) -> (u64, u64) {
        let bytes = |values: usize| (values * size_of::<T>()) as u64;
        (bytes((LAYERS - 1) * 2 * self.size), bytes(self.size))
    }

    /// Keys and values of a sequence.
    fn blocks(&self, sequence: usize, keys: usize) -> Vec<Keys> {
        let pages = &self.order[self.first[sequence]..][..keys.div_ceil(BLOCK_TOKENS)];
        let layer = |number: &usize| (number * LAYERS + LAYERS - 1) * 2 * self.size;
        let part = |at: usize| wide(&self.memory[at..][..self.size]);
        pages
            .iter()
            .map(|number| (part(layer(number)), part(layer(number) + self.size)))
            .collect()
    }
}

/// Keys and values of a KV block.
type Keys = (Vec<f32>, Vec<f32>);

/// Compares a kernel's result for `q` with the CPU's, up to `steps` roundings.
fn check<T: Value>(
    got: &[T],
    q: &[T],
    (blocks, block): (&[Keys], usize),
    shape: Shape,
    steps: f32,
) {
    let blocks: Vec<_> = blocks
        .iter()
        .map(|(keys, values)| Block { keys, values })
        .collect();
    let what = format!(
        "attention of {} queries and {} keys",
        shape.queries, shape.keys
    );
    close(&what, got, &attend(&wide(q), &blocks, block, shape), steps);
}

/// Decodes sequences of these lengths; one without keys is a padding row.
fn decode<T: Value>(lengths: &[usize], heads: (usize, usize), head: usize, splits: usize) {
    decode_scaled::<T>(lengths, heads, head, splits, 1.0);
}

/// [`decode`] with queries multiplied by `factor`.
fn decode_scaled<T: Value>(
    lengths: &[usize],
    (heads, kv_heads): (usize, usize),
    head: usize,
    splits: usize,
    factor: f32,
) {
    let cache = Cache::<T>::new(lengths, kv_heads, head);
    let count = lengths.len();
    // Rows in another order than the sequences.
    let row = |sequence: usize| count - 1 - sequence;
    let q: Vec<T> = random("q", count * heads * head, count as u64);
    let q: Vec<T> = q.into_iter().map(|v| T::of(v.wide() * factor)).collect();
    let sequences: Vec<Sequence> = lengths
        .iter()
        .enumerate()
        .map(|(i, keys)| Sequence {
            query: row(i) as u32,
            queries: 1,
            keys: *keys as u32,
            page: cache.first[i] as u32,
        })
        .collect();
    let table = cache.table();
    let mut partial = vec![f32::NAN; count * heads * splits * (head + 2)];
    let mut out = vec![T::of(7.0); count * heads * head];
    let (layer, values) = cache.offsets();
    let scale = (head as f32).powf(-0.5);
    launch!(
        &format!("decode_attention_{}_{head}_{}", T::NAME, heads / kv_heads),
        (kv_heads, splits, count),
        128,
        q.as_ptr(),
        table.as_ptr(),
        sequences.as_ptr(),
        partial.as_mut_ptr(),
        layer,
        values,
        scale,
    );
    launch!(
        &format!("decode_attention_merge_{}_{head}", T::NAME),
        (heads, count, 1),
        head as u32,
        partial.as_ptr(),
        sequences.as_ptr(),
        out.as_mut_ptr(),
        splits as u32,
    );
    for (sequence, keys) in lengths.iter().enumerate() {
        let range = row(sequence) * heads * head..(row(sequence) + 1) * heads * head;
        if *keys == 0 {
            assert!(out[range].iter().all(|value| value.wide() == 0.0));
            continue;
        }
        let shape = Shape {
            queries: 1,
            keys: *keys,
            heads,
            kv_heads,
            head_dim: head,
            causal: true,
        };
        let blocks = cache.blocks(sequence, *keys);
        check(
            &out[range.clone()],
            &q[range],
            (&blocks, BLOCK_TOKENS),
            shape,
            1.0,
        );
    }
}

#[test]
fn decode_attention_of_one_sequence() {
    for length in [1, 2, 7, 8, 127, 128, 129, 300] {
        for splits in [1, 3, 8] {
            decode::<f32>(&[length], (4, 2), 128, splits);
        }
    }
    decode::<bf16>(&[300], (4, 2), 128, 3);
}

#[test]
fn decode_attention_of_scores_beyond_the_range_of_their_exponentials() {
    decode_scaled::<f32>(&[300], (4, 2), 128, 3, 16.0);
    decode_scaled::<bf16>(&[300], (4, 2), 128, 3, 16.0);
}

#[test]
fn decode_attention_of_sequences_of_different_lengths() {
    decode::<f32>(&[5, 0, 400, 130], (8, 2), 128, 4);
    decode::<bf16>(&[200, 1, 0], (8, 2), 64, 2);
}

#[test]
fn decode_attention_of_every_number_of_heads_that_share_a_key() {
    for heads in [1, 2, 4, 8] {
        for head in [32, 64, 128] {
            decode::<f32>(&[150], (heads, 1), head, 2);
            decode::<bf16>(&[150], (heads, 1), head, 2);
        }
    }
}

/// Tiles of a sequence's rows: queries times the query heads per key head.
fn tiles(sequence: usize, rows: usize) -> impl Iterator<Item = Tile> {
    let tile = move |first| Tile {
        sequence: sequence as u32,
        first: first as u32,
    };
    (0..rows).step_by(64).map(tile)
}

/// Causal attention of the last queries of sequences, given as numbers of queries and keys.
fn prefill(spans: &[(usize, usize)], (heads, kv_heads): (usize, usize), head: usize) {
    let lengths: Vec<usize> = spans.iter().map(|(_, keys)| *keys).collect();
    let cache = Cache::<bf16>::new(&lengths, kv_heads, head);
    let (group, width) = (heads / kv_heads, heads * head);
    let mut sequences = Vec::new();
    let mut query = 0;
    for (i, (queries, keys)) in spans.iter().enumerate() {
        let page = cache.first[i] as u32;
        sequences.push(Sequence {
            query,
            queries: *queries as u32,
            keys: *keys as u32,
            page,
        });
        query += *queries as u32;
    }
    let tiles: Vec<Tile> = spans
        .iter()
        .enumerate()
        .flat_map(|(i, (n, _))| tiles(i, n * group))
        .collect();
    let q: Vec<bf16> = random("q", query as usize * width, 3);
    let mut out = vec![bf16::NAN; q.len()];
    let table = cache.table();
    let (layer, values) = cache.offsets();
    launch!(
        &format!("attention_{head}"),
        (tiles.len(), kv_heads, 1),
        128,
        q.as_ptr(),
        table.as_ptr(),
        tiles.as_ptr(),
        sequences.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
        (kv_heads * head) as u32,
        group as u32,
        1u32,
        layer,
        values,
        (head as f32).powf(-0.5),
    );
    for (i, (queries, keys)) in spans.iter().enumerate() {
        let rows =
            sequences[i].query as usize * width..(sequences[i].query as usize + queries) * width;
        let shape = Shape {
            queries: *queries,
            keys: *keys,
            heads,
            kv_heads,
            head_dim: head,
            causal: true,
        };
        let blocks = cache.blocks(i, *keys);
        // Scores and weights are rounded too.
        check(
            &out[rows.clone()],
            &q[rows],
            (&blocks, BLOCK_TOKENS),
            shape,
            2.0,
        );
    }
}

#[test]
fn prefill_attention_of_any_number_of_queries_and_keys() {
    for (queries, keys) in [
        (1, 1),
        (2, 2),
        (16, 16),
        (17, 70),
        (64, 64),
        (65, 200),
        (3, 300),
        (100, 128),
    ] {
        prefill(&[(queries, keys)], (2, 2), 128);
    }
}

#[test]
fn prefill_attention_of_sequences_with_heads_that_share_keys() {
    prefill(&[(40, 150), (1, 1), (30, 30)], (4, 1), 128);
    prefill(&[(9, 140), (20, 20)], (4, 2), 64);
    prefill(&[(50, 50), (2, 260)], (16, 2), 32);
}

/// Attention of patches within their grids.
fn vision(grids: usize, patches: usize, heads: usize, head: usize) {
    let width = heads * head;
    let qkv: Vec<bf16> = random("qkv", grids * patches * 3 * width, 5);
    let pages = patches.div_ceil(BLOCK_TOKENS);
    let mut table = Vec::new();
    let mut sequences = Vec::new();
    for grid in 0..grids {
        let first = grid * patches;
        sequences.push(Sequence {
            query: first as u32,
            queries: patches as u32,
            keys: patches as u32,
            page: table.len() as u32,
        });
        table
            .extend((0..pages).map(|page| {
                &raw const qkv[((first + page * BLOCK_TOKENS) * 3 + 1) * width] as u64
            }));
    }
    let tiles: Vec<Tile> = (0..grids).flat_map(|grid| tiles(grid, patches)).collect();
    let mut out = vec![bf16::NAN; grids * patches * width];
    let bytes = (width * size_of::<bf16>()) as u64;
    launch!(
        &format!("attention_{head}"),
        (tiles.len(), heads, 1),
        128,
        qkv.as_ptr(),
        table.as_ptr(),
        tiles.as_ptr(),
        sequences.as_ptr(),
        out.as_mut_ptr(),
        (3 * width) as u32,
        (3 * width) as u32,
        1u32,
        0u32,
        0u64,
        bytes,
        (head as f32).powf(-0.5),
    );
    for grid in 0..grids {
        let part = |i: usize| -> Vec<bf16> {
            let rows =
                qkv[grid * patches * 3 * width..][..patches * 3 * width].chunks_exact(3 * width);
            rows.flat_map(|row| &row[i * width..][..width])
                .copied()
                .collect()
        };
        let shape = Shape {
            queries: patches,
            keys: patches,
            heads,
            kv_heads: heads,
            head_dim: head,
            causal: false,
        };
        let rows = grid * patches * width..(grid + 1) * patches * width;
        let blocks = [(wide(&part(1)), wide(&part(2)))];
        check(&out[rows], &part(0), (&blocks, patches), shape, 2.0);
    }
}

#[test]
fn vision_attention_of_every_width() {
    for head in [32, 64, 72, 128] {
        vision(1, 80, 2, head);
    }
    vision(2, 200, 1, 72);
    vision(3, 4, 2, 64);
}

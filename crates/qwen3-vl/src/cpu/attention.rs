//! Attention over keys and values in blocks, without copying or repeating them.

use rayon::prelude::*;

use super::Output;
use super::dot::Inputs;
use super::pool::interrupted;
use super::product::{Columns, multiply};
use super::transpose::transpose;
use super::vector;

/// Query rows of one head per tile.
const TILE: usize = 128;
/// Least keys of a block per product, padded with zeros: for fewer, and for one row, gemm uses
/// other kernels, which round differently. A token's result must not depend on how many keys its
/// tile attends to.
const LEAST_KEYS: usize = 4;

/// Sizes of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query rows.
    pub queries: usize,
    /// Keys in all blocks together.
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head h reads key head `h * kv_heads / heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether query i attends only to the first `keys - queries + i + 1` keys.
    pub causal: bool,
}

/// Keys and values of consecutive tokens, each `[tokens, kv_heads, head_dim]`; only part of the
/// last block may be in use.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// `softmax(q kᵀ / sqrt(head_dim)) v`, `[queries, heads, head_dim]` like `q`.
///
/// `block` is the number of tokens of every block but the last.
///
/// # Panics
///
/// If the slices are smaller than `shape` says.
pub fn attend(q: &[f32], blocks: &[Block<'_>], block: usize, shape: Shape) -> Vec<f32> {
    let Shape {
        queries,
        keys,
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    let (row, kv_row) = (heads * head_dim, kv_heads * head_dim);
    assert!(q.len() == queries * row && keys > 0, "attend: sizes");
    assert!(
        keys >= queries || !shape.causal,
        "attend: fewer keys than causal queries"
    );
    for (index, part) in blocks.iter().enumerate() {
        let used = keys.saturating_sub(index * block).min(block) * kv_row;
        assert!(
            part.keys.len() >= used && part.values.len() >= used,
            "attend: block sizes"
        );
    }
    assert!(blocks.len() * block >= keys, "attend: too few blocks");
    let mut out = Vec::with_capacity(q.len());
    let output = Output(out.as_mut_ptr());
    // A single row that is left over joins the last tile.
    let tiles = match queries % TILE {
        1 => (queries / TILE).max(1),
        _ => queries.div_ceil(TILE),
    };
    // Heads that share keys are one task, which reads the keys once, unless cores would be idle.
    let group = match heads / kv_heads {
        group if kv_heads * tiles >= rayon::current_num_threads() => group,
        _ => 1,
    };
    let groups = heads / group;
    // The last tiles attend to the most keys: they start first, so that no long task runs last.
    (0..groups * tiles)
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Scratch::default, |scratch, task| {
            let (tile, head) = (tiles - 1 - task / groups, task % groups * group);
            let first = tile * TILE;
            let rows = match tile + 1 == tiles {
                true => queries - first,
                false => TILE,
            };
            // SAFETY: the task's rows and heads are its own.
            let out = unsafe { output.at(first * row + head * head_dim) };
            if interrupted() {
                // SAFETY: as above; the heads of the group are side by side.
                unsafe { Output(out).clear(group * head_dim, rows, row) };
                return;
            }
            attend_tile(
                &Tile {
                    q: &q[first * row + head * head_dim..],
                    rows,
                    alone: queries == 1,
                    row,
                    group,
                    kv_row,
                    kv_offset: head * kv_heads / heads * head_dim,
                    head_dim,
                    visible: if shape.causal {
                        keys - queries + first + rows
                    } else {
                        keys
                    },
                    causal: shape.causal,
                },
                blocks,
                block,
                scratch,
                out,
            );
        });
    // SAFETY: the tasks cover all rows of all heads, and each has written its own.
    unsafe { out.set_len(q.len()) };
    out
}

struct Tile<'a> {
    /// Queries, from the first row of the first head on.
    q: &'a [f32],
    /// Query rows per head.
    rows: usize,
    /// Whether the call has a single query, for which dot products are cheaper than a matrix
    /// product.
    alone: bool,
    /// Values from one query row to the next.
    row: usize,
    /// Heads that share keys, side by side.
    group: usize,
    kv_row: usize,
    kv_offset: usize,
    head_dim: usize,
    /// Keys that the last row attends to.
    visible: usize,
    causal: bool,
}

impl Tile<'_> {
    /// Offset of row `r` in q and in the output; rows are counted head by head.
    fn place(&self, r: usize) -> usize {
        r % self.rows * self.row + r / self.rows * self.head_dim
    }

    /// Keys that row `r` attends to.
    fn seen(&self, r: usize) -> usize {
        if self.causal {
            self.visible - (self.rows - 1 - r % self.rows)
        } else {
            self.visible
        }
    }
}

/// A task's working memory, reused by the next task on that thread.
#[derive(Default)]
struct Scratch {
    /// Attention scores `[heads * rows, keys of a block]`.
    scores: Vec<f32>,
    /// One head's keys, transposed, or its values, made contiguous for gemm: in a block they have
    /// the stride of all heads, which is usually a power of two.
    head: Vec<f32>,
    /// Softmax state of each row.
    softmax: Vec<Softmax>,
}

/// The largest score of a row so far, and the sum of `exp(score - max)`.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f32,
}

/// Computes a tile block by block, so that no row needs all of its scores at once: a larger score
/// rescales the sums so far (Milakov and Gimelshein, "Online normalizer calculation for softmax").
fn attend_tile(
    tile: &Tile<'_>,
    blocks: &[Block<'_>],
    block: usize,
    scratch: &mut Scratch,
    out: *mut f32,
) {
    let Scratch {
        scores,
        head,
        softmax,
    } = scratch;
    let rows = tile.group * tile.rows;
    let scale = 1.0 / (tile.head_dim as f32).sqrt();
    // SAFETY: row r belongs to this task and has `head_dim` values; `weigh` of the first block
    // fills it.
    let out_of =
        |r: usize| unsafe { std::slice::from_raw_parts_mut(out.add(tile.place(r)), tile.head_dim) };
    softmax.clear();
    softmax.resize(
        rows,
        Softmax {
            max: f32::NEG_INFINITY,
            sum: 0.0,
        },
    );
    for (index, values) in blocks.iter().enumerate() {
        let start = index * block;
        if start >= tile.visible {
            break;
        }
        let used = block.min(tile.visible - start);
        let len = match tile.alone {
            true => used,
            false => used.max(LEAST_KEYS),
        };
        let part = |values| BlockSlice {
            start,
            used,
            len,
            values,
        };
        scores.resize(rows * len, 0.0);
        score(tile, part(values.keys), scale, scores, head);
        for (r, row) in scores.chunks_exact_mut(len).enumerate() {
            let seen = tile.seen(r).saturating_sub(start).min(len);
            let (seen, unseen) = row.split_at_mut(seen);
            unseen.fill(0.0);
            let old = softmax[r];
            let max = vector::max(seen).max(old.max);
            let shrink = vector::exp(old.max - max);
            if start > 0 && max > old.max {
                vector::scale(shrink, out_of(r));
            }
            let sum = old.sum * shrink + vector::exp_less(seen, max);
            softmax[r] = Softmax { max, sum };
        }
        weigh(tile, part(values.values), scores, head, out);
    }
    for (r, softmax) in softmax.iter().enumerate() {
        vector::scale(1.0 / softmax.sum, out_of(r));
    }
}

/// The part of a block that a tile attends to: `used` keys or values from the sequence's `start`
/// on, padded with zeros to `len`.
#[derive(Clone, Copy)]
struct BlockSlice<'a> {
    start: usize,
    used: usize,
    len: usize,
    values: &'a [f32],
}

/// `scores = scale * q kᵀ` for the keys of one block, `[heads * rows, len]`.
fn score(
    tile: &Tile<'_>,
    part: BlockSlice<'_>,
    scale: f32,
    scores: &mut [f32],
    head: &mut Vec<f32>,
) {
    let (width, BlockSlice { len, values, .. }) = (tile.head_dim, part);
    if tile.alone {
        let key = |j: usize| &values[j * tile.kv_row + tile.kv_offset..][..width];
        for (r, scores) in scores.chunks_exact_mut(len).enumerate() {
            let q = Inputs::one(&tile.q[tile.place(r)..][..width]);
            let (eights, rest) = scores.as_chunks_mut::<8>();
            let whole = 8 * eights.len();
            for (j, eight) in eights.iter_mut().enumerate() {
                let products = q.dots::<_, 1, 8>(0, std::array::from_fn(|k| key(8 * j + k)));
                *eight = products.map(|[product]| scale * product);
            }
            for (j, score) in rest.iter_mut().enumerate() {
                let [[product]] = q.dots(0, [key(whole + j)]);
                *score = scale * product;
            }
        }
        return;
    }
    head.resize(width * len, 0.0);
    match part.used == len {
        true => transpose(values, (len, tile.kv_row), (tile.kv_offset, width), head),
        false => {
            head.fill(0.0);
            for (j, key) in values.chunks(tile.kv_row).take(part.used).enumerate() {
                for (d, value) in key[tile.kv_offset..][..width].iter().enumerate() {
                    head[d * len + j] = *value;
                }
            }
        }
    }
    for (g, scores) in scores.chunks_exact_mut(tile.rows * len).enumerate() {
        // By columns: scoresᵀ [len, rows] = k [len, width] times qᵀ [width, rows].
        let scores = Columns {
            first: scores.as_mut_ptr(),
            step: len,
        };
        let q = Columns {
            first: tile.q[g * width..].as_ptr(),
            step: tile.row,
        };
        let sizes = (len, tile.rows, width);
        // SAFETY: head covers [width, len], q [rows, width] with stride `row`, and scores [rows,
        // len].
        unsafe { multiply(sizes, scores, false, head.as_ptr(), q, scale) };
    }
}

/// `out += scores v` for the values of one block, or `=` for the first one.
fn weigh(
    tile: &Tile<'_>,
    part: BlockSlice<'_>,
    scores: &[f32],
    head: &mut Vec<f32>,
    out: *mut f32,
) {
    let width = tile.head_dim;
    let BlockSlice {
        start,
        used,
        len,
        values,
    } = part;
    let row_of = |j: usize| &values[j * tile.kv_row + tile.kv_offset..][..width];
    if tile.alone {
        for (r, scores) in scores.chunks_exact(len).enumerate() {
            // SAFETY: the row belongs to this task; the first block clears it before it is read.
            let out = unsafe {
                let row = out.add(tile.place(r));
                if start == 0 {
                    row.write_bytes(0, width);
                }
                std::slice::from_raw_parts_mut(row, width)
            };
            for (j, score) in scores.iter().enumerate() {
                vector::axpy(*score, row_of(j), out);
            }
        }
        return;
    }
    head.clear();
    (0..used).for_each(|j| head.extend_from_slice(row_of(j)));
    head.resize(width * len, 0.0);
    for (g, scores) in scores.chunks_exact(tile.rows * len).enumerate() {
        // By columns: outᵀ [width, rows] (+)= vᵀ [width, len] times scoresᵀ [len, rows].
        let out = Columns {
            // SAFETY: the output has the heads of the group side by side.
            first: unsafe { out.add(g * width) },
            step: tile.row,
        };
        let scores = Columns {
            first: scores.as_ptr(),
            step: len,
        };
        let sizes = (width, tile.rows, len);
        // SAFETY: out covers [rows, width] with stride `row`, head [len, width], scores [rows,
        // len].
        unsafe { multiply(sizes, out, start > 0, head.as_ptr(), scores, 1.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, step: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * step % 127) as f32 - 63.0) / 40.0)
            .collect()
    }

    /// A query with the same keys gives the same bits at any place in a chunk of any size but one.
    #[test]
    fn a_query_does_not_depend_on_its_chunk() {
        let shape = |queries, keys| Shape {
            queries,
            keys,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            causal: true,
        };
        let (row, kv_row, block, keys) = (128, 64, 128, 700);
        let (k, v) = (numbers(keys * kv_row, 53), numbers(keys * kv_row, 71));
        let blocks: Vec<Block<'_>> =
            std::iter::zip(k.chunks(block * kv_row), v.chunks(block * kv_row))
                .map(|(keys, values)| Block { keys, values })
                .collect();
        let q = numbers(keys * row, 31);
        let whole = attend(&q, &blocks, block, shape(keys, keys));
        for (first, count) in [
            (0, 129),
            (129, 2),
            (131, 3),
            (134, 500),
            (634, 66),
            (2, 127),
            (100, 29),
        ] {
            let q = &q[first * row..(first + count) * row];
            let part = attend(q, &blocks, block, shape(count, first + count));
            let same = std::iter::zip(&part, &whole[first * row..])
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{count} queries from {first} on");
        }
    }

    /// The definition, in f64.
    fn naive(q: &[f32], k: &[f32], v: &[f32], s: Shape) -> Vec<f64> {
        let mut out = vec![0.0; q.len()];
        for i in 0..s.queries {
            for h in 0..s.heads {
                let kv = h / (s.heads / s.kv_heads);
                let seen = if s.causal {
                    s.keys - s.queries + i + 1
                } else {
                    s.keys
                };
                let at = |j: usize, d: usize| (j * s.kv_heads + kv) * s.head_dim + d;
                let q = &q[(i * s.heads + h) * s.head_dim..][..s.head_dim];
                let p: Vec<f64> = (0..seen)
                    .map(|j| {
                        let dot: f64 = (0..s.head_dim)
                            .map(|d| f64::from(q[d]) * f64::from(k[at(j, d)]))
                            .sum();
                        (dot / (s.head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = p.iter().sum();
                for d in 0..s.head_dim {
                    out[(i * s.heads + h) * s.head_dim + d] =
                        (0..seen).map(|j| p[j] / sum * f64::from(v[at(j, d)])).sum();
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_definition() {
        for (queries, keys, causal) in [
            (1, 1, true),
            (1, 37, true),
            (2, 20, true),
            (3, 20, true),
            (129, 140, true),
            (70, 70, true),
            (5, 150, true),
            (140, 140, true),
            (65, 97, true),
            (9, 9, false),
        ] {
            let s = Shape {
                queries,
                keys,
                heads: 4,
                kv_heads: 2,
                head_dim: 8,
                causal,
            };
            let (block, kv_row) = (16, s.kv_heads * s.head_dim);
            let padded = keys.div_ceil(block) * block * kv_row;
            let (q, k, v) = (
                numbers(queries * 32, 31),
                numbers(padded, 53),
                numbers(padded, 71),
            );
            let blocks: Vec<Block<'_>> = k
                .chunks(block * kv_row)
                .zip(v.chunks(block * kv_row))
                .map(|(keys, values)| Block { keys, values })
                .collect();
            let out = attend(&q, &blocks, block, s);
            for (got, want) in out.iter().zip(naive(&q, &k, &v, s)) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{s:?}: {got} {want}");
            }
        }
    }
}

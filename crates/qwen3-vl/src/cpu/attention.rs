//! Attention over keys and values that lie in blocks, without copying or repeating them.

use rayon::prelude::*;

use super::Output;
use super::dot::Inputs;
use super::product::{Columns, multiply};
use super::transpose::transpose;
use super::vector;

/// Query rows of one head that are worked on together.
const TILE: usize = 128;
/// Rows from which a matrix product beats dot products.
const GEMM_ROWS: usize = 4;

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
    /// Whether query i sees only the first `keys - queries + i + 1` keys.
    pub causal: bool,
}

/// Keys and values of consecutive tokens, each `[tokens, kv_heads, head_dim]`; the last block may
/// be longer than what is used of it.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// `softmax(q kᵀ / sqrt(head_dim)) v`, `[queries, heads, head_dim]` as `q` is.
///
/// `block` is the number of tokens that every block but the last holds.
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
    let tiles = queries.div_ceil(TILE);
    // The last tiles see the most keys: begin with them, so that no core is left with a long one.
    (0..heads * tiles)
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Scratch::default, |scratch, task| {
            let (tile, head) = (tiles - 1 - task / heads, task % heads);
            let first = tile * TILE;
            let rows = TILE.min(queries - first);
            // SAFETY: the task's rows and head are its own.
            let out = unsafe { output.at(first * row + head * head_dim) };
            attend_tile(
                &Tile {
                    q: &q[first * row + head * head_dim..],
                    rows,
                    row,
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
    // SAFETY: the tasks are all rows of all heads, and each has written its own.
    unsafe { out.set_len(q.len()) };
    out
}

struct Tile<'a> {
    q: &'a [f32],
    rows: usize,
    row: usize,
    kv_row: usize,
    kv_offset: usize,
    head_dim: usize,
    /// Keys that the last row sees.
    visible: usize,
    causal: bool,
}

/// A task's working memory, used again by the next task on that core.
#[derive(Default)]
struct Scratch {
    /// `[rows, visible]`.
    scores: Vec<f32>,
    /// One head's keys, turned, or its values: gemm's kernels read both in sequence, where they lie
    /// one row of all heads apart, most often a power of two.
    head: Vec<f32>,
}

fn attend_tile(
    tile: &Tile<'_>,
    blocks: &[Block<'_>],
    block: usize,
    Scratch { scores, head }: &mut Scratch,
    out: *mut f32,
) {
    let (rows, visible) = (tile.rows, tile.visible);
    scores.resize(rows * visible, 0.0);
    let scale = 1.0 / (tile.head_dim as f32).sqrt();
    let places = (0..blocks.len().min(visible.div_ceil(block))).map(|index| {
        let start = index * block;
        (&blocks[index], start, block.min(visible - start))
    });
    for (block, start, len) in places.clone() {
        let values = block.keys;
        score(tile, Part { start, len, values }, scale, scores, head);
    }
    for (i, row) in scores.chunks_exact_mut(visible).enumerate() {
        let seen = if tile.causal {
            visible - (rows - 1 - i)
        } else {
            visible
        };
        row[seen..].fill(0.0);
        vector::softmax(&mut row[..seen]);
    }
    for (block, start, len) in places {
        let values = block.values;
        weigh(tile, Part { start, len, values }, scores, head, out);
    }
}

/// What of a block a tile sees: `len` keys or values from the sequence's `start` on.
#[derive(Clone, Copy)]
struct Part<'a> {
    start: usize,
    len: usize,
    values: &'a [f32],
}

/// `scores[:, start..start + len] = scale * q kᵀ`.
fn score(tile: &Tile<'_>, part: Part<'_>, scale: f32, scores: &mut [f32], head: &mut Vec<f32>) {
    let (width, Part { start, len, values }) = (tile.head_dim, part);
    if tile.rows < GEMM_ROWS {
        for i in 0..tile.rows {
            let q = Inputs::one(&tile.q[i * tile.row..][..width]);
            let key = |j: usize| &values[j * tile.kv_row + tile.kv_offset..][..width];
            let scores = &mut scores[i * tile.visible + start..][..len];
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
    transpose(values, (len, tile.kv_row), (tile.kv_offset, width), head);
    // By columns: scoresᵀ [len, rows] = k [len, width] times qᵀ [width, rows].
    let scores = Columns {
        first: scores[start..].as_mut_ptr(),
        step: tile.visible,
    };
    let q = Columns {
        first: tile.q.as_ptr(),
        step: tile.row,
    };
    // SAFETY: head covers [width, len], q [rows, width] with stride `row`, and scores
    // [rows, visible], of which columns start..start + len are written.
    unsafe {
        multiply(
            (len, tile.rows, width),
            scores,
            false,
            head.as_ptr(),
            q,
            scale,
        )
    };
}

/// `out += scores[:, start..start + len] v`, or `=` for the first part.
fn weigh(tile: &Tile<'_>, part: Part<'_>, scores: &[f32], head: &mut Vec<f32>, out: *mut f32) {
    let (width, Part { start, len, values }) = (tile.head_dim, part);
    let row_of = |j: usize| &values[j * tile.kv_row + tile.kv_offset..][..width];
    if tile.rows < GEMM_ROWS {
        for i in 0..tile.rows {
            // SAFETY: row i of the tile's own head, `width` values; the first part clears them
            // before anything reads them.
            let out = unsafe {
                let row = out.add(i * tile.row);
                if start == 0 {
                    row.write_bytes(0, width);
                }
                std::slice::from_raw_parts_mut(row, width)
            };
            for j in 0..len {
                vector::axpy(scores[i * tile.visible + start + j], row_of(j), out);
            }
        }
        return;
    }
    head.clear();
    (0..len).for_each(|j| head.extend_from_slice(row_of(j)));
    // By columns: outᵀ [width, rows] (+)= vᵀ [width, len] times scoresᵀ [len, rows].
    let out = Columns {
        first: out,
        step: tile.row,
    };
    let scores = Columns {
        first: scores[start..].as_ptr(),
        step: tile.visible,
    };
    // SAFETY: out covers [rows, width] with stride `row`, head [len, width]; scores as in `score`.
    unsafe {
        multiply(
            (width, tile.rows, len),
            out,
            start > 0,
            head.as_ptr(),
            scores,
            1.0,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, step: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * step % 127) as f32 - 63.0) / 40.0)
            .collect()
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
            (3, 20, true),
            (70, 70, true),
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

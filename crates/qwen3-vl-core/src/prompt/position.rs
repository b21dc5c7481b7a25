//! Positions of interleaved M-RoPE (transformers: `Qwen3VLModel.get_rope_index`).

/// Gives the (time, height, width) position of every token, in order.
///
/// A text token has the same position on all three axes. The tokens of one vision grid have one
/// time position and count rows and columns from there; the next token comes after the larger side
/// of the grid. So positions grow more slowly than the number of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PositionCursor {
    next: u32,
    tokens: usize,
}

/// One token's position: time, height, width.
pub type Position = [u32; 3];

impl PositionCursor {
    /// Positions of `count` text tokens.
    pub fn text(&mut self, count: usize, out: &mut Vec<Position>) {
        out.extend((self.next..).take(count).map(|p| [p; 3]));
        self.next += count as u32;
        self.tokens += count;
    }

    /// Positions of one vision grid of `rows` x `columns` merged tokens, row by row.
    pub fn grid(&mut self, rows: u32, columns: u32, out: &mut Vec<Position>) {
        let start = self.next;
        for row in 0..rows {
            out.extend((0..columns).map(|column| [start, start + row, start + column]));
        }
        self.next += rows.max(columns);
        self.tokens += (rows * columns) as usize;
    }

    /// The difference of position and index for text after all tokens so far
    /// (transformers: `rope_deltas`).
    pub fn rope_delta(&self) -> i64 {
        i64::from(self.next) - self.tokens as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_advances_by_its_larger_side() {
        let (mut cursor, mut out) = (PositionCursor::default(), Vec::new());
        cursor.text(2, &mut out);
        cursor.grid(2, 3, &mut out);
        cursor.text(1, &mut out);
        assert_eq!(
            out,
            [
                [0, 0, 0],
                [1, 1, 1],
                [2, 2, 2],
                [2, 2, 3],
                [2, 2, 4],
                [2, 3, 2],
                [2, 3, 3],
                [2, 3, 4],
                [5, 5, 5],
            ]
        );
        assert_eq!(cursor.rope_delta(), 6 - 9);
    }
}

//! The attention heads of the language model, and the layout of their keys in a KV block.

use super::kv_cache::BLOCK_TOKENS;

/// Numbers and width of the attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of query heads.
    pub count: usize,
    /// Number of key and value heads.
    pub kv: usize,
    /// Values per head.
    pub width: usize,
}

impl Heads {
    /// Query heads per key head.
    pub fn group(self) -> usize {
        self.count / self.kv
    }

    /// Values of a token's keys in one layer.
    pub fn of_token(self) -> usize {
        self.kv * self.width
    }

    /// Offsets in a block `[layers, 2, BLOCK_TOKENS, kv, width]`, in values: from its start to the
    /// keys of a layer, and from those to the layer's values.
    pub fn place(self, layer: usize) -> (usize, usize) {
        let part = BLOCK_TOKENS * self.of_token();
        (2 * layer * part, part)
    }
}

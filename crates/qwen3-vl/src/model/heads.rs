//! The heads of the language model, and where their keys lie in a page of the cache.

use super::kv_cache::BLOCK_TOKENS;

/// Numbers and width of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub count: usize,
    /// Heads of keys and values.
    pub kv: usize,
    /// Values of a head.
    pub width: usize,
}

impl Heads {
    /// Query heads that share a key head.
    pub fn group(self) -> usize {
        self.count / self.kv
    }

    /// Values of the keys of a token in one layer.
    pub fn of_token(self) -> usize {
        self.kv * self.width
    }

    /// Values from the start of a page `[layers, 2, BLOCK_TOKENS, kv, width]` to the keys of a
    /// layer, and from those to its values.
    pub fn place(self, layer: usize) -> (usize, usize) {
        let part = BLOCK_TOKENS * self.of_token();
        (2 * layer * part, part)
    }
}

//! The state of a sequence in the layers of a model.

use candle_core::Result;

use super::kv_cache::KvCache;

/// The states of one sequence, one of each kind of layer. All cover the same tokens and are forked,
/// truncated and freed together, so that a scheduler need not know the kinds. The KV cache is the
/// only kind now; a recurrent state of hybrid layers would be another.
#[derive(Debug)]
pub struct SequenceState {
    attention: KvCache,
}

impl SequenceState {
    /// A state with this KV cache.
    pub fn new(attention: KvCache) -> Self {
        Self { attention }
    }

    /// Number of tokens in the state.
    pub fn len(&self) -> usize {
        self.attention.len()
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A second state with the same tokens, which shares memory until one of them grows.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            attention: self.attention.fork(),
        }
    }

    /// Drops all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.attention.truncate(len);
    }

    /// Frees all memory.
    pub fn free(&mut self) {
        self.attention.free();
    }

    /// Reserves memory for `tokens` more tokens. Call it once before the layers write theirs.
    ///
    /// # Errors
    ///
    /// If the device has no memory left; the state keeps its tokens then.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.attention.reserve(tokens)
    }

    /// Adds `tokens` that every layer has written.
    pub fn advance(&mut self, tokens: usize) {
        self.attention.advance(tokens);
    }

    /// The KV cache of the layers with attention.
    pub fn attention(&self) -> &KvCache {
        &self.attention
    }

    /// The KV cache, mutable.
    pub fn attention_mut(&mut self) -> &mut KvCache {
        &mut self.attention
    }
}

//! What a sequence leaves behind in the layers of a model.

use candle_core::Result;

use super::kv_cache::KvCache;

/// The states of one sequence, one of each kind that the model's layers have. All of them hold the
/// same tokens: they are forked, cut and freed together, so that a scheduler need not know what
/// they are. Keys and values of attention are the one kind now; a recurrent state of hybrid layers
/// would be another.
#[derive(Debug)]
pub struct SequenceState {
    attention: KvCache,
}

impl SequenceState {
    /// States that begin with this one.
    pub fn new(attention: KvCache) -> Self {
        Self { attention }
    }

    /// Tokens that the states hold.
    pub fn len(&self) -> usize {
        self.attention.len()
    }

    /// Whether they hold no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A second sequence with the same tokens, which shares memory until one of them goes on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            attention: self.attention.fork(),
        }
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.attention.truncate(len);
    }

    /// Gives all memory back.
    pub fn free(&mut self) {
        self.attention.free();
    }

    /// Makes room for `tokens` more tokens. To be called once before the layers write theirs.
    ///
    /// # Errors
    ///
    /// If the device has no memory left; the states are as before then.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.attention.reserve(tokens)
    }

    /// Counts `tokens` that every layer has written.
    pub fn advance(&mut self, tokens: usize) {
        self.attention.advance(tokens);
    }

    /// Keys and values of the layers with attention.
    pub fn attention(&self) -> &KvCache {
        &self.attention
    }

    /// The same, to write into.
    pub fn attention_mut(&mut self) -> &mut KvCache {
        &mut self.attention
    }
}

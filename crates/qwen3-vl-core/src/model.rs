//! What callers must know of a loaded model, and what a window of it may have at most.

use crate::frames::Size;
use crate::request::SamplingParams;

/// Facts about a loaded model that callers need.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name as the user gave it, for instance `demo` or a hub id.
    pub name: String,
    /// Kind of backend, for instance `local`.
    pub backend: &'static str,
    /// What computes, as the backend calls it; stands in messages.
    pub runs_on: String,
    /// What weights have been rounded to, and what could not be, for instance `q8-0`; none if none
    /// have.
    pub quantization: Option<String>,
    /// Sizes must be multiples of this many pixels (patch size times spatial merge).
    pub factor: u32,
    /// Frames per temporal patch.
    pub temporal_patch: u32,
    /// Pixels of a whole video (frames x height x width): least and most, from
    /// `video_preprocessor_config.json`.
    pub video_pixels: (u64, u64),
    /// Whether `video_pixels` are of each frame instead, as with the video processor of Qwen2-VL.
    pub video_pixels_per_frame: bool,
    /// Pixels of one image: least and most, from `preprocessor_config.json`.
    pub image_pixels: (u64, u64),
    /// How to decode by default: as the checkpoint says, and the model card where it says nothing.
    pub sampling: SamplingParams,
    /// What the checkpoint itself says of that, everything else off. It holds beside a temperature
    /// that a caller chose; the card's other values belong to the card's temperature.
    pub own_sampling: SamplingParams,
    /// Fewest tokens that the time before a pair of frames has, such as `<0.2 seconds>`.
    pub time_tokens: usize,
    /// What a window may have at most.
    pub limits: Limits,
}

/// What one window may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that the model can tell apart by position (`max_position_embeddings`).
    pub context: usize,
    /// Tokens that fit into the KV cache when it is empty.
    pub kv_tokens: usize,
    /// Vision tokens of one input (a pair of frames or an image) for which the vision tower has memory.
    pub input_tokens: usize,
}

impl Default for Limits {
    /// None.
    fn default() -> Self {
        Self {
            context: usize::MAX,
            kv_tokens: usize::MAX,
            input_tokens: usize::MAX,
        }
    }
}

/// More tokens than a window may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// More than the model's context.
    #[error(
        "the window needs {needed} tokens, more than the model's {limit} tokens of context: use fewer \
         frames (fps, max-frames, window-duration), fewer pixels (max-pixels, total-pixels, a lower \
         min-pixels) or a shorter prompt"
    )]
    Context {
        /// Tokens of the window, at least.
        needed: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// More than the KV cache.
    #[error(
        "the window needs {needed} tokens, more than the {limit} that fit into the KV cache: raise \
         kv-memory, or use fewer frames (fps, max-frames, window-duration), fewer pixels (max-pixels, \
         total-pixels, a lower min-pixels), a shorter prompt or a lower max-tokens"
    )]
    KvMemory {
        /// Tokens of the window, at least.
        needed: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// More at once than the vision tower has memory for.
    #[error(
        "frames of {}x{} pixels make {needed} tokens at once, and there is memory for {limit}: use \
         fewer pixels (max-pixels, total-pixels, a lower min-pixels)",
        size.width,
        size.height
    )]
    VisionMemory {
        /// Size of the frames.
        size: Size,
        /// Tokens of a pair of them.
        needed: usize,
        /// Tokens that there is memory for.
        limit: usize,
    },
}

impl Limits {
    /// Whether a window of so many tokens, then an answer of so many more, can ever be held. An answer
    /// ends where the context does, so all that the context needs to have is its first token.
    ///
    /// # Errors
    ///
    /// What is too small.
    pub fn check(&self, prompt: usize, answer: usize) -> Result<(), LimitError> {
        let needed = prompt.saturating_add(answer.min(1));
        if needed > self.context {
            let limit = self.context;
            return Err(LimitError::Context { needed, limit });
        }
        let needed = prompt.saturating_add(answer).min(self.context);
        match needed > self.kv_tokens {
            true => Err(LimitError::KvMemory {
                needed,
                limit: self.kv_tokens,
            }),
            false => Ok(()),
        }
    }

    /// Whether one input of `tokens` vision tokens can be encoded.
    ///
    /// # Errors
    ///
    /// [`LimitError::VisionMemory`].
    pub fn check_input(&self, size: Size, tokens: usize) -> Result<(), LimitError> {
        match tokens > self.input_tokens {
            true => Err(LimitError::VisionMemory {
                size,
                needed: tokens,
                limit: self.input_tokens,
            }),
            false => Ok(()),
        }
    }
}

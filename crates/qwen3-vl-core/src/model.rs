//! What callers need of a loaded model: its sizes, defaults and limits.

use crate::frames::Size;
use crate::request::SamplingParams;

/// Sizes, defaults and limits of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name as the user gave it, for instance `demo` or a hub id.
    pub name: String,
    /// Kind of backend, for instance `local`.
    pub backend: &'static str,
    /// The device, as it stands in messages.
    pub runs_on: String,
    /// The type that weights were rounded to at load, and the layers that could not be, for
    /// instance `q8-0`; else the types of a file's blocks, for instance `q4_k`; none for plain
    /// numbers.
    pub quantization: Option<String>,
    /// Arithmetic of products with weights, where there is a choice: `exact` or `fast`.
    pub compute: Option<&'static str>,
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
    /// Default sampling parameters: the checkpoint's, and the model card's where it has none.
    pub sampling: SamplingParams,
    /// The checkpoint's own sampling parameters, with everything else off. They go with a
    /// temperature that a caller sets; the card's other values are meant for the card's
    /// temperature.
    pub own_sampling: SamplingParams,
    /// Whether its chat template begins every answer with a thought (the Thinking models).
    pub thinks: bool,
    /// Fewest tokens of the timestamp before a pair of frames, such as `<0.2 seconds>`.
    pub time_tokens: usize,
    /// Limits of a window.
    pub limits: Limits,
}

/// Limits of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most positions of the model (`max_position_embeddings`).
    pub context: usize,
    /// Tokens that fit into the KV cache when it is empty.
    pub kv_tokens: usize,
    /// Vision tokens of one input (a pair of frames or an image) for which the vision tower has
    /// memory.
    pub input_tokens: usize,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self {
            context: usize::MAX,
            kv_tokens: usize::MAX,
            input_tokens: usize::MAX,
        }
    }
}

/// A window with more tokens than a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// More than the model's context.
    #[error(
        "the window needs {needed} tokens, more than the model's {limit} tokens of context: use \
         fewer frames (fps, max-frames, window-duration), fewer pixels (max-pixels, total-pixels, \
         a lower min-pixels) or a shorter prompt"
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
         kv-memory, or use fewer frames (fps, max-frames, window-duration), fewer pixels \
         (max-pixels, total-pixels, a lower min-pixels), a shorter prompt or a lower max-tokens or \
         reasoning-tokens"
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
    /// Checks whether a prompt of `prompt` tokens with an answer of `answer` tokens can ever fit.
    /// An answer ends at the end of the context, so only its first token has to fit there.
    ///
    /// # Errors
    ///
    /// The limit that is too small.
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

    /// Checks whether an input of `tokens` vision tokens can be encoded.
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

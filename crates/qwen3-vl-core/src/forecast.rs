//! The tokens and memory that a window will need, before it is allocated. Pure: numbers only.
//!
//! The same limits ([`Limits`]) apply three times: in [`WindowPlan::forecast`] when a window opens,
//! in the engine's admission, and at every input of a sequence.

use crate::failure::Failure;
use crate::frames::{Budget, BudgetError, Rounding, Size};
#[cfg(doc)]
use crate::model::Limits;
use crate::model::{LimitError, ModelInfo};

/// A window, as it is planned when its first frame comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowPlan {
    /// Pixel budget and its rule.
    pub budget: Budget,
    /// Size of the source frames, in square pixels.
    pub source: Size,
    /// Frames that the window will have.
    pub frames: u32,
    /// Whether each frame is an image; else two are a temporal patch.
    pub images: bool,
    /// Bytes of the prompt and the system prompt together.
    pub text_bytes: usize,
    /// A lower bound of the tokens of both ([`Backend::text_tokens`]).
    ///
    /// [`Backend::text_tokens`]: crate::backend::Backend::text_tokens
    pub text_tokens: usize,
    /// Most tokens of the answer.
    pub max_tokens: u32,
}

/// The needs of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The size to which each frame is resized.
    pub size: Size,
    /// The rounding of that resize.
    pub rounding: Rounding,
    /// Vision tokens of one input.
    pub input_tokens: usize,
    /// Tokens of prompt and answer to reserve in the KV cache: never fewer than needed, never more
    /// than the context.
    pub tokens: usize,
}

/// Why a planned window can never be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ForecastError {
    /// The pixel budget gives its frames no size.
    #[error(transparent)]
    Size(#[from] BudgetError),
    /// It is too large.
    #[error("{frames} frames of {}x{} pixels as {}x{}: {error}", source_size.width,
        source_size.height, size.width, size.height)]
    Limit {
        /// Frames of the window.
        frames: u32,
        /// Size of the source frames.
        source_size: Size,
        /// Size that they would have been resized to.
        size: Size,
        /// The limit that they exceed.
        error: LimitError,
    },
}

impl From<ForecastError> for Failure {
    fn from(error: ForecastError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Special tokens around an input: `<|vision_start|>` and `<|vision_end|>`.
const AROUND: u64 = 2;
/// Most bytes, and so tokens, of an input's timestamp in the prompt: those of
/// `<18446744073.7 seconds>`, the longest of any running time.
const TIME_BYTES: u64 = 24;
/// Most and fewest tokens of the chat template around the inputs and texts.
const TEMPLATE: (u64, u64) = (32, 3);

impl WindowPlan {
    /// Computes the size of the frames and the tokens of the window. Refuses a window that can
    /// never be answered, because its vision tokens, timestamps and texts are too many.
    ///
    /// # Errors
    ///
    /// See [`ForecastError`].
    pub fn forecast(&self, model: &ModelInfo) -> Result<Forecast, ForecastError> {
        let factor = model.factor.max(1);
        let (size, rounding) =
            self.budget
                .resize(self.frames, self.source, factor, model.temporal_patch)?;
        // At most 2^30 pixels, so this and the products below are far from overflowing u64.
        let each = u64::from(size.width / factor) * u64::from(size.height / factor);
        let inputs = |frames: u32| match self.images {
            true => u64::from(frames),
            false => u64::from(frames.div_ceil(model.temporal_patch.max(1))),
        };
        let tokens = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let time = if self.images { 0 } else { model.time_tokens };
        let least = inputs(self.frames) * (each + AROUND + time as u64) + TEMPLATE.1;
        let least = tokens(least).saturating_add(self.text_tokens);
        let limits = &model.limits;
        limits
            .check_input(size, tokens(each))
            .and_then(|()| limits.check(least, self.max_tokens as usize))
            .map_err(|error| ForecastError::Limit {
                frames: self.frames,
                source_size: self.source,
                size,
                error,
            })?;
        // Rounding of times may give one frame more than planned. A token has at least one byte.
        let most = inputs(self.frames.saturating_add(1)) * (each + AROUND + TIME_BYTES)
            + TEMPLATE.0
            + u64::from(self.max_tokens);
        let most = tokens(most).saturating_add(self.text_bytes);
        Ok(Forecast {
            size,
            rounding,
            input_tokens: tokens(each),
            tokens: most.min(limits.context).min(limits.kv_tokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Backend;
    use crate::backend::fake::{FakeBackend, Outcome};
    use crate::model::Limits;

    fn model(limits: Limits) -> ModelInfo {
        let fake = FakeBackend::new(std::time::Duration::ZERO, Outcome::Echo);
        ModelInfo {
            limits,
            ..fake.model().clone()
        }
    }

    const PLAN: WindowPlan = WindowPlan {
        budget: Budget::HfVideo {
            min_pixels: 4096,
            max_pixels: 25_165_824,
            cap_per_frame: true,
        },
        source: Size {
            width: 640,
            height: 480,
        },
        frames: 8,
        images: false,
        text_bytes: 20,
        text_tokens: 0,
        max_tokens: 256,
    };

    fn limits(context: usize, kv_tokens: usize) -> Limits {
        Limits {
            context,
            kv_tokens,
            ..Limits::default()
        }
    }

    #[test]
    fn a_window_at_the_limit_fits_and_one_beyond_is_refused() {
        // Four pairs of 20 x 15 tokens with two around each and 6 of its time, and 3 of the
        // template.
        let least = 4 * 308 + 3;
        let at = |limits| PLAN.forecast(&model(limits));
        let forecast = at(Limits::default()).unwrap();
        assert_eq!((forecast.size, forecast.input_tokens), (PLAN.source, 300));
        assert_eq!(forecast.tokens, 5 * 326 + 32 + 256 + 20);
        assert_eq!(at(limits(least + 1, usize::MAX)).unwrap().tokens, least + 1);
        assert_eq!(at(limits(9999, least + 256)).unwrap().tokens, least + 256);
        let text = |limits| at(limits).unwrap_err().to_string();
        let context = text(limits(least, usize::MAX));
        for part in [
            "8 frames of 640x480",
            "1236 tokens",
            "model's 1235",
            "max-pixels",
        ] {
            assert!(context.contains(part), "{context:?} does not say {part:?}");
        }
        let cache = text(limits(9999, least + 255));
        for part in ["1491 tokens", "the 1490 that", "kv-memory", "max-tokens"] {
            assert!(cache.contains(part), "{cache:?} does not say {part:?}");
        }
        // The answer ends at the end of the context, so it needs no more of the cache.
        assert!(at(limits(least + 10, least + 10)).is_ok());
    }

    /// Images have no timestamps, and each is an input.
    #[test]
    fn images_count_one_by_one() {
        let plan = WindowPlan {
            images: true,
            ..PLAN
        };
        let least = 8 * 302 + 3;
        let at = |context| plan.forecast(&model(limits(context, usize::MAX)));
        assert_eq!(at(least + 1).unwrap().tokens, least + 1);
        let text = at(least).unwrap_err().to_string();
        assert!(text.contains("2420 tokens"), "{text}");
    }

    #[test]
    fn the_texts_count() {
        let least = 4 * 308 + 3;
        let at = |text_tokens| {
            let plan = WindowPlan {
                text_tokens,
                text_bytes: usize::MAX,
                ..PLAN
            };
            plan.forecast(&model(limits(5000, usize::MAX)))
        };
        assert_eq!(at(5000 - least - 1).unwrap().tokens, 5000);
        for text_tokens in [5000 - least, usize::MAX] {
            let text = at(text_tokens).unwrap_err().to_string();
            assert!(text.contains("a shorter prompt"), "{text}");
        }
    }

    #[test]
    fn one_input_that_has_no_memory_is_refused() {
        let limits = Limits {
            input_tokens: 299,
            ..Limits::default()
        };
        let error = PLAN.forecast(&model(limits)).unwrap_err();
        assert!(matches!(
            error,
            ForecastError::Limit {
                error: LimitError::VisionMemory {
                    needed: 300,
                    limit: 299,
                    ..
                },
                ..
            }
        ));
    }

    #[test]
    fn pixels_beyond_reason_are_refused_in_words() {
        let model = model(limits(262_144, usize::MAX));
        for (min_pixels, text) in [(1_000_000_000, "262144"), (1 << 34, "min-pixels")] {
            let budget = Budget::QwenVlUtils {
                min_pixels,
                max_pixels: u64::MAX,
                total_pixels: u64::MAX,
            };
            let error = WindowPlan { budget, ..PLAN }.forecast(&model).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// For any settings and any checkpoint nothing overflows, and the tokens are bounded.
        #[test]
        fn a_forecast_is_within_the_limits(
            min_pixels: u64, max_pixels: u64, total_pixels: u64, width: u32, height: u32,
            frames: u32, images: bool, text_bytes: usize, text_tokens: usize, max_tokens: u32,
            context: usize, kv_tokens: usize, extreme in 0..4u32
        ) {
            let pick = |value: u64| match extreme { 0 => u64::MAX, 1 => 1 << 34, _ => value };
            let (frames, max_tokens) = match extreme {
                0 => (u32::MAX, u32::MAX),
                _ => (frames, max_tokens),
            };
            for budget in [
                Budget::HfVideo {
                    min_pixels: min_pixels.min(pick(max_pixels)),
                    max_pixels: pick(max_pixels),
                    cap_per_frame: images,
                },
                Budget::QwenVlUtils {
                    min_pixels: min_pixels.min(max_pixels),
                    max_pixels,
                    total_pixels: pick(total_pixels),
                },
                Budget::HfImage { min_pixels: min_pixels.min(max_pixels), max_pixels },
            ] {
                let source = Size { width, height };
                let plan = WindowPlan {
                    budget, source, frames, images, text_bytes, text_tokens, max_tokens,
                };
                if let Ok(forecast) = plan.forecast(&model(limits(context, kv_tokens))) {
                    prop_assert!(forecast.tokens <= context.min(kv_tokens));
                    let inputs = if images { frames as usize } else { frames.div_ceil(2) as usize };
                    let least = forecast.input_tokens.saturating_mul(inputs);
                    prop_assert!(least.saturating_add(text_tokens) < context);
                }
            }
        }
    }
}

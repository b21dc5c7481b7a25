//! The values of the properties, and the engine's settings that follow from them.

mod preset;

use std::collections::BTreeSet;

use gst::glib;
use qwen3_vl_core::KvMemory;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::forecast::{Forecast, ForecastError, WindowPlan};
use qwen3_vl_core::frames::{Budget, Size};
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::prompt::PromptLayout;
use qwen3_vl_core::request::SamplingParams;
use qwen3_vl_core::window::{RulesError, WindowRules, WindowSettings};

pub use self::preset::Preset;
use crate::engines::{self, ModelOptions};

/// Type of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLDtype")]
pub enum Dtype {
    /// As stored on the CPU, bf16 on CUDA.
    #[default]
    #[enum_value(name = "CPU: as stored, CUDA: bf16", nick = "auto")]
    Auto,
    /// bfloat16.
    #[enum_value(name = "bfloat16", nick = "bf16")]
    Bf16,
    /// Half precision.
    #[enum_value(name = "IEEE half precision", nick = "f16")]
    F16,
    /// Single precision.
    #[enum_value(name = "IEEE single precision", nick = "f32")]
    F32,
}

/// Rounding of the language model's linear layers at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLQuantization")]
pub enum Quantization {
    /// None.
    #[default]
    #[enum_value(name = "Nothing: as dtype says", nick = "none")]
    None,
    /// 8 bits.
    #[enum_value(name = "8 bits (8.5 with scales; ggml's Q8_0)", nick = "q8-0")]
    Q8_0,
    /// 4 bits.
    #[enum_value(name = "4 bits (4.5 with scales; ggml's Q4_K)", nick = "q4-k")]
    Q4K,
    /// 8 bits.
    #[enum_value(name = "8 bits (FP8 E4M3, scales of 128x128 blocks)", nick = "fp8")]
    Fp8,
}

/// Arithmetic of products with weights on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLCompute")]
pub enum Compute {
    /// `Fast` for weights that are quantised, else `Exact`.
    #[default]
    #[enum_value(name = "fast for quantised weights, else exact", nick = "auto")]
    Auto,
    /// In f32.
    #[enum_value(name = "In f32", nick = "exact")]
    Exact,
    /// With rounded activations.
    #[enum_value(name = "With activations in bf16 or 8 bits", nick = "fast")]
    Fast,
}

/// Where the vision tokens stand in the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLPromptLayout")]
pub enum Layout {
    /// Nothing around the pairs of frames.
    #[default]
    #[enum_value(
        name = "No outer vision_start/vision_end pair (transformers 4.57, vLLM)",
        nick = "canonical"
    )]
    Canonical,
    /// One more pair around them.
    #[enum_value(
        name = "An outer vision_start/vision_end pair (transformers >= 5.10)",
        nick = "nested"
    )]
    Nested,
}

/// How the frames are given to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLMode")]
pub enum Mode {
    /// As a video.
    #[default]
    #[enum_value(name = "A video: pairs of frames with their times", nick = "video")]
    Video,
    /// As pictures without time.
    #[enum_value(name = "A bag of images without times", nick = "images")]
    Images,
}

/// What to do when the engine cannot keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLOverload")]
pub enum Overload {
    /// `Block` if upstream is not live, else `DropOldest`.
    #[default]
    #[enum_value(
        name = "Block when upstream is not live, else drop-oldest",
        nick = "auto"
    )]
    Auto,
    /// Block the stream.
    #[enum_value(name = "Hold the stream until the engine catches up", nick = "block")]
    Block,
    /// Drop the window that has waited longest.
    #[enum_value(name = "Drop the window that has waited longest", nick = "drop-oldest")]
    DropOldest,
    /// Drop the window that has just closed.
    #[enum_value(name = "Drop the window that has just closed", nick = "drop-newest")]
    DropNewest,
}

/// Which buffers carry a description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLAttach")]
pub enum Attach {
    /// The first buffer after the answer.
    #[default]
    #[enum_value(name = "The first buffer after the answer", nick = "next")]
    Next,
    /// All buffers of the described window.
    #[enum_value(
        name = "All buffers of the described window, held until the answer",
        nick = "window"
    )]
    Window,
}

/// How the text pad places texts in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLTextTiming")]
pub enum TextTiming {
    /// `Answer` if upstream is live, else `Span`.
    #[default]
    #[enum_value(name = "answer when upstream is live, else span", nick = "auto")]
    Auto,
    /// From the video's position when the answer comes.
    #[enum_value(
        name = "From the video's position when the answer comes, until the next",
        nick = "answer"
    )]
    Answer,
    /// At the described window.
    #[enum_value(name = "The time span that is described", nick = "span")]
    Span,
}

impl Overload {
    /// Replaces `Auto` by the policy for a stream that is live or not.
    pub(super) fn resolve(self, live: bool) -> Self {
        match self {
            Self::Auto if live => Self::DropOldest,
            Self::Auto => Self::Block,
            other => other,
        }
    }
}

/// The values of the properties; `super::properties` has the table of their names and ranges.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) model: String,
    pub(super) mmproj: Option<String>,
    pub(super) revision: Option<String>,
    pub(super) device: String,
    pub(super) dtype: Dtype,
    pub(super) quantization: Quantization,
    pub(super) compute: Compute,
    pub(super) prompt_layout: Layout,
    pub(super) preset: Preset,
    pub(super) prompt: String,
    pub(super) system_prompt: Option<String>,
    /// Nanoseconds.
    pub(super) window_duration: u64,
    /// Nanoseconds; 0 = `window_duration`.
    pub(super) window_stride: u64,
    pub(super) fps: gst::Fraction,
    pub(super) min_frames: u32,
    pub(super) max_frames: u32,
    /// 0 = from the checkpoint; so are the next two.
    pub(super) min_pixels: u64,
    pub(super) max_pixels: u64,
    pub(super) total_pixels: u64,
    /// Whether a frame may have no more than 768 tokens.
    pub(super) frame_cap: bool,
    pub(super) mode: Mode,
    pub(super) max_tokens: u32,
    /// Whether messages hold the thought before an answer.
    pub(super) reasoning: bool,
    /// Most tokens of a thought.
    pub(super) reasoning_tokens: u32,
    /// Negative = from the checkpoint; so are the next four.
    pub(super) temperature: f64,
    pub(super) top_p: f64,
    pub(super) top_k: i32,
    pub(super) presence_penalty: f64,
    pub(super) repetition_penalty: f64,
    pub(super) seed: u64,
    /// Tokens of repetition that end an answer; 0 = none do.
    pub(super) repetition_guard: u32,
    pub(super) overload: Overload,
    pub(super) max_pending: u32,
    /// Bytes or a share of the free memory, as [`KvMemory`] parses it.
    pub(super) kv_memory: String,
    /// Nanoseconds.
    pub(super) eos_timeout: u64,
    pub(super) attach: Attach,
    /// Nanoseconds.
    pub(super) attach_timeout: u64,
    pub(super) text_timing: TextTiming,
    #[cfg(feature = "analytics")]
    pub(super) attach_analytics: bool,
    pub(super) emit_tokens: bool,
    /// `None` = the element's name.
    pub(super) stream_id: Option<String>,
    /// Names of the properties that the application has set, which a preset leaves alone.
    pub(super) chosen: BTreeSet<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: engines::DEMO.into(),
            mmproj: None,
            revision: None,
            device: "auto".into(),
            dtype: Dtype::default(),
            quantization: Quantization::default(),
            compute: Compute::default(),
            prompt_layout: Layout::default(),
            preset: Preset::default(),
            prompt: "Describe this video.".into(),
            system_prompt: None,
            window_duration: 4_000_000_000,
            window_stride: 0,
            fps: gst::Fraction::new(2, 1),
            min_frames: 4,
            max_frames: 768,
            min_pixels: 0,
            max_pixels: 0,
            total_pixels: 0,
            frame_cap: true,
            mode: Mode::default(),
            max_tokens: 256,
            reasoning: false,
            // Enough for most thoughts about a few seconds of video, and few enough that the KV
            // cache, which has a place for all of them from the start, still holds several windows.
            reasoning_tokens: 2048,
            temperature: -1.0,
            top_p: -1.0,
            top_k: -1,
            presence_penalty: -1.0,
            repetition_penalty: -1.0,
            seed: 0,
            repetition_guard: 64,
            overload: Overload::default(),
            max_pending: 2,
            kv_memory: "50%".into(),
            eos_timeout: 60_000_000_000,
            attach: Attach::default(),
            attach_timeout: 10_000_000_000,
            text_timing: TextTiming::Auto,
            #[cfg(feature = "analytics")]
            attach_analytics: false,
            emit_tokens: false,
            stream_id: None,
            chosen: BTreeSet::new(),
        }
    }
}

/// Why the properties cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingsError {
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error("max-pixels {max} is below min-pixels {min}")]
    Pixels { min: u64, max: u64 },
    #[error(
        "model is empty: give a folder, a GGUF file, a hub id such as Qwen/Qwen3-VL-4B-Instruct, or \
         demo"
    )]
    NoModel,
}

/// Length of a prompt's texts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TextLength {
    pub(super) bytes: usize,
    /// A lower bound of their tokens.
    pub(super) tokens: usize,
}

impl Settings {
    /// Checks the properties as far as that needs no model. Returns the window rules.
    pub(super) fn rules(&self) -> Result<WindowRules, SettingsError> {
        let (min, max) = (self.min_pixels, self.max_pixels);
        if min != 0 && max != 0 && max < min {
            return Err(SettingsError::Pixels { min, max });
        }
        let part = |v: i32| u32::try_from(v).unwrap_or(0);
        Ok(WindowRules::new(&WindowSettings {
            duration: self.window_duration,
            stride: self.window_stride,
            fps: (part(self.fps.numer()), part(self.fps.denom())),
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            least_frames: match self.mode {
                Mode::Video => 2,
                Mode::Images => 1,
            },
        })?)
    }

    /// The model to load, and where it runs.
    pub(super) fn model_options(&self) -> Result<ModelOptions, SettingsError> {
        if self.model.is_empty() {
            return Err(SettingsError::NoModel);
        }
        Ok(ModelOptions {
            model: self.model.clone(),
            mmproj: self.mmproj.clone(),
            revision: self.revision.clone(),
            device: self.device.clone(),
            dtype: self.dtype,
            quantization: self.quantization,
            compute: self.compute,
            kv_memory: self.kv_memory.parse::<KvMemory>().ok(),
        })
    }

    /// The needs of a window of `frames` frames of size `shown`, with texts of this length.
    pub(super) fn forecast(
        &self,
        model: &ModelInfo,
        text: TextLength,
        frames: u32,
        shown: Size,
    ) -> Result<Forecast, ForecastError> {
        let plan = WindowPlan {
            budget: self.budget(model),
            source: shown,
            frames,
            images: self.mode == Mode::Images,
            text_bytes: text.bytes,
            text_tokens: text.tokens,
            max_tokens: self.max_tokens.saturating_add(self.thought_tokens(model)),
        };
        plan.forecast(model)
    }

    /// Most tokens of a thought before the answer; 0 if the model is not expected to think.
    pub(super) fn thought_tokens(&self, model: &ModelInfo) -> u32 {
        let thinks = model.thinks || self.reasoning || self.preset.may_think();
        if thinks { self.reasoning_tokens } else { 0 }
    }

    /// What the model is asked: a prompt, and after it how to think, where the preset says that.
    pub(super) fn question(&self, prompt: String) -> String {
        match self.preset.reasoning_prompt().filter(|_| self.reasoning) {
            Some(how) => format!("{prompt}\n\n{how}"),
            None => prompt,
        }
    }

    /// The part of a window's prompt before its frames.
    pub(super) fn window_head(&self, forecast: &Forecast, waits: bool) -> WindowHead {
        WindowHead {
            tokens: forecast.tokens,
            waits,
            layout: match self.prompt_layout {
                Layout::Canonical => PromptLayout::Canonical,
                Layout::Nested => PromptLayout::Nested,
            },
            system_prompt: self.system_prompt.clone().filter(|text| !text.is_empty()),
        }
    }

    /// The sampling parameters: the properties, and the checkpoint's where one is not set.
    pub(super) fn sampling_params(&self, model: &ModelInfo) -> SamplingParams {
        let or = |value: f64, default: f64| if value < 0.0 { default } else { value };
        // The model card's values stand in for what the checkpoint leaves out, and are meant for
        // the card's temperature. Beside a temperature that is set here, only the checkpoint's own
        // hold.
        let mut base = match self.temperature < 0.0 {
            true => model.sampling,
            false => model.own_sampling,
        };
        let temperature = or(self.temperature, base.temperature);
        if temperature == 0.0 {
            // Greedy as in transformers, which has no presence penalty.
            base.presence_penalty = 0.0;
        }
        SamplingParams {
            temperature,
            top_p: or(self.top_p, base.top_p),
            top_k: u32::try_from(self.top_k).unwrap_or(base.top_k),
            presence_penalty: or(self.presence_penalty, base.presence_penalty),
            repetition_penalty: or(self.repetition_penalty, base.repetition_penalty),
        }
    }

    /// The pixel budget.
    ///
    /// A maximum never makes a frame larger. So `max-pixels` and `total-pixels` above the defaults
    /// change nothing, and without `min-pixels` small frames keep the size of the checkpoint's own
    /// rule. A set limit goes before an unset one: `max-pixels` alone below the default minimum
    /// lowers the minimum too.
    pub(super) fn budget(&self, model: &ModelInfo) -> Budget {
        let set = |value: u64| (value != 0).then_some(value);
        let limits = |(min, max): (u64, u64)| match (set(self.min_pixels), set(self.max_pixels)) {
            (Some(min), Some(own)) => (min, own.min(max.max(min))),
            (Some(min), None) => (min, max.max(min)),
            (None, Some(own)) => (min.min(own), own.min(max)),
            (None, None) => (min, max),
        };
        let preset = self.preset.pixels();
        if self.mode == Mode::Images {
            let (min_pixels, max_pixels) = limits(preset.unwrap_or(model.image_pixels));
            return Budget::HfImage {
                min_pixels,
                max_pixels,
            };
        }
        let whole = preset.unwrap_or(model.video_pixels);
        match Budget::qwen_vl_utils(model.factor) {
            Budget::QwenVlUtils {
                min_pixels,
                max_pixels,
                total_pixels,
            } if self.sets_pixels() => {
                let (min_pixels, max_pixels) = limits((min_pixels, max_pixels));
                let own = set(self.total_pixels).unwrap_or(total_pixels);
                let total_pixels = own.min(total_pixels);
                match self.min_pixels {
                    0 => Budget::Smaller {
                        min_pixels,
                        max_pixels,
                        total_pixels,
                        whole,
                        cap_per_frame: self.frame_cap,
                    },
                    _ => Budget::QwenVlUtils {
                        min_pixels,
                        max_pixels,
                        total_pixels,
                    },
                }
            }
            _ if model.video_pixels_per_frame && preset.is_none() => Budget::HfImage {
                min_pixels: whole.0,
                max_pixels: whole.1,
            },
            _ => Budget::HfVideo {
                min_pixels: whole.0,
                max_pixels: whole.1,
                cap_per_frame: self.frame_cap,
            },
        }
    }

    fn sets_pixels(&self) -> bool {
        [self.min_pixels, self.max_pixels, self.total_pixels] != [0; 3]
    }
}

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod tests;

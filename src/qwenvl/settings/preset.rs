//! The property `preset`: defaults that go with a model.

use gst::glib;

use super::Settings;

/// Defaults that go with a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstQwenVLPreset")]
pub enum Preset {
    /// The element's own defaults.
    #[default]
    #[enum_value(name = "The element's own defaults", nick = "none")]
    None,
    /// As NVIDIA's examples use Cosmos-Reason2.
    #[enum_value(
        name = "Cosmos-Reason2, as in NVIDIA's examples",
        nick = "cosmos-reason2"
    )]
    CosmosReason2,
}

/// What makes Cosmos-Reason2 think, behind the prompt (`REASONING_PROMPT` in `text.py` of
/// nvidia-cosmos/cosmos-reason2).
const COSMOS_REASONING: &str = "Answer the question using the following format:\n\n<think>\nYour \
    reasoning.\n</think>\n\nWrite your final answer immediately after the </think> tag.";

impl Preset {
    /// The settings of an element with this preset of which nothing else was set
    /// (`scripts/inference_sample.py` of nvidia-cosmos/cosmos-reason2).
    pub(in crate::qwenvl) fn settings(self) -> Settings {
        let own = Settings {
            preset: self,
            ..Settings::default()
        };
        match self {
            Self::None => own,
            Self::CosmosReason2 => Settings {
                system_prompt: Some("You are a helpful assistant.".into()),
                fps: gst::Fraction::new(4, 1),
                max_tokens: 4096,
                // There, max_new_tokens is for both. A thought is no shorter here.
                reasoning_tokens: 4096,
                ..own
            },
        }
    }

    /// Least and most pixels of an image, or of all frames of a video together, by Hugging Face's
    /// rule; none for the checkpoint's.
    pub(super) fn pixels(self) -> Option<(u64, u64)> {
        /// Pixels of a vision token.
        const TOKEN: u64 = 32 * 32;
        match self {
            Self::None => None,
            Self::CosmosReason2 => Some((256 * TOKEN, 8192 * TOKEN)),
        }
    }

    /// Whether its model writes `<think>` itself.
    pub(super) fn may_think(self) -> bool {
        self.reasoning_prompt().is_some()
    }

    /// What makes its model think, if it does not do that by itself.
    pub(super) fn reasoning_prompt(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::CosmosReason2 => Some(COSMOS_REASONING),
        }
    }
}

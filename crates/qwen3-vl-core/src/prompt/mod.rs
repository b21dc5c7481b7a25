//! The tokens around the frames: chat template, timestamps, vision placeholders. Pure: text goes
//! through a caller's tokenizer, nothing here does I/O.
//!
//! Two pairs of frames and a prompt, in the layout of transformers 4.57:
//!
//! ```
//! use qwen3_vl_core::prompt::PromptLayout;
//! use qwen3_vl_core::prompt::{Piece, PromptBuilder, Special};
//!
//! let mut prompt = PromptBuilder::new(PromptLayout::Canonical, None);
//! prompt.video_patch(0.25);
//! prompt.video_patch(1.25);
//! prompt.finish("What happens?");
//! let text: String = prompt.take().iter().map(|piece| match piece {
//!     Piece::Text(text) => text.as_str(),
//!     Piece::Special(Special::ImStart) => "<|im_start|>",
//!     Piece::Special(Special::ImEnd) => "<|im_end|>",
//!     Piece::Special(Special::VisionStart) => "<|vision_start|>",
//!     Piece::Special(Special::VisionEnd) => "<|vision_end|>",
//!     Piece::Vision => "…",
//! }).collect();
//! assert_eq!(
//!     text,
//!     "<|im_start|>user\n\
//!      <0.2 seconds><|vision_start|>…<|vision_end|>\
//!      <1.2 seconds><|vision_start|>…<|vision_end|>\
//!      What happens?<|im_end|>\n<|im_start|>assistant\n"
//! );
//! ```

mod position;

pub use position::{Position, PositionCursor};

use crate::frames::timestamp_text;

/// Layout of the vision tokens in the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptLayout {
    /// `<t seconds><|vision_start|>…<|vision_end|>` per pair, nothing around them
    /// (transformers 4.57, vLLM, Qwen's own evaluations).
    #[default]
    Canonical,
    /// The same inside one more vision_start/vision_end pair (transformers >= 5.10).
    Nested,
}

/// The control tokens that a prompt needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<|im_start|>`
    ImStart,
    /// `<|im_end|>`
    ImEnd,
    /// `<|vision_start|>`
    VisionStart,
    /// `<|vision_end|>`
    VisionEnd,
}

/// A piece of a prompt, ready for a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text to be encoded as one string, in which no special token is recognised.
    Text(String),
    /// One control token.
    Special(Special),
    /// Where the tokens of one vision input go: a temporal patch of a video or a still image.
    Vision,
}

/// Builds the prompt of one window as its parts arrive.
///
/// Text between two control tokens is one string for the tokenizer, as in the reference, even if
/// its parts (role, timestamp) come at different times: it is kept until the control token after
/// it.
#[derive(Clone, Debug)]
pub struct PromptBuilder {
    layout: PromptLayout,
    text: String,
    pieces: Vec<Piece>,
    nested_open: bool,
}

impl PromptBuilder {
    /// Starts with the system prompt, if any, and the head of the user's turn
    /// (`chat_template.jinja` of the checkpoints; there is no default system prompt).
    pub fn new(layout: PromptLayout, system_prompt: Option<&str>) -> Self {
        let mut builder = Self {
            layout,
            text: String::new(),
            pieces: Vec::new(),
            nested_open: false,
        };
        if let Some(system) = system_prompt {
            builder.special(Special::ImStart);
            builder.text("system\n");
            builder.text(system);
            builder.special(Special::ImEnd);
            builder.text("\n");
        }
        builder.special(Special::ImStart);
        builder.text("user\n");
        builder
    }

    /// A temporal patch of a video with its time in seconds
    /// (`Qwen3VLProcessor`: `<{t:.1f} seconds>` before each).
    pub fn video_patch(&mut self, seconds: f64) {
        if self.layout == PromptLayout::Nested && !self.nested_open {
            self.special(Special::VisionStart);
            self.nested_open = true;
        }
        self.text(&timestamp_text(seconds));
        self.vision();
    }

    /// A still image, without time.
    pub fn image(&mut self) {
        self.vision();
    }

    fn vision(&mut self) {
        self.special(Special::VisionStart);
        self.pieces.push(Piece::Vision);
        self.special(Special::VisionEnd);
    }

    /// The user's text and the head of the assistant's turn: the prompt is complete.
    pub fn finish(&mut self, prompt: &str) {
        if self.nested_open {
            self.special(Special::VisionEnd);
            self.nested_open = false;
        }
        self.text(prompt);
        self.special(Special::ImEnd);
        self.text("\n");
        self.special(Special::ImStart);
        self.text("assistant\n");
        self.flush();
    }

    /// Takes the pieces that are complete so far.
    pub fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn special(&mut self, special: Special) {
        self.flush();
        self.pieces.push(Piece::Special(special));
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces
                .push(Piece::Text(std::mem::take(&mut self.text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(pieces: &[Piece]) -> String {
        pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Special(Special::ImStart) => "<|im_start|>",
                Piece::Special(Special::ImEnd) => "<|im_end|>",
                Piece::Special(Special::VisionStart) => "<|vision_start|>",
                Piece::Special(Special::VisionEnd) => "<|vision_end|>",
                Piece::Vision => "V",
            })
            .collect()
    }

    fn video(layout: PromptLayout) -> String {
        let mut builder = PromptBuilder::new(layout, None);
        builder.video_patch(0.25);
        builder.video_patch(1.25);
        builder.finish("Why?");
        render(&builder.take())
    }

    #[test]
    fn canonical_layout_has_no_outer_pair() {
        assert_eq!(
            video(PromptLayout::Canonical),
            "<|im_start|>user\n<0.2 seconds><|vision_start|>V<|vision_end|>\
             <1.2 seconds><|vision_start|>V<|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn nested_layout_keeps_the_outer_pair() {
        assert_eq!(
            video(PromptLayout::Nested),
            "<|im_start|>user\n<|vision_start|><0.2 seconds><|vision_start|>V<|vision_end|>\
             <1.2 seconds><|vision_start|>V<|vision_end|><|vision_end|>Why?<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn images_have_no_time_and_a_system_prompt_comes_first() {
        let mut builder = PromptBuilder::new(PromptLayout::Canonical, Some("Be brief."));
        builder.image();
        builder.image();
        builder.finish("Why?");
        assert_eq!(
            render(&builder.take()),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n\
             <|vision_start|>V<|vision_end|><|vision_start|>V<|vision_end|>Why?<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn text_is_never_cut_by_arrival() {
        let mut builder = PromptBuilder::new(PromptLayout::Canonical, None);
        assert_eq!(builder.take(), [Piece::Special(Special::ImStart)]);
        builder.video_patch(0.5);
        assert_eq!(builder.take()[0], Piece::Text("user\n<0.5 seconds>".into()));
    }
}

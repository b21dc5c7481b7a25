//! The logits after a prompt, to compare with another implementation's.

use std::time::Instant;

use candle_core::DType;

use super::parity::Error;
use super::sequence::{ask, window};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::model::{SequenceSlice, Workspace};
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::request::{Request, SamplingParams};

/// Logits `[vocabulary]` after a prompt of frames and a text, which is prefilled in one pass, and
/// the number of its tokens.
///
/// # Errors
///
/// If the model cannot take the input or the device fails.
pub fn last_logits(
    runner: &mut Runner,
    inputs: &[VisionInput],
    prompt: &str,
) -> Result<(Vec<f32>, usize), Error> {
    let mut sequence = window(runner, 0, &WindowHead::default());
    let now = Instant::now();
    for input in inputs {
        let encoded = runner.encode(std::slice::from_ref(input))?;
        sequence.push(input.clone(), 0, now);
        sequence.encoded(|_| encoded.first().cloned());
    }
    let request = Request {
        prompt: prompt.into(),
        max_tokens: 1,
        sampling: SamplingParams::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    };
    ask(&mut sequence, request, 0, now);
    runner.advance(&mut sequence)?;
    let chunk = sequence.take(usize::MAX, now)?;
    let mut state = runner.parts.model.new_state();
    let mut parts = [SequenceSlice {
        chunk: &chunk,
        state: &mut state,
        outputs: 1,
    }];
    let text = &runner.parts.model.text;
    let logits = text.forward(&mut parts, &mut Workspace::default())?;
    let logits = logits.ok_or("no logits")?.to_dtype(DType::F32)?;
    Ok((logits.flatten_all()?.to_vec1()?, chunk.len()))
}

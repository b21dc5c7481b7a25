//! The logits behind a prompt, to compare with another implementation's.

use std::time::Instant;

use candle_core::DType;

use super::parity::Error;
use crate::backend::{Generation, Question, WindowHead};
use crate::engine::runner::Runner;
use crate::engine::sequence::Sequence;
use crate::engine::sink::Sink;
use crate::frames::VisionInput;
use crate::model::{KvCache, Part, Workspace};

/// Logits `[vocabulary]` behind a prompt of frames and a text, whose tokens are prefilled in one
/// pass. Returns the number of tokens too.
///
/// # Errors
///
/// If the model cannot take the input or the device fails.
pub fn last_logits(
    runner: &mut Runner,
    inputs: &[VisionInput],
    prompt: &str,
) -> Result<(Vec<f32>, usize), Error> {
    let kv = KvCache::new(&runner.parts.model.kv);
    let head = WindowHead::default();
    let mut sequence = Sequence::new(0, &head, Sink::new(Box::new(|_| {})), kv);
    let now = Instant::now();
    for input in inputs {
        let encoded = runner.encode(std::slice::from_ref(input))?;
        sequence.push(input.clone(), 0, now);
        sequence.encoded(|_| encoded.first().cloned());
    }
    let question = Question {
        prompt: prompt.into(),
        max_tokens: 1,
        generation: Generation::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    };
    sequence.close(question, 0, now);
    runner.advance(&mut sequence)?;
    let chunk = sequence.take(usize::MAX, now)?;
    let mut parts = [Part {
        chunk: &chunk,
        kv: &mut sequence.kv,
        outputs: 1,
    }];
    let text = &runner.parts.model.text;
    let logits = text.scores(&mut parts, &mut Workspace::default())?;
    let logits = logits.ok_or("no logits")?.to_dtype(DType::F32)?;
    Ok((logits.flatten_all()?.to_vec1()?, chunk.len()))
}

//! One window after the other.

use super::*;

pub(super) fn run(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    let default = [2 * options.pairs];
    let lengths = options.frames.as_deref().unwrap_or(&default);
    let mut windows = Vec::new();
    for frames in lengths {
        for _ in 0..options.windows {
            windows.push(window(runner, options, *frames)?);
        }
    }
    Ok(json!({ "windows": windows }))
}

fn window(runner: &mut Runner, options: &Options, frames: u32) -> anyhow::Result<Value> {
    let mut sequence = sequence(runner, 0);
    for pair in pairs(options.size, 0, 0, frames / 2) {
        sequence.push(pair, 0, Instant::now());
    }
    ask(&mut sequence, options.tokens + 1, 0, Instant::now());
    let start = Instant::now();
    prefill(runner, &mut sequence, options.chunk)?;
    let answer_begins = start.elapsed();
    let prompt_tokens = sequence.cached();
    let start = Instant::now();
    let mut decoded = 0;
    while !sequence.ended() {
        runner.forward(vec![(&mut sequence, 1)])?;
        decoded += 1;
    }
    let decode = start.elapsed();
    Ok(json!({
        "frames": frames,
        "prompt_tokens": prompt_tokens,
        "vision_s": seconds(sequence.vision),
        "prefill_s": seconds(sequence.prefill),
        "vision_and_prefill_s": seconds(answer_begins),
        "decode_tokens_per_s": f64::from(decoded) / decode.as_secs_f64(),
    }))
}

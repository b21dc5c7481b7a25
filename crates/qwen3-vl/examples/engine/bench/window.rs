//! One window after the other.

use super::*;

pub(super) fn run(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    let windows = (0..options.windows).map(|_| window(runner, options));
    let windows = windows.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({ "windows": windows }))
}

fn window(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    let mut sequence = sequence(runner, 0);
    for pair in pairs(options.size, 0, 0, options.pairs) {
        sequence.push(pair, 0, Instant::now());
    }
    sequence.close(question(options.tokens + 1), 0, Instant::now());
    let start = Instant::now();
    prefill(runner, &mut sequence)?;
    let answer_begins = start.elapsed();
    let prompt_tokens = sequence.kv.len();
    let start = Instant::now();
    let mut decoded = 0;
    while !sequence.ended() {
        runner.forward(vec![(&mut sequence, 1)])?;
        decoded += 1;
    }
    let decode = start.elapsed();
    Ok(json!({
        "prompt_tokens": prompt_tokens,
        "vision_s": seconds(sequence.vision),
        "prefill_s": seconds(sequence.prefill),
        "vision_and_prefill_s": seconds(answer_begins),
        "decode_tokens_per_s": f64::from(decoded) / decode.as_secs_f64(),
    }))
}

//! From the last frame to the first token.

use super::*;

pub(super) fn run(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    let mut rows = Vec::new();
    for &frames in options.frames.as_deref().unwrap_or(&[4, 8, 16, 32, 64]) {
        let (streaming, sustained) = window(runner, options, frames / 2, true)?;
        let (one_shot, _) = window(runner, options, frames / 2, false)?;
        rows.push(json!({
            "frames": frames,
            "streaming_s": seconds(streaming),
            "one_shot_s": seconds(one_shot),
            "ratio": streaming.as_secs_f64() / one_shot.as_secs_f64(),
            // The frame rate that encoding and prefill on arrival keep up with.
            "sustained_fps": sustained,
        }));
    }
    Ok(json!({ "first_token": rows }))
}

/// Time to the first token, and the frames a second that were encoded and prefilled before the last
/// pair. With `streaming` each pair comes when the one before is done.
fn window(
    runner: &mut Runner,
    options: &Options,
    count: u32,
    streaming: bool,
) -> anyhow::Result<(Duration, f64)> {
    let mut sequence = sequence(runner, 0);
    // The frames are made beforehand, because a camera makes them, not the engine.
    let mut waiting: Vec<_> = pairs(options.size, 0, 0, count).collect();
    let Some(last) = waiting.pop() else {
        bail!("a window needs a pair");
    };
    let start = Instant::now();
    for pair in waiting {
        sequence.push(pair, 0, Instant::now());
        if streaming {
            prefill(runner, &mut sequence, options.chunk)?;
        }
    }
    let fps = f64::from(2 * (count - 1)) / start.elapsed().as_secs_f64();
    let start = Instant::now();
    sequence.push(last, 0, start);
    ask(&mut sequence, 2, 0, start);
    prefill(runner, &mut sequence, options.chunk)?;
    Ok((start.elapsed(), fps))
}

//! Windows that decode together.

use super::*;

pub(super) fn run(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    // The same frames for all, so that they are encoded once.
    let inputs: Vec<_> = pairs(options.size, 0, 0, options.pairs).collect();
    let batches = &options.batches;
    let most = batches.iter().copied().max().unwrap_or(0);
    let passes = options.tokens as usize;
    let mut sequences = Vec::new();
    for id in 0..most {
        let mut sequence = sequence(runner, u64::from(id));
        for pair in &inputs {
            sequence.push(pair.clone(), 0, Instant::now());
        }
        let tokens = (passes + 1) * batches.len() + 1;
        ask(&mut sequence, tokens as u32, u64::from(id), Instant::now());
        prefill(runner, &mut sequence, options.chunk)?;
        sequences.push(sequence);
    }
    let prompt_tokens = sequences.first().map_or(0, |sequence| sequence.cached());
    let mut alone = None;
    let mut rows = Vec::new();
    for batch in batches.iter().map(|batch| *batch as usize) {
        let mut pass = || {
            let shares = sequences[..batch].iter_mut().map(|sequence| (sequence, 1));
            runner.forward(shares.collect())
        };
        pass()?;
        let start = Instant::now();
        for _ in 0..passes {
            pass()?;
        }
        let rate = (batch * passes) as f64 / start.elapsed().as_secs_f64();
        rows.push(json!({
            "windows": batch,
            "tokens_per_s": rate,
            "times_one": rate / *alone.get_or_insert(rate),
        }));
    }
    Ok(json!({ "batch": rows, "prompt_tokens": prompt_tokens }))
}

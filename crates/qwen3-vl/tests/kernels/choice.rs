//! Choosing the next token.

use half::bf16;
use qwen3_vl::sampling::TokenSampler;
use qwen3_vl_core::request::SamplingParams;

use crate::emulated::{Value, random};
use crate::launch;

const SPAN: usize = 4096;

/// The first `k` of each row, ordered by logit and then by token.
fn top_k<T: Value>(scores: &[T], count: usize, k: usize) {
    let rows = scores.len() / count;
    let spans = count.div_ceil(SPAN);
    let mut keys = vec![0u64; rows * spans * k];
    let mut places = vec![u32::MAX; rows * k];
    let mut best = vec![f32::NAN; rows * k];
    launch!(
        &format!("top_k_{}", T::NAME),
        (spans, rows, 1),
        256,
        scores.as_ptr(),
        keys.as_mut_ptr(),
        count as u32,
        k as u32,
    );
    launch!(
        "top_k_merge",
        (rows, 1, 1),
        256,
        keys.as_ptr(),
        places.as_mut_ptr(),
        best.as_mut_ptr(),
        spans as u32,
        k as u32,
    );
    for (row, scores) in scores.chunks_exact(count).enumerate() {
        let mut order: Vec<u32> = (0..count as u32).collect();
        let score = |place: &u32| scores[*place as usize].wide();
        order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        order.truncate(k);
        assert_eq!(places[row * k..][..k], order);
        assert_eq!(
            best[row * k..][..k],
            order.iter().map(score).collect::<Vec<_>>()
        );
    }
}

#[test]
fn top_k_of_rows_shorter_and_longer_than_a_span() {
    for count in [64, 300, SPAN, SPAN + 1, 3 * SPAN + 70] {
        for k in [1, 20] {
            top_k::<f32>(&random::<f32>("scores", 2 * count, count as u64), count, k);
        }
    }
    // In 8 bits many are equal, and some of them lie in other spans.
    top_k::<bf16>(
        &random::<bf16>("scores", 2 * (2 * SPAN + 9), 4),
        2 * SPAN + 9,
        64,
    );
}

#[test]
fn of_equal_scores_the_first_is_taken() {
    let mut scores = vec![-3.0f32; 2 * SPAN];
    for place in [7, 300, SPAN + 1] {
        scores[place] = 2.5;
    }
    top_k(&scores, scores.len(), 1);
    top_k(&scores, scores.len(), 5);
    top_k(&vec![0.0f32; 1000], 1000, 3);
}

#[test]
fn penalties_are_those_of_the_cpu() {
    let count = 500;
    let generation = SamplingParams {
        repetition_penalty: 1.3,
        presence_penalty: 1.5,
        ..SamplingParams::default()
    };
    let sampler = TokenSampler::new(generation, 0);
    let mut scores: Vec<f32> = random("scores", 2 * count, 1);
    let tokens: [&[u32]; 2] = [&[3, 400, 3, 7], &[499, 0]];
    let mut want = scores.clone();
    // As `Penalty` of choice.cu.
    let mut penalties: Vec<(u32, u32, f32, f32)> = Vec::new();
    for (row, tokens) in tokens.iter().enumerate() {
        for penalty in sampler.penalties(tokens, &tokens[..1]) {
            let score = &mut want[row * count + penalty.token as usize];
            *score = penalty.apply(*score);
            penalties.push((
                row as u32,
                penalty.token,
                penalty.repetition,
                penalty.presence,
            ));
        }
    }
    let words: Vec<u32> = penalties
        .iter()
        .flat_map(|(row, token, a, b)| [*row, *token, a.to_bits(), b.to_bits()])
        .collect();
    launch!(
        "penalise",
        (1, 1, 1),
        256,
        scores.as_mut_ptr(),
        words.as_ptr(),
        count as u32,
        penalties.len() as u32,
    );
    assert_eq!(scores, want);
}

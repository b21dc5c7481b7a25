//! Scores to the next token: penalties, temperature, top-k, top-p, in transformers' order.
//!
//! candle-transformers' `LogitsProcessor` does not renormalise between top-k and top-p and so draws
//! from another distribution than the reference.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::backend::Generation;

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    generation: Generation,
    rng: StdRng,
}

impl Sampler {
    /// A sampler that draws the same tokens for the same seed.
    pub fn new(generation: Generation, seed: u64) -> Self {
        Self {
            generation,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The next token. `sequence` is the prompt and what has been generated, `generated` the
    /// latter alone. `logits` are used up.
    pub fn next(&mut self, logits: &mut [f32], sequence: &[u32], generated: &[u32]) -> u32 {
        penalise(logits, sequence, generated, &self.generation);
        if self.generation.temperature <= 0.0 {
            return argmax(logits);
        }
        let kept = self.candidates(logits);
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        let mut left = self.rng.random::<f64>() * total;
        for &(id, p) in &kept {
            left -= p;
            if left < 0.0 {
                return id;
            }
        }
        kept.last().map_or(0, |(id, _)| *id)
    }

    /// Tokens that may be drawn, most likely first, with their probabilities.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let Generation {
            temperature,
            top_p,
            top_k,
            ..
        } = self.generation;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_score = |a: &u32, b: &u32| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        };
        if top_k > 0 && (top_k as usize) < order.len() {
            order.select_nth_unstable_by(top_k as usize - 1, by_score);
            order.truncate(top_k as usize);
        }
        order.sort_unstable_by(by_score);
        let max = order
            .first()
            .map_or(0.0, |&id| f64::from(logits[id as usize]));
        let weight = |id: u32| ((f64::from(logits[id as usize]) - max) / temperature).exp();
        let mut kept: Vec<(u32, f64)> = order.into_iter().map(|id| (id, weight(id))).collect();
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        kept.iter_mut().for_each(|(_, p)| *p /= total);
        if top_p < 1.0 {
            let mut sum = 0.0;
            let last = kept.iter().position(|(_, p)| {
                sum += p;
                sum >= top_p
            });
            kept.truncate(last.map_or(kept.len(), |last| last + 1));
        }
        kept
    }
}

/// transformers: `RepetitionPenaltyLogitsProcessor`; presence as in the OpenAI API.
fn penalise(logits: &mut [f32], sequence: &[u32], generated: &[u32], generation: &Generation) {
    let each_once = |ids: &[u32]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let repetition = generation.repetition_penalty as f32;
    if repetition != 1.0 {
        for id in each_once(sequence) {
            if let Some(score) = logits.get_mut(id as usize) {
                *score = if *score < 0.0 {
                    *score * repetition
                } else {
                    *score / repetition
                };
            }
        }
    }
    if generation.presence_penalty != 0.0 {
        for id in each_once(generated) {
            if let Some(score) = logits.get_mut(id as usize) {
                *score -= generation.presence_penalty as f32;
            }
        }
    }
}

/// The first of the largest, as torch's argmax on the CPU.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, score) in logits.iter().enumerate() {
        if *score > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(temperature: f64, top_p: f64, top_k: u32) -> Generation {
        Generation {
            temperature,
            top_p,
            top_k,
            ..Generation::default()
        }
    }

    fn shares(generation: Generation, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(generation, 7);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.next(&mut logits.to_vec(), &[], &[]) as usize] += 1.0;
        }
        counts.into_iter().map(|count| count / 20_000.0).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_maximum() {
        let mut sampler = Sampler::new(Generation::default(), 0);
        assert_eq!(sampler.next(&mut [1.0, 3.0, 3.0], &[], &[]), 1);
    }

    #[test]
    fn top_p_counts_what_top_k_left() {
        let logits = [4f32, 3.0, 2.0, 1.0].map(|p| p.ln());
        // All four: 0.4 0.3 0.2 0.1. top_k = 2 leaves 4/7 and 3/7, and top_p = 0.5 then only the
        // first; without renormalising, 0.4 < 0.5 would keep both.
        assert_eq!(
            shares(generation(1.0, 0.5, 2), &logits),
            [1.0, 0.0, 0.0, 0.0]
        );
        let free = shares(generation(1.0, 1.0, 0), &logits);
        for (got, want) in free.iter().zip([0.4, 0.3, 0.2, 0.1]) {
            assert!((got - want).abs() < 0.02, "{free:?}");
        }
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut sampler = Sampler::new(generation(1.0, 1.0, 0), seed);
            (0..50)
                .map(|_| sampler.next(&mut [0.0; 100], &[], &[]))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalties() {
        let generation = Generation {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            ..Generation::default()
        };
        let mut logits = [2.0, -2.0, 2.0];
        penalise(&mut logits, &[0, 1, 0], &[0, 0], &generation);
        assert_eq!(logits, [0.5, -4.0, 2.0]);
    }
}

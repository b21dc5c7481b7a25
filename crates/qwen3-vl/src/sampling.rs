//! Samples the next token from logits: penalties, temperature, top-k, top-p, in transformers'
//! order.
//!
//! candle-transformers' `LogitsProcessor` does not renormalise between top-k and top-p, and so
//! draws from another distribution than the reference.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use qwen3_vl_core::request::SamplingParams;

/// The logits that a token is chosen from.
#[derive(Debug)]
pub enum Logits<'a> {
    /// The logits of all tokens; consumed by sampling.
    All(&'a mut [f32]),
    /// The [`TokenSampler::candidates_needed`] tokens with the largest logits, largest first, equal
    /// ones by id; [penalties](TokenSampler::penalties) are applied.
    Best(&'a [(u32, f32)]),
}

impl Logits<'_> {
    /// Whether a logit is NaN, as after an overflow of the model, so that no token can be chosen.
    pub fn has_nan(&self) -> bool {
        match self {
            Self::All(logits) => logits.iter().fold(false, |nan, s| nan | s.is_nan()),
            Self::Best(best) => best.iter().any(|(_, logit)| logit.is_nan()),
        }
    }
}

/// The penalty of a token that occurred: its logit is divided by `repetition`, or multiplied if it
/// is negative; then `presence` is subtracted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// The token.
    pub token: u32,
    /// 1 changes nothing.
    pub repetition: f32,
    /// 0 changes nothing.
    pub presence: f32,
}

impl Penalty {
    /// Applies the penalty to the token's logit.
    pub fn apply(self, logit: f32) -> f32 {
        let logit = if logit < 0.0 {
            logit * self.repetition
        } else {
            logit / self.repetition
        };
        logit - self.presence
    }
}

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct TokenSampler {
    generation: SamplingParams,
    rng: StdRng,
}

impl TokenSampler {
    /// A sampler that draws the same tokens for the same seed.
    pub fn new(generation: SamplingParams, seed: u64) -> Self {
        Self {
            generation,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// How many of the largest logits it needs; none if it needs all.
    pub fn candidates_needed(&self) -> Option<usize> {
        match self.generation.top_k {
            _ if self.generation.temperature <= 0.0 => Some(1),
            0 => None,
            k => Some(k as usize),
        }
    }

    /// The penalties of tokens, at most one per token. `sequence` is the prompt and the generated
    /// tokens, `generated` only the latter (transformers: `RepetitionPenaltyLogitsProcessor`;
    /// presence as in the OpenAI API).
    pub fn penalties(&self, sequence: &[u32], generated: &[u32]) -> Vec<Penalty> {
        let SamplingParams {
            repetition_penalty,
            presence_penalty,
            ..
        } = self.generation;
        let none = |token| Penalty {
            token,
            repetition: 1.0,
            presence: 0.0,
        };
        let mut all: BTreeMap<u32, Penalty> = BTreeMap::new();
        if repetition_penalty != 1.0 {
            for token in sequence {
                let penalty = all.entry(*token).or_insert_with(|| none(*token));
                penalty.repetition = repetition_penalty as f32;
            }
        }
        if presence_penalty != 0.0 {
            for token in generated {
                let penalty = all.entry(*token).or_insert_with(|| none(*token));
                penalty.presence = presence_penalty as f32;
            }
        }
        all.into_values().collect()
    }

    /// Chooses the next token. `sequence` is the prompt and the generated tokens, `generated` only
    /// the latter.
    pub fn next(&mut self, logits: Logits<'_>, sequence: &[u32], generated: &[u32]) -> u32 {
        let best = match logits {
            Logits::Best(best) => best.to_vec(),
            Logits::All(logits) => {
                for penalty in self.penalties(sequence, generated) {
                    if let Some(logit) = logits.get_mut(penalty.token as usize) {
                        *logit = penalty.apply(*logit);
                    }
                }
                if self.generation.temperature <= 0.0 {
                    return argmax(logits);
                }
                self.best(logits)
            }
        };
        self.draw(&best)
    }

    /// Draws one of the tokens, which are given with their logits, largest first.
    fn draw(&mut self, best: &[(u32, f32)]) -> u32 {
        if self.generation.temperature <= 0.0 {
            return best.first().map_or(0, |(id, _)| *id);
        }
        let kept = self.candidates(best);
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

    /// The top k tokens, or all, ordered by logit and then by id.
    fn best(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let top_k = self.generation.top_k;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        };
        if top_k > 0 && (top_k as usize) < order.len() {
            order.select_nth_unstable_by(top_k as usize - 1, by_logit);
            order.truncate(top_k as usize);
        }
        order.sort_unstable_by(by_logit);
        order
            .into_iter()
            .map(|id| (id, logits[id as usize]))
            .collect()
    }

    /// The tokens that may be drawn, most likely first, with their probabilities.
    fn candidates(&self, best: &[(u32, f32)]) -> Vec<(u32, f64)> {
        let SamplingParams {
            temperature, top_p, ..
        } = self.generation;
        let max = best.first().map_or(0.0, |(_, logit)| f64::from(*logit));
        let weight = |logit: f32| ((f64::from(logit) - max) / temperature).exp();
        let mut kept: Vec<(u32, f64)> = best
            .iter()
            .map(|(id, logit)| (*id, weight(*logit)))
            .collect();
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

/// The first of the largest logits, like torch's argmax on the CPU.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(temperature: f64, top_p: f64, top_k: u32) -> SamplingParams {
        SamplingParams {
            temperature,
            top_p,
            top_k,
            ..SamplingParams::default()
        }
    }

    fn shares(generation: SamplingParams, logits: &[f32]) -> Vec<f64> {
        let mut sampler = TokenSampler::new(generation, 7);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.next(Logits::All(&mut logits.to_vec()), &[], &[]) as usize] += 1.0;
        }
        counts.into_iter().map(|count| count / 20_000.0).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_maximum() {
        let mut sampler = TokenSampler::new(SamplingParams::default(), 0);
        assert_eq!(sampler.next(Logits::All(&mut [1.0, 3.0, 3.0]), &[], &[]), 1);
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
            let mut sampler = TokenSampler::new(generation(1.0, 1.0, 0), seed);
            (0..50)
                .map(|_| sampler.next(Logits::All(&mut [0.0; 100]), &[], &[]))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalties_of_both_kinds_are_applied_once() {
        let generation = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            ..SamplingParams::default()
        };
        let sampler = TokenSampler::new(generation, 0);
        let mut logits = [2.0, -2.0, 2.0];
        for penalty in sampler.penalties(&[0, 1, 0], &[0, 0]) {
            let logit = &mut logits[penalty.token as usize];
            *logit = penalty.apply(*logit);
        }
        assert_eq!(logits, [0.5, -4.0, 2.0]);
    }

    #[test]
    fn the_best_logits_give_the_same_tokens_as_all() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 / 20.0).collect();
        for generation in [generation(0.7, 0.8, 20), generation(0.0, 1.0, 0)] {
            let generation = SamplingParams {
                presence_penalty: 1.5,
                ..generation
            };
            let (mut of_all, mut of_best) = (
                TokenSampler::new(generation, 3),
                TokenSampler::new(generation, 3),
            );
            let mut generated: Vec<u32> = Vec::new();
            for _ in 0..50 {
                let want = of_all.next(Logits::All(&mut logits.clone()), &generated, &generated);
                let mut logits = logits.clone();
                for penalty in of_best.penalties(&generated, &generated) {
                    let logit = &mut logits[penalty.token as usize];
                    *logit = penalty.apply(*logit);
                }
                let mut best: Vec<(u32, f32)> = (0..).zip(logits).collect();
                best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                best.truncate(of_best.candidates_needed().unwrap());
                assert_eq!(
                    of_best.next(Logits::Best(&best), &generated, &generated),
                    want
                );
                generated.push(want);
            }
        }
    }
}

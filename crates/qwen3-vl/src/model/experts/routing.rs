//! Which tokens of a pass go through which experts.

use std::ops::Range;

/// The choice of a pass's tokens, sorted by expert. A *choice* is a token and one of its experts;
/// choices are numbered expert by expert, and for one expert in the order of the tokens.
#[derive(Debug, PartialEq)]
pub(crate) struct Routing {
    /// The experts that were chosen, in rising order, and the numbers of their choices.
    pub(crate) experts: Vec<(usize, Range<usize>)>,
    /// The token of each choice.
    pub(crate) tokens: Vec<u32>,
    /// Numbers of each token's choices `[tokens, top]`, by rising expert.
    pub(crate) choices: Vec<u32>,
    /// What the results of these are multiplied by, alike.
    pub(crate) weights: Vec<f32>,
}

impl Routing {
    /// Chooses `top` of `experts` for each token by the router's logits `[tokens, experts]`
    /// (transformers: `Qwen3VLMoeTextTopKRouter`). What a token gets depends on its own row alone.
    pub(crate) fn new(logits: &[f32], experts: usize, top: usize) -> Self {
        let mut chosen = Vec::with_capacity(logits.len() / experts * top);
        for row in logits.chunks_exact(experts) {
            chosen.extend(choose(row, top));
        }
        // A counting sort by expert, which keeps the order of the tokens.
        let mut ends = vec![0; experts];
        for (expert, _) in &chosen {
            ends[*expert] += 1;
        }
        let mut end = 0;
        let mut used = Vec::new();
        for (expert, next) in ends.iter_mut().enumerate() {
            let count = std::mem::replace(next, end);
            if count > 0 {
                used.push((expert, end..end + count));
            }
            end += count;
        }
        let mut next = ends;
        let mut tokens = vec![0; chosen.len()];
        let mut choices = Vec::with_capacity(chosen.len());
        let mut weights = Vec::with_capacity(chosen.len());
        for (index, (expert, weight)) in chosen.into_iter().enumerate() {
            let number = next[expert];
            next[expert] += 1;
            tokens[number] = (index / top) as u32;
            choices.push(number as u32);
            weights.push(weight);
        }
        Self {
            experts: used,
            tokens,
            choices,
            weights,
        }
    }
}

/// The experts of one token by rising number, with weights whose sum is 1: those with the largest
/// probabilities, of equal ones the first. (`torch.topk` promises no order of equal ones.)
fn choose(logits: &[f32], top: usize) -> Vec<(usize, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    let mut all: Vec<(usize, f32)> = exps.iter().map(|exp| exp / sum).enumerate().collect();
    // By the larger probability, then by the smaller number: a total order, also of NaN.
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top < all.len() {
        all.select_nth_unstable_by(top, order);
        all.truncate(top);
    }
    all.sort_unstable_by(order);
    let sum: f32 = all.iter().map(|(_, probability)| probability).sum();
    all.iter_mut()
        .for_each(|(_, probability)| *probability /= sum);
    all.sort_unstable_by_key(|(expert, _)| *expert);
    all
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Logits of some tokens, experts, and how many are chosen. Few different values, so that ties
    /// are common.
    fn cases() -> impl Strategy<Value = (Vec<f32>, usize, usize)> {
        (1usize..20, 0usize..9).prop_flat_map(|(experts, tokens)| {
            let logit = prop_oneof![(-3i8..3).prop_map(f32::from), -30f32..30.0];
            let logits = vec(logit, experts * tokens);
            (logits, Just(experts), 1..=experts)
        })
    }

    proptest! {
        /// By the definition, in f64 and without sorting: an expert is chosen if fewer than `top`
        /// come before it.
        #[test]
        fn the_most_probable_experts_are_chosen((logits, experts, top) in cases()) {
            let routing = Routing::new(&logits, experts, top);
            for (token, row) in logits.chunks(experts).enumerate() {
                let before = |e: usize| {
                    let ahead = |(o, l): &(usize, &f32)| **l > row[e] || (**l == row[e] && *o < e);
                    row.iter().enumerate().filter(ahead).count()
                };
                let wanted: Vec<usize> = (0..experts).filter(|e| before(*e) < top).collect();
                let sum: f64 = wanted.iter().map(|e| f64::from(row[*e]).exp()).sum();
                let of_token = token * top..(token + 1) * top;
                for (slot, expert) in of_token.zip(&wanted) {
                    let choice = routing.choices[slot] as usize;
                    let found = routing.experts.iter().find(|(_, all)| all.contains(&choice));
                    let found = found.map_or(usize::MAX, |(expert, _)| *expert);
                    // Probabilities of logits that differ by less than this may be the same f32.
                    let alike = (row[found] - row[*expert]).abs() < 1e-5;
                    prop_assert!(found == *expert || alike, "{found} for {expert}");
                    let weight = f64::from(row[*expert]).exp() / sum;
                    prop_assert!((f64::from(routing.weights[slot]) - weight).abs() < 3e-5);
                }
            }
        }

        /// Every choice once, experts and their tokens in rising order.
        #[test]
        fn choices_are_sorted_by_expert((logits, experts, top) in cases()) {
            let routing = Routing::new(&logits, experts, top);
            let Routing { experts: used, tokens, choices, .. } = routing;
            let count = logits.len() / experts * top;
            let mut end = 0;
            for (_, range) in &used {
                prop_assert!(range.start == end && range.end > end);
                prop_assert!(tokens[range.clone()].is_sorted_by(|a, b| a < b));
                end = range.end;
            }
            prop_assert_eq!(end, count);
            prop_assert!(used.is_sorted_by(|a, b| a.0 < b.0));
            let mut all = choices.clone();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..count as u32));
            for (slot, choice) in choices.iter().enumerate() {
                prop_assert_eq!(tokens[*choice as usize] as usize, slot / top);
            }
            prop_assert!(choices.chunks(top).all(|of_token| of_token.is_sorted()));
        }

        /// Whatever goes with a token.
        #[test]
        fn a_token_is_routed_by_its_own_logits((logits, experts, top) in cases()) {
            let together = Routing::new(&logits, experts, top);
            for (token, row) in logits.chunks(experts).enumerate() {
                let alone = Routing::new(row, experts, top);
                let weights = &together.weights[token * top..][..top];
                prop_assert_eq!(&alone.weights, weights);
                for (slot, (expert, _)) in alone.experts.iter().enumerate() {
                    let choice = together.choices[token * top + slot] as usize;
                    let same = |(other, all): &(usize, Range<usize>)| {
                        other == expert && all.contains(&choice)
                    };
                    prop_assert!(together.experts.iter().any(same));
                }
            }
        }
    }

    /// A model that overflows says so elsewhere.
    #[test]
    fn no_numbers_are_routed_somewhere() {
        let routing = Routing::new(&[f32::NAN, 1.0, f32::INFINITY, 0.0], 4, 2);
        assert_eq!(routing.choices, [0, 1]);
        assert!(routing.weights.iter().all(|weight| weight.is_nan()));
    }
}

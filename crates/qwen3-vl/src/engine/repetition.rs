//! Detects that an answer repeats itself.

/// Detects repetition token by token. An answer repeats itself when its last `n` tokens have a
/// period `p` (each equals the one `p` before it), with `n` at least the limit and at least four
/// periods.
///
/// Greedy decoding can loop like this until `max_tokens` ends the answer (QwenLM/Qwen3-VL issues
/// 1611 and 1825).
#[derive(Debug)]
pub struct RepetitionGuard {
    limit: usize,
    tokens: Vec<u32>,
    /// `runs[p - 1]`: how many of the last tokens equal the one `p` before them.
    runs: Vec<u32>,
}

/// Periods that make a repetition.
const PERIODS: usize = 4;

impl RepetitionGuard {
    /// A guard that allows `limit` tokens of repetition; 0 disables it.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit as usize,
            tokens: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Takes the next token; true if the answer repeats itself with it. Linear in the tokens so
    /// far.
    pub fn push(&mut self, token: u32) -> bool {
        if self.limit == 0 {
            return false;
        }
        for (run, before) in self.runs.iter_mut().zip(self.tokens.iter().rev()) {
            *run = if *before == token { *run + 1 } else { 0 };
        }
        self.tokens.push(token);
        self.runs.push(0);
        let periods = self.runs.iter().zip(1..);
        let mut lengths = periods.map(|(run, period)| (*run as usize + period, period));
        lengths.any(|(length, period)| length >= self.limit.max(PERIODS * period))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, by trying every length and period.
    fn repeats(tokens: &[u32], limit: usize) -> bool {
        (limit.max(1)..=tokens.len()).any(|length| {
            let last = &tokens[tokens.len() - length..];
            (1..=length / PERIODS).any(|p| last[p..] == last[..length - p])
        })
    }

    fn first(tokens: &[u32], limit: u32) -> Option<usize> {
        let mut guard = RepetitionGuard::new(limit);
        tokens.iter().position(|token| guard.push(*token))
    }

    #[test]
    fn it_ends_where_the_repetition_has_the_length() {
        let one = [&[1, 2, 3][..], &[7; 100]].concat();
        assert_eq!(first(&one, 64), Some(3 + 63));
        // Three periods of ten are no repetition; the fourth ends with the 40th token.
        let ten: Vec<u32> = (0..10).cycle().take(200).collect();
        assert_eq!(first(&ten, 8), Some(39));
        assert_eq!(first(&ten, 64), Some(63));
        assert_eq!(first(&ten, 0), None);
        assert_eq!(first(&[5; 9], 1), Some(3), "four periods even of one token");
        let mut counts: Vec<u32> = (0..1000).collect();
        assert_eq!(first(&counts, 1), None);
        counts.extend([999; 3]);
        assert_eq!(first(&counts, 1), Some(1002));
    }

    proptest! {
        /// Short words over few letters repeat often and break off again.
        #[test]
        fn it_says_what_the_definition_says(
            words in prop::collection::vec((prop::collection::vec(0..3u32, 1..6), 1..7usize), 1..8),
            limit in 1..30u32
        ) {
            let tokens: Vec<u32> = words.iter().flat_map(|(word, n)| word.repeat(*n)).collect();
            let mut guard = RepetitionGuard::new(limit);
            for (i, token) in tokens.iter().enumerate() {
                prop_assert_eq!(guard.push(*token), repeats(&tokens[..=i], limit as usize));
            }
        }
    }
}

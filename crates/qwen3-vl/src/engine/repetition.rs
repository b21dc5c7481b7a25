//! Sees that an answer repeats itself.

/// Looks at tokens as they come. An answer repeats itself when its last `n` tokens have a period
/// `p` (each is the one `p` before it), with `n` at least the limit and at least four periods.
///
/// A model that decodes greedily can go round in such a circle until the length of its answer ends
/// it (QwenLM/Qwen3-VL issues 1611 and 1825).
#[derive(Debug)]
pub struct RepetitionGuard {
    limit: usize,
    tokens: Vec<u32>,
    /// For each period, less one, how many of the last tokens are the one that long before them.
    runs: Vec<u32>,
}

/// Periods that it takes.
const PERIODS: usize = 4;

impl RepetitionGuard {
    /// A guard that lets `limit` tokens of repetition through; 0 lets all through.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit as usize,
            tokens: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Takes the next token; whether the answer repeats itself with it. Takes as many steps as
    /// there are tokens.
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

    /// The definition, looked up in all that there is.
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
        // Three times ten are no repetition; of four the last token is the 40th.
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
        /// Of short words over few letters, which repeat often and break off again.
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

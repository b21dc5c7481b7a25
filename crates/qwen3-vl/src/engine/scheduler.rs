//! Plans the engine's next step. Pure: no tensors, no clock.
//!
//! Two kinds of step take turns: the vision encoder runs a batch of inputs, and the language model
//! runs tokens of any number of windows in one pass (continuous batching). Closed windows come
//! first, because their callers wait for answers: every pass has all that decode, then prompts are
//! finished in the order in which their windows were closed. Open windows come in between, oldest
//! first. After [`Limits::max_passed_over`] steps for closed windows they get a step of their own,
//! so that none starves.

/// The state of a window that the scheduler plans by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceStatus {
    /// Its id.
    pub id: u64,
    /// Vision inputs that have not been encoded.
    pub waiting: usize,
    /// Arrival number of the oldest of those, counted over all windows.
    pub since: u64,
    /// Tokens that are not in the KV cache. While decoding, the last one sampled.
    pub pending: usize,
    /// Its place in the order of closing, if it is closed.
    pub closed: Option<u64>,
    /// Whether its prompt is in the KV cache and its answer has begun.
    pub decoding: bool,
}

/// Bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Windows that decode in one pass.
    pub decoding: usize,
    /// Tokens that are prefilled in one pass.
    pub prefill: usize,
    /// Steps that may pass over an open window with work before it gets one.
    pub max_passed_over: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decoding: 64,
            prefill: 512,
            max_passed_over: 8,
        }
    }
}

/// Tokens of one window in a pass, from the first pending one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledTokens {
    /// The window.
    pub id: u64,
    /// Number of tokens, at least one.
    pub tokens: usize,
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Encode a batch of waiting inputs of these windows, in this order, with at least the first.
    Encode(Vec<u64>),
    /// Run these tokens through the language model; requests with none pending then sample one.
    Forward(Vec<ScheduledTokens>),
}

/// Plans the steps.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    limits: Limits,
    encoded: bool,
    /// Steps for closed windows while open ones had work.
    passed: u32,
}

impl Scheduler {
    /// A scheduler with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The next step; none if every window waits for its caller.
    pub fn next(&mut self, windows: &[SequenceStatus]) -> Option<Step> {
        self.next_within(windows, self.limits.prefill)
    }

    /// Like [`Scheduler::next`], but also prefills at most `beside` tokens while windows decode,
    /// because those wait for the pass.
    pub fn next_within(&mut self, windows: &[SequenceStatus], beside: usize) -> Option<Step> {
        let decode = windows.iter().any(|w| w.decoding && w.pending > 0);
        let prefill = match decode {
            true => self.limits.prefill.min(beside.max(1)),
            false => self.limits.prefill,
        };
        let (mut closed, mut open): (Vec<_>, Vec<_>) =
            windows.iter().copied().partition(|w| w.closed.is_some());
        closed.sort_unstable_by_key(|w| w.closed);
        open.sort_unstable_by_key(|w| (w.since, w.id));
        let urgent = self.of_closed(&closed, &open, prefill);
        let other = self.of_open(&open, prefill);
        let step = match (urgent, other) {
            (Some(_), Some(step)) if self.passed >= self.limits.max_passed_over => {
                self.passed = 0;
                step
            }
            (Some(step), other) => {
                self.passed = if other.is_some() { self.passed + 1 } else { 0 };
                step
            }
            (None, other) => {
                self.passed = 0;
                other?
            }
        };
        self.encoded = matches!(step, Step::Encode(_));
        Some(step)
    }

    fn of_closed(
        &self,
        closed: &[SequenceStatus],
        open: &[SequenceStatus],
        prefill: usize,
    ) -> Option<Step> {
        let decoding = closed.iter().filter(|w| w.decoding && w.pending > 0);
        let mut shares: Vec<ScheduledTokens> = decoding
            .take(self.limits.decoding)
            .map(|w| ScheduledTokens {
                id: w.id,
                tokens: w.pending,
            })
            .collect();
        let prompts = closed.iter().filter(|w| !w.decoding && w.waiting == 0);
        shares.extend(share_out(prompts, prefill));
        let encode = closed.iter().any(|w| w.waiting > 0);
        if encode && (!self.encoded || shares.is_empty()) {
            return Some(encode_all(closed.iter().chain(open)));
        }
        (!shares.is_empty()).then_some(Step::Forward(shares))
    }

    fn of_open(&self, open: &[SequenceStatus], prefill: usize) -> Option<Step> {
        // Waits for inputs that are still to be encoded: a pass costs the same for few tokens as
        // for many.
        let full = |w: &&SequenceStatus| w.waiting == 0 || w.pending >= prefill;
        let shares = share_out(open.iter().filter(full), prefill);
        let encode = open.iter().any(|w| w.waiting > 0);
        if encode && (!self.encoded || shares.is_empty()) {
            return Some(encode_all(open.iter()));
        }
        (!shares.is_empty()).then_some(Step::Forward(shares))
    }
}

/// Shares out at most `prefill` tokens among the windows' pending ones, first windows first.
fn share_out<'a>(
    windows: impl Iterator<Item = &'a SequenceStatus>,
    prefill: usize,
) -> Vec<ScheduledTokens> {
    let mut left = prefill;
    let share = |w: &SequenceStatus| {
        let most = w.pending.min(left);
        // A single token of a prompt would be computed as a decode step, which differs in the last
        // bits. So it neither takes nor leaves one token where it can avoid it.
        let tokens = match (most, w.pending - most) {
            (3.., 1) => most - 1,
            (1, 1..) | (2, 1) if left < prefill => 0,
            _ => most,
        };
        left -= tokens;
        (tokens > 0).then_some(ScheduledTokens { id: w.id, tokens })
    };
    windows.filter_map(share).collect()
}

fn encode_all<'a>(windows: impl Iterator<Item = &'a SequenceStatus>) -> Step {
    let waiting = windows.filter(|w| w.waiting > 0);
    Step::Encode(waiting.map(|w| w.id).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: SequenceStatus = SequenceStatus {
        id: 0,
        waiting: 0,
        since: 0,
        pending: 0,
        closed: None,
        decoding: false,
    };

    fn share(id: u64, tokens: usize) -> ScheduledTokens {
        ScheduledTokens { id, tokens }
    }

    #[test]
    fn all_that_decode_are_in_every_pass_and_prompts_join_them() {
        let decoding = |id, order| SequenceStatus {
            id,
            pending: 1,
            closed: Some(order),
            decoding: true,
            ..IDLE
        };
        let prompt = |id, pending, order| SequenceStatus {
            id,
            pending,
            closed: Some(order),
            ..IDLE
        };
        let open = SequenceStatus {
            id: 9,
            pending: 100,
            ..IDLE
        };
        let windows = [
            open,
            prompt(1, 500, 7),
            decoding(2, 5),
            decoding(3, 4),
            prompt(4, 30, 6),
            prompt(5, 10, 8),
        ];
        let step = Scheduler::default().next(&windows);
        let expected = vec![share(3, 1), share(2, 1), share(4, 30), share(1, 482)];
        assert_eq!(step, Some(Step::Forward(expected)));
    }

    #[test]
    fn no_token_of_a_prompt_goes_by_itself() {
        let open = |id, pending| SequenceStatus {
            id,
            pending,
            ..IDLE
        };
        for (pending, expected) in [
            ([513, 9], vec![share(0, 511)]),
            ([512, 9], vec![share(0, 512)]),
            ([511, 9], vec![share(0, 511)]),
            ([511, 1], vec![share(0, 511), share(1, 1)]),
            ([510, 3], vec![share(0, 510)]),
            ([509, 4], vec![share(0, 509), share(1, 2)]),
            ([600, 9], vec![share(0, 512)]),
        ] {
            let windows = [open(0, pending[0]), open(1, pending[1])];
            let step = Scheduler::default().next(&windows);
            assert_eq!(step, Some(Step::Forward(expected)), "{pending:?}");
        }
    }

    #[test]
    fn closed_windows_lead_a_batch_of_inputs_and_open_ones_fill_it() {
        let waiting = |id, since, closed| SequenceStatus {
            id,
            waiting: 1,
            since,
            closed,
            ..IDLE
        };
        let windows = [
            waiting(1, 3, None),
            waiting(2, 9, Some(1)),
            waiting(3, 2, None),
        ];
        let step = Scheduler::default().next(&windows);
        assert_eq!(step, Some(Step::Encode(vec![2, 3, 1])));
    }

    #[test]
    fn one_encoded_input_does_not_wait_for_its_prefill_while_more_are_there() {
        let window = SequenceStatus {
            waiting: 2,
            pending: 80,
            ..IDLE
        };
        let mut scheduler = Scheduler::default();
        for _ in 0..3 {
            assert_eq!(scheduler.next(&[window]), Some(Step::Encode(vec![0])));
        }
        let window = SequenceStatus {
            waiting: 0,
            ..window
        };
        assert_eq!(
            scheduler.next(&[window]),
            Some(Step::Forward(vec![share(0, 80)]))
        );
    }

    #[test]
    fn nothing_is_planned_where_there_is_nothing_to_do() {
        let asked = SequenceStatus {
            closed: Some(0),
            ..IDLE
        };
        assert_eq!(Scheduler::default().next(&[IDLE, asked]), None);
        assert_eq!(Scheduler::default().next(&[]), None);
    }

    /// A window of the simulation: its state, and the tokens of its answer.
    #[derive(Clone, Debug)]
    struct Simulated {
        state: SequenceStatus,
        answer: usize,
        /// Steps since it had work and got none.
        passed_over: usize,
    }

    fn any_window() -> impl Strategy<Value = (usize, usize, bool, usize)> {
        (0usize..5, 0usize..700, any::<bool>(), 1usize..6)
    }

    proptest! {
        /// Any windows are finished within the bounds of every step, and each is served within a
        /// number of steps that depends only on their number.
        #[test]
        fn all_work_is_done_and_no_window_starves(
            windows in prop::collection::vec(any_window(), 0..12),
            (decoding, prefill, max_passed_over) in (1usize..5, 1usize..600, 1u32..10),
            beside in prop::collection::vec(0usize..600, 1..8),
        ) {
            let limits = Limits { decoding, prefill, max_passed_over };
            let mut scheduler = Scheduler::new(limits);
            let count = windows.len();
            let mut all: Vec<Simulated> = windows
                .into_iter()
                .enumerate()
                .map(|(i, (waiting, pending, closed, answer))| Simulated {
                    state: SequenceStatus {
                        id: i as u64,
                        waiting,
                        since: i as u64,
                        // A closed window has at least the prompt's tail to prefill.
                        pending: pending + usize::from(closed),
                        closed: closed.then_some(i as u64),
                        decoding: false,
                    },
                    answer,
                    passed_over: 0,
                })
                .collect();
            // Passes that a window may wait for those before it.
            let total: usize = all
                .iter()
                .map(|w| {
                    let least = prefill.min(*beside.iter().min().unwrap_or(&1)).max(1);
                    w.state.waiting + (w.state.pending + 80 * w.state.waiting) / least + w.answer + 3
                })
                .sum();
            let mut steps = 0;
            loop {
                let states: Vec<_> = all.iter().map(|w| w.state).collect();
                let beside = beside[steps % beside.len()];
                let Some(step) = scheduler.next_within(&states, beside) else { break };
                let decode = states.iter().any(|state| state.decoding && state.pending > 0);
                steps += 1;
                prop_assert!(steps <= 4 * total + 8, "too many steps");
                let served: Vec<u64> = match &step {
                    Step::Encode(ids) => {
                        prop_assert!(!ids.is_empty());
                        // The engine encodes at least the first window's input.
                        let window = &mut all[ids[0] as usize].state;
                        prop_assert!(window.waiting > 0);
                        window.waiting -= 1;
                        window.since += count as u64;
                        window.pending += 80;
                        vec![ids[0]]
                    }
                    Step::Forward(shares) => {
                        let mut prefilled = 0;
                        let mut rows = 0;
                        for share in shares {
                            let window = &mut all[share.id as usize];
                            let state = &mut window.state;
                            prop_assert!(share.tokens > 0 && share.tokens <= state.pending);
                            if state.decoding { rows += 1 } else { prefilled += share.tokens }
                            state.pending -= share.tokens;
                            if state.pending == 0 && state.closed.is_some() && state.waiting == 0 {
                                state.decoding = true;
                                window.answer -= 1;
                                if window.answer > 0 {
                                    state.pending = 1;
                                }
                            }
                        }
                        prop_assert!(rows <= decoding && prefilled <= prefill);
                        prop_assert!(!decode || prefilled <= beside.max(1), "decoding waits too long");
                        shares.iter().map(|share| share.id).collect()
                    }
                };
                let mut ids = served.clone();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), served.len(), "served twice");
                for window in &mut all {
                    let work = window.state.waiting + window.state.pending > 0;
                    let passed = work && !served.contains(&window.state.id);
                    window.passed_over = if passed { window.passed_over + 1 } else { 0 };
                    // Open windows wait for each other and for `max_passed_over` steps before each
                    // of theirs; closed ones for those that were closed before.
                    prop_assert!(window.passed_over <= (total + 1) * (max_passed_over as usize + 2));
                }
            }
            for window in &all {
                let state = window.state;
                prop_assert!(state.waiting == 0 && state.pending == 0, "left: {:?}", state);
                prop_assert!(state.closed.is_none() || window.answer == 0);
            }
        }

        /// An open window gets its steps however long others decode.
        #[test]
        fn open_windows_do_not_starve(decoders in 1usize..6, max_passed_over in 1u32..10) {
            let mut scheduler = Scheduler::new(Limits { max_passed_over, ..Limits::default() });
            let mut windows: Vec<SequenceStatus> = (0..decoders as u64)
                .map(|id| SequenceStatus { id, pending: 1, closed: Some(id), decoding: true, ..IDLE })
                .collect();
            windows.push(SequenceStatus { id: 99, waiting: 1, ..IDLE });
            for (what, bound) in [("encoded", max_passed_over), ("prefilled", max_passed_over)] {
                let mut steps = 0;
                loop {
                    let served = match scheduler.next(&windows) {
                        Some(Step::Encode(ids)) => ids == [99],
                        Some(Step::Forward(shares)) => shares.iter().any(|share| share.id == 99),
                        None => false,
                    };
                    if served { break }
                    steps += 1;
                    prop_assert!(steps <= bound, "{what} after {steps}");
                }
                if let Some(window) = windows.last_mut() {
                    (window.waiting, window.pending) = (0, 80);
                }
            }
        }
    }
}

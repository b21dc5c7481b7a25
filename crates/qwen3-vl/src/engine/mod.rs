//! The thread that owns a model.
//!
//! Commands arrive over a channel, events leave through each window's sink. The channel is
//! unbounded, so that no caller waits behind a forward pass. Callers bound its contents by bounding
//! their windows.

pub mod admission;
pub mod config;
mod encode;
pub mod interrupt;
mod pace;
pub mod repetition;
pub mod runner;
mod sample;
pub mod scheduler;
pub mod sequence;
pub mod vision_batch;
pub mod vision_cache;
mod warm_up;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use qwen3_vl_core::backend::{LostSink, WindowHead};
use qwen3_vl_core::failure::{Failure, panic_text};
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::lower_priority;

use crate::model::kv_cache::BLOCK_TOKENS;
use crate::quote::brief;
use admission::{Admission, Admitted};
use interrupt::{Interest, Interrupt};
use pace::PrefillPace;
use runner::{Runner, StepError};
use scheduler::{Scheduler, SequenceStatus, Step};
use sequence::{Ask, Sequence};

/// A caller's command to the engine. Windows and requests share one space of unique ids.
pub enum Command {
    /// Opens a window.
    Open {
        /// Its id; later windows have larger ones.
        id: u64,
        /// The prompt before its frames, and what the window will need.
        head: WindowHead,
        /// Receives its failure if it has no request.
        lost: LostSink,
        /// Its waiters.
        interest: Arc<Interest>,
    },
    /// Adds a vision input to an open window.
    Push {
        /// The window.
        id: u64,
        /// Its next frame pair or image.
        input: VisionInput,
        /// When it was pushed.
        at: Instant,
    },
    /// Asks about the inputs that an open window has so far.
    Ask {
        /// The window.
        window: u64,
        /// The request.
        ask: Ask,
    },
    /// Ends a window's inputs and requests.
    Close {
        /// The window.
        id: u64,
    },
    /// Cancels a request.
    Cancel {
        /// The request.
        id: u64,
    },
}

/// The running engine. Dropping it cancels all windows, interrupts the running step and joins the
/// thread, which takes a fraction of a second whatever the step is.
pub struct Engine {
    commands: Option<Sender<Command>>,
    interrupt: Arc<Interrupt>,
    broken: Arc<OnceLock<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn start(runner: Runner) -> std::io::Result<Self> {
        let (commands, inbox) = unbounded();
        let interrupt = Arc::clone(runner.interrupt());
        let broken = Arc::default();
        let worker = Worker::new(runner, inbox, Arc::clone(&broken));
        let thread = std::thread::Builder::new()
            .name("qwen3-vl".into())
            .spawn(move || {
                lower_priority();
                worker.run();
            })?;
        Ok(Self {
            commands: Some(commands),
            interrupt,
            broken,
            thread: Some(thread),
        })
    }

    /// The channel for commands; none while the engine is dropped.
    pub fn commands(&self) -> Option<Sender<Command>> {
        self.commands.clone()
    }

    /// Where waiters give up a window, after its cancel command has been sent.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Whether every window fails, after a panic or a failure of the device.
    pub fn is_broken(&self) -> bool {
        let thread = self.thread.as_ref();
        self.broken.get().is_some() || thread.is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.interrupt.stop();
        // Wakes the thread: it may sleep on the channel, which open windows keep connected.
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Cancel { id: u64::MAX });
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // The windows' sinks have already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

struct Worker {
    runner: Runner,
    inbox: Receiver<Command>,
    interrupt: Arc<Interrupt>,
    admission: Admission,
    scheduler: Scheduler,
    pace: PrefillPace,
    /// Windows, and requests that are forks of them.
    sequences: Vec<Sequence>,
    /// Counts requests and pushed inputs, to number them.
    asked: u64,
    pushed: u64,
    /// Why every window fails, after a panic or a failure of the device.
    broken: Arc<OnceLock<String>>,
}

impl Worker {
    fn new(runner: Runner, inbox: Receiver<Command>, broken: Arc<OnceLock<String>>) -> Self {
        let config = *runner.config();
        Self {
            admission: Admission::new(runner.parts.kv_blocks),
            inbox,
            interrupt: Arc::clone(runner.interrupt()),
            scheduler: Scheduler::new(config.limits()),
            pace: PrefillPace::new(config.prefill_time, config.prefill_tokens),
            sequences: Vec::new(),
            asked: 0,
            pushed: 0,
            broken,
            runner,
        }
    }

    fn run(mut self) {
        while !self.interrupt.stopped() {
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn()));
            match turn {
                Ok(true) => {}
                Ok(false) => return,
                Err(panic) => {
                    let text = panic_text(&*panic);
                    self.break_down(&format!(
                        "the engine panicked ({text}); restart the element"
                    ));
                }
            }
        }
    }

    /// Handles all queued commands, then runs one step; waits for a command if there is no step.
    /// Returns false if all senders are gone or the engine is stopped.
    fn turn(&mut self) -> bool {
        while let Ok(command) = self.inbox.try_recv() {
            self.command(command);
        }
        self.release();
        self.poll_encoded(false);
        self.advance();
        if self.serve() {
            // Before a step, for what has begun is to be looked at like all else.
            return true;
        }
        let admitted = self.sequences.iter();
        let admitted = admitted.filter(|sequence| self.admission.is_admitted(sequence.window()));
        let mut states: Vec<SequenceStatus> = admitted.map(Sequence::status).collect();
        if self.runner.is_full() {
            // No batch is free, so no waiting input can be started.
            states.iter_mut().for_each(|state| state.waiting = 0);
        }
        match self.scheduler.next_within(&states, self.pace.bound()) {
            Some(step) => self.step(step),
            None if self.runner.is_encoding() => self.poll_encoded(true),
            // What has failed meanwhile left its room to others.
            None if self.release() => (),
            // The command that wakes a stopped engine may have been handled above.
            None if self.interrupt.stopped() => return false,
            None => match self.inbox.recv() {
                Ok(command) => self.command(command),
                Err(_) => return false,
            },
        }
        true
    }

    /// What ended windows had is free, and goes to those that wait. Whether one of those has been
    /// admitted.
    fn release(&mut self) -> bool {
        let sequences = self.sequences.iter().filter(|s| s.needs_blocks());
        let windows: Vec<u64> = sequences.map(Sequence::window).collect();
        self.admission.retain(|id| windows.contains(&id))
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                id,
                head,
                lost,
                interest,
            } => {
                // A caller that saw a window end counts on its blocks for this one.
                self.release();
                let state = self.runner.parts.model.new_state();
                let mut window = Sequence::new(id, &head, lost, state).of_interest(interest);
                if let Some(failure) = self.refusal(id, &head) {
                    window.fail(failure);
                }
                self.sequences.push(window);
            }
            Command::Push { id, input, at } => {
                self.pushed += 1;
                let since = self.pushed;
                self.one(id, |runner, window| {
                    match runner.check_next(window, &input) {
                        Ok(()) => window.push(input, since, at),
                        Err(error) => window.refuse_input(failure(&error)),
                    }
                });
            }
            Command::Ask { window, ask } => {
                self.asked += 1;
                let order = self.asked;
                self.one(window, |_, window| window.ask(ask, order));
            }
            Command::Close { id } => self.one(id, |_, window| window.close()),
            Command::Cancel { id } => {
                self.sequences.iter_mut().for_each(|s| s.cancel(id));
                self.sequences.retain(|s| s.id() != id && !s.ended());
            }
        }
    }

    /// The reason why a window cannot be opened, if any.
    fn refusal(&mut self, id: u64, head: &WindowHead) -> Option<Failure> {
        if let Some(reason) = self.broken.get() {
            return Some(Failure::Fatal(reason.clone()));
        }
        if let Err(error) = self.runner.limits().check(head.tokens, 0) {
            return Some(Failure::Invalid(error.to_string()));
        }
        let full = StepError::Memory {
            needed: head.tokens,
            limit: self.runner.limits().kv_tokens,
        };
        match self.admission.open(id, blocks(head.tokens), head.waits) {
            Admitted::Now | Admitted::Later => None,
            Admitted::Full => Some(Failure::Full(full.to_string())),
            Admitted::Never => Some(Failure::Invalid(full.to_string())),
        }
    }

    /// Hands encoded tokens to the windows that await them. If `wait`, waits for the oldest batch.
    fn poll_encoded(&mut self, mut wait: bool) {
        while let Some(batch) = self.runner.poll_encoded(std::mem::take(&mut wait)) {
            let waits = |window: &Sequence| window.awaits(&batch.inputs);
            if let Some(error) = &batch.failed {
                self.fail(error, waits);
                continue;
            }
            for window in self.sequences.iter_mut().filter(|window| waits(window)) {
                self.runner.supply(window);
                window.vision += batch.time;
            }
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }

    /// Makes all admitted sequences ready for the next step.
    fn advance(&mut self) {
        for index in 0..self.sequences.len() {
            let id = self.sequences[index].window();
            if !self.admission.is_admitted(id) {
                continue;
            }
            let advanced = self.runner.lay_out(&mut self.sequences[index]);
            let advanced = advanced.and_then(|()| {
                let mut fits = self.fits(id, None, true);
                if !fits && !self.has_forks(id) {
                    // It said less than it needs, and may come to an end before it needs that.
                    let now = self.sequences[index].own_blocks();
                    fits = self.admission.resize(id, now);
                }
                match fits {
                    true => Ok(()),
                    false => Err(StepError::Memory {
                        needed: self.sequences[index].tokens(),
                        limit: self.runner.limits().kv_tokens,
                    }),
                }
            });
            if let Err(error) = advanced {
                self.sequences[index].fail(failure(&error));
            }
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }

    /// Whether there is room for a window and its requests, with one more request that needs
    /// `more`. They have it then. `tight`: also if it is too little for all that the window may
    /// still become.
    fn fits(&mut self, window: u64, more: Option<usize>, tight: bool) -> bool {
        let (later, needed) = self.needed_blocks(window, more);
        self.admission.resize(window, later.max(needed))
            || tight && self.admission.resize(window, needed)
    }

    /// Blocks that a window and its requests may need in all when it has grown to what it said,
    /// which has room for one request, and those that they need if it does not grow. With one more
    /// request that needs `more`.
    fn needed_blocks(&self, window: u64, more: Option<usize>) -> (usize, usize) {
        /// The first fork may copy a block that the window goes on with, and cut another.
        const COPIED: usize = 2;
        let context = self.runner.limits().context;
        let family = || self.sequences.iter().filter(|s| s.window() == window);
        let forks = family().filter(|s| s.is_fork());
        let forks = forks.map(|fork| fork.most_blocks(context)).chain(more);
        let (sum, most) = forks.fold((0, 0), |(sum, most), blocks| {
            (sum + blocks, most.max(blocks))
        });
        let grows = family().any(Sequence::grows) && sum > 0;
        let declared = self.admission.declared(window) + COPIED + sum - most;
        // Forks keep what they share with their window when that has ended.
        let prefix = family().map(|sequence| match sequence.is_fork() {
            true => sequence.shared_blocks(),
            false => sequence.most_blocks(context),
        });
        let needed = prefix.max().unwrap_or(0) + sum;
        (if grows { declared } else { needed }, needed)
    }

    fn has_forks(&self, window: u64) -> bool {
        let mut family = self.sequences.iter().filter(|s| s.window() == window);
        family.any(Sequence::is_fork)
    }

    /// Begins requests whose inputs are all in the cache, as forks of their windows; of a window of
    /// which nothing else is left, the last one. One that finds no room waits for the others of its
    /// window. Whether one has begun, or was refused.
    fn serve(&mut self) -> bool {
        let mut served = false;
        let tokenizer = self.runner.parts.tokenizer.clone();
        let context = self.runner.limits().context;
        for index in 0..self.sequences.len() {
            let id = self.sequences[index].id();
            if !self.admission.is_admitted(id) {
                continue;
            }
            while let Some(tokens) = self.sequences[index].asked_tokens(&tokenizer) {
                let window = &self.sequences[index];
                let (last, others) = (window.is_last_asked(), self.has_forks(id));
                let blocks = window.request_blocks(tokens, context);
                // One at a time has the room that the window has for one. The last one takes what
                // the window has, and more as it needs it.
                let fits = self.fits(id, Some(blocks), !others) || last && !others;
                if !fits && others {
                    break;
                }
                served = true;
                let window = &mut self.sequences[index];
                if fits && last {
                    window.become_request(&tokenizer);
                } else if fits {
                    let fork = window.fork(&tokenizer);
                    self.sequences.extend(fork);
                } else {
                    let full = StepError::Memory {
                        needed: window.tokens().saturating_add(tokens),
                        limit: self.runner.limits().kv_tokens,
                    };
                    window.refuse(Failure::Full(full.to_string()));
                }
            }
        }
        self.sequences.retain(|sequence| !sequence.ended());
        served
    }

    /// Does something to a window.
    fn one(&mut self, id: u64, act: impl FnOnce(&Runner, &mut Sequence)) {
        if let Some(window) = self.sequences.iter_mut().find(|s| s.id() == id) {
            act(&self.runner, window);
            self.sequences.retain(|sequence| !sequence.ended());
        }
    }

    fn step(&mut self, step: Step) {
        let (mut ids, tokens): (Vec<u64>, Vec<usize>) = match step {
            Step::Encode(ids) => (ids, Vec::new()),
            Step::Forward(shares) => shares.iter().map(|s| (s.id, s.tokens)).unzip(),
        };
        let place = |sequence: &Sequence| ids.iter().position(|id| *id == sequence.id());
        let mut chosen: Vec<(usize, &mut Sequence)> = self
            .sequences
            .iter_mut()
            .filter_map(|sequence| Some((place(sequence)?, sequence)))
            .collect();
        chosen.sort_unstable_by_key(|(place, _)| *place);
        let result = if tokens.is_empty() {
            let mut chosen: Vec<_> = chosen.into_iter().map(|(_, sequence)| sequence).collect();
            let batch = self.runner.next_batch(&chosen);
            let in_batch = chosen.iter().filter(|sequence| sequence.has_new(&batch));
            ids = in_batch.map(|sequence| sequence.id()).collect();
            self.runner.encode_next(&mut chosen)
        } else {
            let (mut prefilled, mut decode) = (0, false);
            for (place, window) in &chosen {
                match window.status().decoding {
                    true => decode = true,
                    false => prefilled += tokens[*place],
                }
            }
            let shares = chosen
                .into_iter()
                .map(|(place, sequence)| (sequence, tokens[place]));
            let start = Instant::now();
            let done = self.runner.forward(shares.collect());
            self.pace.passed(prefilled, decode, start.elapsed());
            done
        };
        // An error fails every sequence of the step. An interrupted step has no waiters left, and
        // the commands that cancel its sequences are already queued.
        if let Err(error) = result
            && !matches!(error, StepError::Interrupted)
        {
            self.fail(&error, |sequence| ids.contains(&sequence.id()));
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }

    /// Fails the sequences that the error concerns, or all of them if the engine cannot go on.
    fn fail(&mut self, error: &StepError, concerns: impl Fn(&Sequence) -> bool) {
        match failure(error) {
            Failure::Fatal(reason) => self.break_down(&reason),
            failure => {
                let concerned = self.sequences.iter_mut();
                for sequence in concerned.filter(|sequence| concerns(sequence)) {
                    sequence.fail(failure.clone());
                }
            }
        }
    }

    /// Fails every window, now and later: after a panic or a failure of the device no state can be
    /// trusted.
    fn break_down(&mut self, reason: &str) {
        // First, so that a caller that receives the failure and loads again gets a new engine.
        let reason = self.broken.get_or_init(|| reason.into());
        for sequence in &mut self.sequences {
            let fail = AssertUnwindSafe(|| sequence.fail(Failure::Fatal(reason.clone())));
            // A sink that panics again must not keep the others from their event.
            let _ = catch_unwind(fail);
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }
}

/// KV blocks that hold `tokens`.
fn blocks(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// The failure that a step's error means for its sequences.
fn failure(error: &StepError) -> Failure {
    let text = error.to_string();
    match error {
        StepError::Memory { .. } => Failure::Full(text),
        StepError::Device(device) if is_out_of_memory(device) => Failure::Full(text),
        StepError::Device(_) => Failure::Fatal(format!("{text}; restart the element")),
        _ => Failure::Invalid(text),
    }
}

/// Whether the device is out of memory, which other windows may free again.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    // candle keeps the driver's error as text only.
    let text = brief(error);
    // The driver's own, and that of cuBLAS.
    text.contains("OUT_OF_MEMORY") || text.contains("CUBLAS_STATUS_ALLOC_FAILED")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

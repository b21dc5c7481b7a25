//! The thread that owns a model.
//!
//! Commands go in over a channel, events come back through each window's sink. The channel itself
//! is unbounded, so that no caller ever waits behind a forward pass; what is in it is bounded by
//! the callers, who bound their open and closed windows.

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

/// What callers tell the engine. Windows and requests are named by a number that only one of them has.
pub enum Command {
    /// A window begins.
    Open {
        /// Its number; later windows have larger ones.
        id: u64,
        /// What stands before its frames.
        head: WindowHead,
        /// Hears of its failure, if no request does.
        lost: LostSink,
        /// Who waits for it.
        interest: Arc<Interest>,
    },
    /// A vision input for an open window.
    Push {
        /// The window.
        id: u64,
        /// Its next pair or image.
        input: VisionInput,
        /// When it was pushed.
        at: Instant,
    },
    /// A request about what an open window has so far.
    Ask {
        /// The window.
        window: u64,
        /// The request.
        ask: Ask,
    },
    /// No more inputs and requests of a window.
    Close {
        /// The window.
        id: u64,
    },
    /// Nobody wants the answer to a request any more.
    Cancel {
        /// The request.
        id: u64,
    },
}

/// The running engine. Dropping it cancels all windows, interrupts the step that runs and joins the
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
    /// If the system gives no thread.
    pub fn start(runner: Runner) -> std::io::Result<Self> {
        let (commands, inbox) = unbounded();
        let interrupt = Arc::clone(runner.interrupt());
        let broken = Arc::default();
        let config = *runner.config();
        let worker = Worker {
            admission: Admission::new(runner.parts.kv_blocks),
            inbox,
            interrupt: Arc::clone(&interrupt),
            scheduler: Scheduler::new(config.limits()),
            pace: PrefillPace::new(config.prefill_time, config.prefill_tokens),
            sequences: Vec::new(),
            asked: 0,
            pushed: 0,
            broken: Arc::clone(&broken),
            runner,
        };
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

    /// Where commands go.
    pub fn commands(&self) -> Option<Sender<Command>> {
        self.commands.clone()
    }

    /// Where to say that nobody waits for a window any more, once the command to cancel it is sent.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Whether every window fails, after a panic.
    pub fn is_broken(&self) -> bool {
        let thread = self.thread.as_ref();
        self.broken.get().is_some() || thread.is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.interrupt.stop();
        // The thread may sleep on the channel, which open windows keep connected: wake it.
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Cancel { id: u64::MAX });
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread has been reported through the windows' sinks.
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
    /// Requests made and inputs pushed so far.
    asked: u64,
    pushed: u64,
    /// Why nothing works any more, after a panic or a failure of the device.
    broken: Arc<OnceLock<String>>,
}

impl Worker {
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

    /// Takes every command that is there, then one step; waits for a command if there is none.
    /// `false` if nobody can send one any more.
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
            // What waits cannot be begun.
            states.iter_mut().for_each(|state| state.waiting = 0);
        }
        match self.scheduler.next_within(&states, self.pace.bound()) {
            Some(step) => self.step(step),
            None if self.runner.is_encoding() => self.poll_encoded(true),
            // What has failed meanwhile left its room to others.
            None if self.release() => (),
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
        let sequences = self.sequences.iter().filter(|s| s.needs_room());
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
                // Who has heard that a window ended, or ended it, counts on its room.
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

    /// Why a window cannot be opened.
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

    /// Gives windows the tokens of inputs that have been encoded; waits for the first of those that are
    /// being encoded if `wait`.
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

    /// Makes all that have been admitted ready for the next step.
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
        let said = self.admission.said(window) + COPIED + sum - most;
        // Forks keep what they share with their window when that has ended.
        let prefix = family().map(|sequence| match sequence.is_fork() {
            true => sequence.shared_blocks(),
            false => sequence.most_blocks(context),
        });
        let needed = prefix.max().unwrap_or(0) + sum;
        (if grows { said } else { needed }, needed)
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
        // What goes wrong in a step goes wrong for all who were in it. If it was interrupted, nobody waits
        // for them any more, and the commands that say so are there.
        if let Err(error) = result
            && !matches!(error, StepError::Interrupted)
        {
            self.fail(&error, |sequence| ids.contains(&sequence.id()));
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }

    /// Tells what went wrong to those whom it concerns: to all, if nothing works any more.
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

    /// After a panic or a failure of the device no state can be trusted: every window fails, and every
    /// later one.
    fn break_down(&mut self, reason: &str) {
        // First, so that whoever hears of it and loads again gets another engine.
        let reason = self.broken.get_or_init(|| reason.into());
        for sequence in &mut self.sequences {
            let fail = AssertUnwindSafe(|| sequence.fail(Failure::Fatal(reason.clone())));
            // A sink that panics again must not keep the others from their event.
            let _ = catch_unwind(fail);
        }
        self.sequences.retain(|sequence| !sequence.ended());
    }
}

/// Blocks that so many tokens need.
fn blocks(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// What a failed step means for those who were in it.
fn failure(error: &StepError) -> Failure {
    let text = error.to_string();
    match error {
        StepError::Memory { .. } => Failure::Full(text),
        StepError::Device(device) if is_out_of_memory(device) => Failure::Full(text),
        StepError::Device(_) => Failure::Fatal(format!("{text}; restart the element")),
        _ => Failure::Invalid(text),
    }
}

/// Whether a device has no memory left, which others may give back.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    // candle keeps the driver's error as text only.
    let text = brief(error);
    // The driver's own, and that of cuBLAS.
    text.contains("OUT_OF_MEMORY") || text.contains("CUBLAS_STATUS_ALLOC_FAILED")
}

//! The thread that owns a model.
//!
//! Commands go in over a channel, events come back through each window's sink. The channel itself
//! is unbounded, so that no caller ever waits behind a forward pass; what is in it is bounded by
//! the callers, who bound their open and closed windows.

pub mod admission;
mod encode;
pub mod flight;
pub mod interrupt;
pub mod repetition;
pub mod runner;
mod sample;
pub mod scheduler;
pub mod sequence;
pub mod vision_cache;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::model::KvCache;
use crate::model::kv_cache::BLOCK_TOKENS;
use admission::{Admission, Admitted};
use interrupt::Interrupt;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::failure::panic_text;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::lower_priority;
use qwen3_vl_core::request::Request;
use runner::{Runner, StepError};
use scheduler::{Scheduler, Step, WindowState};
use sequence::Sequence;

/// What callers tell the engine. Windows are named by a number that only one of them has.
pub enum Command {
    /// A window begins.
    Open {
        /// Its number; later windows have larger ones.
        id: u64,
        /// What stands before its frames.
        head: WindowHead,
        /// Where its events go.
        sink: EventSink,
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
    /// No more inputs: answer.
    Close {
        /// The window.
        id: u64,
        /// What is asked.
        request: Request,
        /// When it was closed.
        at: Instant,
    },
    /// Nobody wants the answer any more.
    Cancel {
        /// The window.
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
        let worker = Worker {
            admission: Admission::new(runner.parts.kv_blocks),
            runner,
            inbox,
            interrupt: Arc::clone(&interrupt),
            scheduler: Scheduler::default(),
            windows: Vec::new(),
            closed: 0,
            pushed: 0,
            broken: Arc::clone(&broken),
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
    windows: Vec<Sequence>,
    /// Windows closed and inputs pushed so far.
    closed: u64,
    pushed: u64,
    /// Why nothing works any more, after a panic.
    broken: Arc<OnceLock<String>>,
}

impl Worker {
    fn run(mut self) {
        while !self.interrupt.stopped() {
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn()));
            match turn {
                Ok(true) => {}
                Ok(false) => return,
                Err(panic) => self.break_down(&*panic),
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
        self.land(false);
        self.advance();
        let admitted = self.windows.iter();
        let admitted = admitted.filter(|window| self.admission.is_admitted(window.id()));
        let mut states: Vec<WindowState> = admitted.map(Sequence::state).collect();
        if self.runner.is_full() {
            // What waits cannot be begun.
            states.iter_mut().for_each(|state| state.waiting = 0);
        }
        match self.scheduler.next(&states) {
            Some(step) => self.step(step),
            None if self.runner.flies() => self.land(true),
            None => match self.inbox.recv() {
                Ok(command) => self.command(command),
                Err(_) => return false,
            },
        }
        true
    }

    /// What ended windows had is free, and goes to those that wait.
    fn release(&mut self) {
        let windows = &self.windows;
        self.admission
            .retain(|id| windows.iter().any(|window| window.id() == id));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { id, head, mut sink } => {
                if let Some(reason) = self.broken.get() {
                    sink.send(Event::Failed(Failure::Fatal(reason.clone())));
                    return;
                }
                // Who has heard that a window ended, or ended it, counts on its room.
                self.release();
                let kv = KvCache::new(&self.runner.parts.model.kv);
                let mut window = Sequence::new(id, &head, sink, kv);
                if let Err(error) = self.runner.limits().check(head.tokens, 0) {
                    return window.fail(failure(&error.into()));
                }
                let full = StepError::Memory {
                    needed: head.tokens,
                    limit: self.runner.limits().kv_tokens,
                };
                match self.admission.open(id, blocks(head.tokens), head.waits) {
                    Admitted::Now | Admitted::Later => self.windows.push(window),
                    Admitted::Full => window.fail(Failure::Full(full.to_string())),
                    Admitted::Never => window.fail(failure(&full)),
                }
            }
            Command::Push { id, input, at } => {
                self.pushed += 1;
                let since = self.pushed;
                self.one(id, |runner, window| {
                    runner.check_next(window, &input)?;
                    window.push(input, since, at);
                    Ok(())
                });
            }
            Command::Close { id, request, at } => {
                self.closed += 1;
                let order = self.closed;
                self.one(id, |_, window| {
                    window.close(request, order, at);
                    Ok(())
                });
            }
            Command::Cancel { id } => self.windows.retain(|w| w.id() != id),
        }
    }

    /// Gives windows the tokens of inputs that have been encoded; waits for the first of those that are
    /// being encoded if `wait`.
    fn land(&mut self, mut wait: bool) {
        while let Some(landing) = self.runner.land(std::mem::take(&mut wait)) {
            for window in &mut self.windows {
                if !window.awaits(&landing.inputs) {
                    continue;
                }
                match &landing.failed {
                    Some(error) => window.fail(failure(error)),
                    None => {
                        self.runner.supply(window);
                        window.vision += landing.time;
                    }
                }
            }
        }
        self.windows.retain(|window| !window.ended());
    }

    /// Makes all that have been admitted ready for the next step.
    fn advance(&mut self) {
        let admission = &mut self.admission;
        each(&self.runner, &mut self.windows, |runner, window| {
            let id = window.id();
            if !admission.is_admitted(id) {
                return Ok(());
            }
            runner.advance(window)?;
            let needed = window.tokens();
            match admission.grow(id, blocks(needed)) {
                true => Ok(()),
                false => {
                    let limit = runner.limits().kv_tokens;
                    Err(StepError::Memory { needed, limit })
                }
            }
        });
    }

    fn one(&mut self, id: u64, act: impl FnOnce(&Runner, &mut Sequence) -> Result<(), StepError>) {
        let mut act = Some(act);
        each(&self.runner, &mut self.windows, |runner, window| match act
            .take_if(|_| window.id() == id)
        {
            Some(act) => act(runner, window),
            None => Ok(()),
        });
    }

    fn step(&mut self, step: Step) {
        let (ids, tokens): (Vec<u64>, Vec<usize>) = match step {
            Step::Encode(ids) => (ids, Vec::new()),
            Step::Forward(shares) => shares.iter().map(|s| (s.id, s.tokens)).unzip(),
        };
        let place = |window: &Sequence| ids.iter().position(|id| *id == window.id());
        let mut chosen: Vec<(usize, &mut Sequence)> = self
            .windows
            .iter_mut()
            .filter_map(|window| Some((place(window)?, window)))
            .collect();
        chosen.sort_unstable_by_key(|(place, _)| *place);
        let result = if tokens.is_empty() {
            let mut chosen: Vec<_> = chosen.into_iter().map(|(_, window)| window).collect();
            self.runner.encode_next(&mut chosen)
        } else {
            let shares = chosen
                .into_iter()
                .map(|(place, window)| (window, tokens[place]));
            self.runner.forward(shares.collect())
        };
        // What goes wrong in a step goes wrong for all who were in it: the device has failed. If it was
        // interrupted, all who were in it have been cancelled, and the commands that say so are there.
        if let Err(error) = result
            && !matches!(error, StepError::Interrupted)
        {
            let concerned = self.windows.iter_mut();
            for window in concerned.filter(|window| ids.contains(&window.id())) {
                window.fail(failure(&error));
            }
        }
        self.windows.retain(|window| !window.ended());
    }

    /// After a panic no state can be trusted: every window fails, and every later one.
    fn break_down(&mut self, panic: &(dyn std::any::Any + Send)) {
        let text = panic_text(panic);
        let reason = format!("the engine panicked ({text}); restart the element");
        // First, so that whoever hears of it and loads again gets another engine.
        let reason = self.broken.get_or_init(|| reason);
        for window in &mut self.windows {
            let fail = AssertUnwindSafe(|| {
                window.fail(Failure::Fatal(reason.clone()));
            });
            // A sink that panics again must not keep the others from their event.
            let _ = catch_unwind(fail);
        }
        self.windows.clear();
    }
}

/// Does something to every window. One that cannot bear it fails alone.
fn each(
    runner: &Runner,
    windows: &mut Vec<Sequence>,
    mut act: impl FnMut(&Runner, &mut Sequence) -> Result<(), StepError>,
) {
    for window in windows.iter_mut() {
        if let Err(error) = act(runner, window) {
            window.fail(failure(&error));
        }
    }
    windows.retain(|window| !window.ended());
}

/// Blocks that so many tokens need.
fn blocks(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

fn failure(error: &StepError) -> Failure {
    Failure::Invalid(error.to_string())
}

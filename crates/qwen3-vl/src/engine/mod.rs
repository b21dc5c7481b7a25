//! The thread that owns a model.
//!
//! Commands go in over a channel, events come back through each window's sink. The channel itself
//! is unbounded, so that no caller ever waits behind a forward pass; what is in it is bounded by
//! the callers, who bound their open and closed windows.

mod encode;
pub mod runner;
pub mod scheduler;
pub mod sequence;
pub mod sink;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::backend::{Event, Failure, Question, WindowHead};
use crate::frames::VisionInput;
use crate::model::{Chunk, KvCache};
use runner::{Runner, StepError};
use scheduler::Step;
use sequence::Sequence;
use sink::Sink;

/// What callers tell the engine. Windows are named by a number that only one of them has.
pub enum Command {
    /// A window begins.
    Open {
        /// Its number; later windows have larger ones.
        id: u64,
        /// What stands before its frames.
        head: WindowHead,
        /// Where its events go.
        sink: Sink,
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
        /// The question.
        question: Question,
        /// When it was closed.
        at: Instant,
    },
    /// Nobody wants the answer any more.
    Cancel {
        /// The window.
        id: u64,
    },
}

/// The running engine. Dropping it cancels all windows and joins the thread.
pub struct Engine {
    commands: Option<Sender<Command>>,
    stop: Arc<AtomicBool>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            runner,
            inbox,
            stop: stop.clone(),
            windows: Vec::new(),
            closed: 0,
            broken: None,
        };
        let thread = std::thread::Builder::new()
            .name("qwen3-vl".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            commands: Some(commands),
            stop,
            thread: Some(thread),
        })
    }

    /// Where commands go.
    pub fn commands(&self) -> Option<Sender<Command>> {
        self.commands.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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

struct Window {
    sequence: Sequence,
    /// What to run for the next token.
    next: Option<Chunk>,
}

struct Worker {
    runner: Runner,
    inbox: Receiver<Command>,
    stop: Arc<AtomicBool>,
    windows: Vec<Window>,
    closed: u64,
    /// Why nothing works any more, after a panic.
    broken: Option<String>,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let step = scheduler::next(self.windows.iter().map(|w| w.sequence.state()));
            let command = match step {
                Some(_) => self.inbox.try_recv().ok(),
                None => match self.inbox.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return,
                },
            };
            let work = || match (command, step) {
                (Some(command), _) => self.command(command),
                (None, Some(step)) => self.step(step),
                (None, None) => {}
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                self.break_down(&*panic);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { id, head, mut sink } => {
                if let Some(reason) = &self.broken {
                    sink.send(Event::Failed(Failure::Backend(reason.clone())));
                    return;
                }
                let kv = KvCache::new(&self.runner.parts.model.kv);
                let sequence = Sequence::new(id, &head, sink, kv);
                self.windows.push(Window {
                    sequence,
                    next: None,
                });
            }
            Command::Push { id, input, at } => {
                if let Some(window) = self.window(id) {
                    window.sequence.push(input, at);
                }
            }
            Command::Close { id, question, at } => {
                self.closed += 1;
                let order = self.closed;
                if let Some(window) = self.window(id) {
                    window.sequence.close(question, order, at);
                }
            }
            Command::Cancel { id } => self.windows.retain(|w| w.sequence.id() != id),
        }
    }

    fn window(&mut self, id: u64) -> Option<&mut Window> {
        self.windows.iter_mut().find(|w| w.sequence.id() == id)
    }

    fn step(&mut self, step: Step) {
        let (Step::Input(id) | Step::Tail(id) | Step::Decode(id)) = step;
        let Some(window) = self.windows.iter_mut().find(|w| w.sequence.id() == id) else {
            return;
        };
        let Window { sequence, next } = window;
        let result = match step {
            Step::Input(_) => self.runner.input(sequence),
            Step::Tail(_) => self.runner.tail(sequence).map(|chunk| *next = chunk),
            Step::Decode(_) => match next.take() {
                Some(chunk) => self
                    .runner
                    .decode(sequence, &chunk)
                    .map(|chunk| *next = chunk),
                None => Ok(()),
            },
        };
        if let Err(error) = result {
            sequence.fail(failure(&error));
        }
        self.windows.retain(|w| !w.sequence.ended());
    }

    /// After a panic no state can be trusted: every window fails, and every later one.
    fn break_down(&mut self, panic: &(dyn std::any::Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown".into());
        let reason = format!("the engine panicked ({text}); restart the element");
        for window in &mut self.windows {
            let fail = AssertUnwindSafe(|| {
                window.sequence.fail(Failure::Backend(reason.clone()));
            });
            // A sink that panics again must not keep the others from their event.
            let _ = catch_unwind(fail);
        }
        self.windows.clear();
        self.broken = Some(reason);
    }
}

fn failure(error: &StepError) -> Failure {
    Failure::Request(error.to_string())
}

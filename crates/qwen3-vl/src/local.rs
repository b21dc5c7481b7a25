//! The backend that runs the model in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::{Backend, LostSink, RequestHandle, Window, WindowHead};
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::request::Request;

use crate::engine::interrupt::{Interest, Interrupt, Waiter};
use crate::engine::runner::Runner;
use crate::engine::sequence::Ask;
use crate::engine::{Command, Engine};
use crate::model::KvPool;
use crate::tokenizer::Tokenizer;

/// A model in this process, with a thread of its own.
pub struct LocalBackend {
    model: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    kv: Arc<KvPool>,
    engine: Engine,
    ids: Arc<AtomicU64>,
}

impl LocalBackend {
    /// Starts the engine.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn start(model: ModelInfo, runner: Runner) -> std::io::Result<Self> {
        Ok(Self {
            model,
            tokenizer: runner.parts.tokenizer.clone(),
            kv: runner.parts.model.kv.clone(),
            engine: Engine::start(runner)?,
            ids: Arc::default(),
        })
    }
}

impl Backend for LocalBackend {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn open(&self, head: WindowHead, lost: LostSink) -> Box<dyn Window> {
        let connection = Connection {
            commands: self.engine.commands(),
            ids: self.ids.clone(),
            interrupt: Arc::clone(self.engine.interrupt()),
            interest: Arc::default(),
        };
        let (id, waiter) = (connection.next_id(), connection.waiter());
        connection.send(Command::Open {
            id,
            head,
            lost,
            interest: connection.interest.clone(),
        });
        Box::new(LocalWindow {
            id,
            connection,
            waiter,
        })
    }

    fn text_tokens(&self, text: &str) -> usize {
        // A text that cannot be tokenized fails with its window.
        self.tokenizer.encode(text).map_or(0, |ids| ids.len())
    }

    fn kv_blocks(&self) -> usize {
        self.kv.used()
    }

    fn is_broken(&self) -> bool {
        self.engine.is_broken()
    }
}

/// A window's connection to the engine.
#[derive(Clone)]
struct Connection {
    commands: Option<Sender<Command>>,
    ids: Arc<AtomicU64>,
    interrupt: Arc<Interrupt>,
    interest: Arc<Interest>,
}

impl Connection {
    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn waiter(&self) -> Arc<Waiter> {
        Arc::new(Waiter::new(&self.interrupt, &self.interest))
    }

    /// Sends a command. If the engine is gone, fails the window or request of the command, whose
    /// caller may be waiting.
    fn send(&self, command: Command) {
        let lost = match &self.commands {
            Some(commands) => commands.send(command).err().map(|e| e.0),
            None => Some(command),
        };
        let failure = Failure::Fatal("the engine has stopped".into());
        match lost {
            Some(Command::Open { lost, .. }) => lost(failure),
            Some(Command::Ask { mut ask, .. }) => ask.sink.send(Event::Failed(failure)),
            _ => (),
        }
    }
}

struct LocalWindow {
    id: u64,
    connection: Connection,
    waiter: Arc<Waiter>,
}

impl Window for LocalWindow {
    fn push(&mut self, input: VisionInput) {
        self.connection.send(Command::Push {
            id: self.id,
            input,
            at: Instant::now(),
        });
    }

    fn ask(&mut self, request: Request, sink: EventSink) -> Box<dyn RequestHandle> {
        let (id, waiter) = (self.connection.next_id(), self.connection.waiter());
        let ask = Ask {
            id,
            request,
            sink: sink.cancels(),
            at: Instant::now(),
            waiter: Some(waiter.clone()),
        };
        self.connection.send(Command::Ask {
            window: self.id,
            ask,
        });
        let connection = self.connection.clone();
        Box::new(LocalHandle {
            id,
            connection,
            waiter,
        })
    }
}

impl Drop for LocalWindow {
    fn drop(&mut self) {
        self.connection.send(Command::Close { id: self.id });
        self.waiter.give_up();
    }
}

struct LocalHandle {
    id: u64,
    connection: Connection,
    waiter: Arc<Waiter>,
}

impl RequestHandle for LocalHandle {
    fn cancel(&self) {
        self.connection.send(Command::Cancel { id: self.id });
        self.waiter.give_up();
    }
}

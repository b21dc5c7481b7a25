//! The backend that runs the model in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::engine::interrupt::Interrupt;
use crate::engine::runner::Runner;
use crate::engine::{Command, Engine};
use crate::model::KvPool;
use crate::tokenizer::Tokenizer;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::{Backend, RequestHandle, WindowHead, WindowInput};
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::request::Request;

/// A model in this process, with a thread of its own.
pub struct LocalBackend {
    model: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    kv: Arc<KvPool>,
    engine: Engine,
    next: AtomicU64,
}

impl LocalBackend {
    /// Starts the engine.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(model: ModelInfo, runner: Runner) -> std::io::Result<Self> {
        Ok(Self {
            model,
            tokenizer: runner.parts.tokenizer.clone(),
            kv: runner.parts.model.kv.clone(),
            engine: Engine::start(runner)?,
            next: AtomicU64::new(0),
        })
    }
}

impl Backend for LocalBackend {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn open(&self, head: WindowHead, sink: EventSink) -> Box<dyn WindowInput> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let commands = self.engine.commands();
        send(
            commands.as_ref(),
            Command::Open {
                id,
                head,
                sink: sink.cancels(),
            },
        );
        let interrupt = Arc::clone(self.engine.interrupt());
        Box::new(LocalWindow {
            id,
            commands,
            interrupt,
        })
    }

    fn text_tokens(&self, text: &str) -> usize {
        // What cannot be encoded fails with its window.
        self.tokenizer.encode(text).map_or(0, |ids| ids.len())
    }

    fn kv_blocks(&self) -> usize {
        self.kv.used()
    }

    fn is_broken(&self) -> bool {
        self.engine.is_broken()
    }
}

/// A command that finds no engine: only `Open` holds somebody who waits.
fn send(commands: Option<&Sender<Command>>, command: Command) {
    let lost = match commands {
        Some(commands) => commands.send(command).err().map(|e| e.0),
        None => Some(command),
    };
    if let Some(Command::Open { mut sink, .. }) = lost {
        sink.send(Event::Failed(Failure::Fatal(
            "the engine has stopped".into(),
        )));
    }
}

struct LocalWindow {
    id: u64,
    commands: Option<Sender<Command>>,
    interrupt: Arc<Interrupt>,
}

/// Has the engine forget a window, and end the step that runs if it is for that window alone.
fn cancel(id: u64, commands: Option<&Sender<Command>>, interrupt: &Interrupt) {
    send(commands, Command::Cancel { id });
    interrupt.cancel(id);
}

impl WindowInput for LocalWindow {
    fn push(&mut self, input: VisionInput) {
        let command = Command::Push {
            id: self.id,
            input,
            at: Instant::now(),
        };
        send(self.commands.as_ref(), command);
    }

    fn close(mut self: Box<Self>, request: Request) -> Box<dyn RequestHandle> {
        // Without a channel, dropping self cancels nothing.
        let commands = self.commands.take();
        let command = Command::Close {
            id: self.id,
            request,
            at: Instant::now(),
        };
        send(commands.as_ref(), command);
        Box::new(LocalHandle {
            id: self.id,
            commands,
            interrupt: Arc::clone(&self.interrupt),
        })
    }
}

impl Drop for LocalWindow {
    fn drop(&mut self) {
        if self.commands.is_some() {
            cancel(self.id, self.commands.as_ref(), &self.interrupt);
        }
    }
}

struct LocalHandle {
    id: u64,
    commands: Option<Sender<Command>>,
    interrupt: Arc<Interrupt>,
}

impl RequestHandle for LocalHandle {
    fn cancel(&self) {
        cancel(self.id, self.commands.as_ref(), &self.interrupt);
    }
}

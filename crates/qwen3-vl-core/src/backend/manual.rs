//! A backend whose answers a test gives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{FakeBackend, Outcome};
use super::{Backend, LostSink, RequestHandle, Window, WindowHead};
use crate::EventSink;
use crate::event::{Answer, Event, FinishReason, Timings};
use crate::frames::VisionInput;
use crate::model::ModelInfo;
use crate::request::Request;

/// The longest wait for a request.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A request that is not answered.
pub struct Asked {
    /// Number of the request, from 0.
    pub number: usize,
    /// The request.
    pub request: Request,
    /// The head of its window.
    pub head: WindowHead,
    /// The window's inputs so far.
    pub inputs: Vec<VisionInput>,
    cancelled: Arc<AtomicBool>,
    sink: EventSink,
}

impl Asked {
    /// Sends a token.
    pub fn token(&mut self, id: u32, text: &str) {
        let text = text.into();
        self.sink.send(Event::Token { id, text });
    }

    /// Sends the terminal event.
    pub fn end(mut self, event: Event) {
        self.sink.send(event);
    }

    /// Answers with the prompt.
    pub fn answer(self) {
        let text = self.request.prompt.clone();
        self.answer_with(text);
    }

    /// Answers with this text.
    pub fn answer_with(self, text: String) {
        let answer = Answer {
            text,
            tokens: vec![1, 2, 3],
            finish_reason: FinishReason::Length,
            grid: [self.inputs.len() as u32, 4, 6],
            prompt_tokens: 40,
            completion_tokens: 3,
            timings: Timings {
                queue: Duration::from_nanos(1),
                vision: Duration::from_nanos(2),
                prefill: Duration::from_nanos(3),
                first_token: Duration::from_nanos(4),
                last_token: Duration::from_nanos(5),
            },
        };
        self.end(Event::Answer(answer));
    }

    /// Whether the caller has cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A call of a window, in which a test may wait or panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `open`.
    Open,
    /// `push`.
    Push,
    /// `ask`.
    Ask,
}

/// A backend whose answers a test gives. A clone is the same backend.
#[derive(Clone)]
pub struct ManualBackend {
    model: ModelInfo,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Called before every call of a window.
    pub at: Arc<dyn Fn(Call) + Send + Sync>,
    requests: Arc<AtomicUsize>,
}

impl Default for ManualBackend {
    fn default() -> Self {
        let fake = FakeBackend::new(Duration::ZERO, Outcome::Echo);
        Self {
            model: fake.model().clone(),
            asked: Arc::default(),
            at: Arc::new(|_| ()),
            requests: Arc::default(),
        }
    }
}

impl ManualBackend {
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        // The list is valid after every statement, so a panic elsewhere does not matter.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of unanswered requests.
    pub fn waiting(&self) -> usize {
        self.asked().len()
    }

    /// Takes all requests.
    pub fn take_all(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked())
    }

    /// Takes the oldest request, if there is one.
    pub fn try_take(&self) -> Option<Asked> {
        let mut asked = self.asked();
        (!asked.is_empty()).then(|| asked.remove(0))
    }

    /// Takes the newest request, if there is one.
    pub fn try_take_newest(&self) -> Option<Asked> {
        self.asked().pop()
    }

    /// Takes the oldest request, once there is one.
    ///
    /// # Panics
    ///
    /// If none comes within a minute.
    pub fn take(&self) -> Asked {
        let start = Instant::now();
        loop {
            if let Some(asked) = self.try_take() {
                return asked;
            }
            assert!(start.elapsed() < WATCHDOG, "no request");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Backend for ManualBackend {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// Fewest tokens: one for each word.
    fn text_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn open(&self, head: WindowHead, _lost: LostSink) -> Box<dyn Window> {
        (self.at)(Call::Open);
        Box::new(ManualWindow {
            backend: self.clone(),
            head,
            inputs: Vec::new(),
        })
    }
}

struct ManualWindow {
    backend: ManualBackend,
    head: WindowHead,
    inputs: Vec<VisionInput>,
}

impl Window for ManualWindow {
    fn push(&mut self, input: VisionInput) {
        (self.backend.at)(Call::Push);
        self.inputs.push(input);
    }

    fn ask(&mut self, request: Request, sink: EventSink) -> Box<dyn RequestHandle> {
        (self.backend.at)(Call::Ask);
        let cancelled = Arc::new(AtomicBool::new(false));
        self.backend.asked().push(Asked {
            number: self.backend.requests.fetch_add(1, Ordering::SeqCst),
            request,
            head: self.head.clone(),
            inputs: self.inputs.clone(),
            cancelled: cancelled.clone(),
            sink,
        });
        Box::new(ManualHandle(cancelled))
    }
}

struct ManualHandle(Arc<AtomicBool>);

impl RequestHandle for ManualHandle {
    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

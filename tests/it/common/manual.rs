//! A backend that answers when the test says so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qwen3_vl::backend::fake::{FakeBackend, Outcome};
use qwen3_vl::backend::{
    Answer, Backend, Event, EventSink, FinishReason, ModelInfo, Question, RequestHandle, Timings,
    WindowHead, WindowInput,
};
use qwen3_vl::frames::VisionInput;

/// What the backend was asked and has not answered.
pub struct Asked {
    /// Number of the question.
    pub number: usize,
    pub question: Question,
    pub head: WindowHead,
    pub inputs: Vec<VisionInput>,
    pub cancelled: Arc<AtomicBool>,
    sink: EventSink,
}

impl Asked {
    pub fn token(&mut self, id: u32, text: &str) {
        let text = text.into();
        (self.sink)(Event::Token { id, text });
    }

    pub fn end(mut self, event: Event) {
        (self.sink)(event);
    }

    /// Answers with the prompt.
    pub fn answer(self) {
        let text = self.question.prompt.clone();
        self.answer_with(text);
    }

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

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a window does at the backend; tests let it panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Push,
    Close,
}

#[derive(Clone)]
pub struct Manual {
    model: ModelInfo,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub at: Arc<dyn Fn(Call) + Send + Sync>,
    questions: Arc<AtomicUsize>,
}

impl Manual {
    pub fn new() -> Self {
        Self {
            model: FakeBackend::new(Duration::ZERO, Outcome::Echo)
                .model()
                .clone(),
            asked: Arc::default(),
            at: Arc::new(|_| ()),
            questions: Arc::default(),
        }
    }

    pub fn waiting(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Takes the oldest request, if there is one.
    pub fn try_take(&self) -> Option<Asked> {
        let mut asked = self.asked.lock().unwrap();
        (!asked.is_empty()).then(|| asked.remove(0))
    }

    /// Takes the newest request, if there is one.
    pub fn try_take_newest(&self) -> Option<Asked> {
        self.asked.lock().unwrap().pop()
    }

    /// Takes the oldest request, once there is one.
    pub fn take(&self) -> Asked {
        super::wait_until("a request", || self.waiting() > 0);
        self.asked.lock().unwrap().remove(0)
    }
}

impl Backend for Manual {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn text_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn open(&self, head: WindowHead, sink: EventSink) -> Box<dyn WindowInput> {
        (self.at)(Call::Open);
        Box::new(Window {
            backend: self.clone(),
            head,
            sink: Some(sink),
            inputs: Vec::new(),
        })
    }
}

struct Window {
    backend: Manual,
    head: WindowHead,
    sink: Option<EventSink>,
    inputs: Vec<VisionInput>,
}

impl WindowInput for Window {
    fn push(&mut self, input: VisionInput) {
        (self.backend.at)(Call::Push);
        self.inputs.push(input);
    }

    fn close(mut self: Box<Self>, question: Question) -> Box<dyn RequestHandle> {
        (self.backend.at)(Call::Close);
        let cancelled = Arc::new(AtomicBool::new(false));
        self.backend.asked.lock().unwrap().push(Asked {
            number: self.backend.questions.fetch_add(1, Ordering::SeqCst),
            question,
            head: self.head.clone(),
            inputs: std::mem::take(&mut self.inputs),
            cancelled: cancelled.clone(),
            sink: self.sink.take().unwrap(),
        });
        Box::new(Handle(cancelled))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            sink(Event::Cancelled);
        }
    }
}

struct Handle(Arc<AtomicBool>);

impl RequestHandle for Handle {
    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

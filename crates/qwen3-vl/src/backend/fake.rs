//! A backend without a model, for tests of what stands around one.
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use std::time::Duration;
//!
//! use qwen3_vl::backend::fake::{FakeBackend, Outcome};
//! use qwen3_vl::backend::{Backend, Event, Generation, Question, WindowHead};
//! use qwen3_vl::frames::{Frame, Size, VisionInput};
//!
//! let backend = FakeBackend::new(Duration::ZERO, Outcome::Echo);
//! let (events, seen) = mpsc::channel();
//! let sink = Box::new(move |event| events.send(event).unwrap_or_default());
//! let mut window = backend.open(WindowHead::default(), sink);
//! let size = Size { width: 64, height: 32 };
//! let grey = |seconds| Frame { rgb: Arc::from([128; 64 * 32 * 3]), size, seconds };
//! window.push(VisionInput::Pair([grey(0.0), grey(0.5)]));
//! window.close(Question {
//!     prompt: "What happens?".into(),
//!     max_tokens: 32,
//!     generation: Generation::default(),
//!     seed: 0,
//!     emit_tokens: false,
//!     repetition_guard: 0,
//! });
//! let Event::Answer(answer) = seen.recv()? else { panic!("no answer") };
//! assert_eq!(answer.text, "1 inputs of 64x32: What happens?");
//! # Ok::<(), mpsc::RecvError>(())
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{
    Answer, Backend, Event, EventSink, Failure, FinishReason, Generation, ModelInfo, Question,
    RequestHandle, Timings, WindowHead, WindowInput,
};
use crate::forecast::Limits;
use crate::frames::VisionInput;

/// Answers every window after a fixed time with a sentence about what it was given.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    model: ModelInfo,
    delay: Duration,
    outcome: Outcome,
}

/// How a [`FakeBackend`] ends its windows.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// `"{pairs} inputs of {width}x{height}: {prompt}"`.
    Echo,
    /// [`Event::Failed`] with this failure.
    Fail(Failure),
}

impl FakeBackend {
    /// A backend that answers `delay` after a window closes.
    pub fn new(delay: Duration, outcome: Outcome) -> Self {
        let model = ModelInfo {
            name: "fake".into(),
            backend: "fake",
            device: "none".into(),
            quantization: None,
            factor: 32,
            temporal_patch: 2,
            video_pixels: (4096, 25_165_824),
            video_pixels_per_frame: false,
            image_pixels: (65_536, 16_777_216),
            generation: Generation::default(),
            own_generation: Generation::default(),
            time_tokens: 6,
            limits: Limits {
                context: 262_144,
                ..Limits::default()
            },
        };
        Self {
            model,
            delay,
            outcome,
        }
    }
}

impl Backend for FakeBackend {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// One for each word.
    fn text_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn open(&self, _head: WindowHead, sink: EventSink) -> Box<dyn WindowInput> {
        Box::new(FakeWindow {
            sink: Some(sink),
            inputs: Vec::new(),
            delay: self.delay,
            outcome: self.outcome.clone(),
        })
    }
}

struct FakeWindow {
    sink: Option<EventSink>,
    inputs: Vec<VisionInput>,
    delay: Duration,
    outcome: Outcome,
}

impl WindowInput for FakeWindow {
    fn push(&mut self, input: VisionInput) {
        self.inputs.push(input);
    }

    fn close(mut self: Box<Self>, question: Question) -> Box<dyn RequestHandle> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let handle = FakeHandle(cancelled.clone());
        let Some(mut sink) = self.sink.take() else {
            return Box::new(handle);
        };
        let (inputs, delay, outcome) = (
            std::mem::take(&mut self.inputs),
            self.delay,
            self.outcome.clone(),
        );
        thread::spawn(move || {
            let until = Instant::now() + delay;
            while !cancelled.load(Ordering::Relaxed) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    sink(terminal(&inputs, &question, outcome, delay));
                    return;
                }
                thread::sleep(left.min(Duration::from_millis(2)));
            }
            sink(Event::Cancelled);
        });
        Box::new(handle)
    }
}

impl Drop for FakeWindow {
    fn drop(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            sink(Event::Cancelled);
        }
    }
}

struct FakeHandle(Arc<AtomicBool>);

impl RequestHandle for FakeHandle {
    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn terminal(
    inputs: &[VisionInput],
    question: &Question,
    outcome: Outcome,
    delay: Duration,
) -> Event {
    if let Outcome::Fail(failure) = outcome {
        return Event::Failed(failure);
    }
    let (width, height) = inputs
        .first()
        .map(VisionInput::size)
        .map_or((0, 0), |s| (s.width, s.height));
    let text = format!(
        "{} inputs of {width}x{height}: {}",
        inputs.len(),
        question.prompt
    );
    let words = text.split_whitespace().count() as u32;
    Event::Answer(Answer {
        text,
        tokens: Vec::new(),
        finish_reason: FinishReason::Stop,
        grid: [inputs.len() as u32, height / 16, width / 16],
        prompt_tokens: 0,
        completion_tokens: words,
        timings: Timings {
            first_token: delay,
            last_token: delay,
            ..Timings::default()
        },
    })
}

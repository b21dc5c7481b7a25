//! A backend without a model, for tests of its callers.
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use std::time::Duration;
//!
//! use qwen3_vl_core::EventSink;
//! use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
//! use qwen3_vl_core::backend::{Backend, WindowHead};
//! use qwen3_vl_core::event::Event;
//! use qwen3_vl_core::frames::{Frame, Size, VisionInput};
//! use qwen3_vl_core::request::{Request, SamplingParams};
//!
//! let backend = FakeBackend::new(Duration::ZERO, Outcome::Echo);
//! let (events, seen) = mpsc::channel();
//! let sink = EventSink::new(move |event| events.send(event).unwrap_or_default());
//! let mut window = backend.open(WindowHead::default(), Box::new(|_| ()));
//! let size = Size { width: 64, height: 32 };
//! let grey = |seconds| Frame { rgb: Arc::from([128; 64 * 32 * 3]), size, seconds };
//! window.push(VisionInput::Pair([grey(0.0), grey(0.5)]));
//! let request = Request {
//!     prompt: "What happens?".into(),
//!     max_tokens: 32,
//!     reasoning_tokens: 0,
//!     sampling: SamplingParams::default(),
//!     seed: 0,
//!     emit_tokens: false,
//!     repetition_guard: 0,
//! };
//! window.ask(request, sink);
//! let Event::Answer(answer) = seen.recv()? else { panic!("no answer") };
//! assert_eq!(answer.text, "1 inputs of 64x32: What happens?");
//! # Ok::<(), mpsc::RecvError>(())
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Backend, LostSink, RequestHandle, Window, WindowHead};
use crate::EventSink;
use crate::event::{Answer, Event, FinishReason, Timings};
use crate::failure::Failure;
use crate::frames::VisionInput;
use crate::model::{Limits, ModelInfo};
use crate::request::{Request, SamplingParams};

/// Answers every request after a fixed time with a sentence about its input.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    model: ModelInfo,
    delay: Duration,
    outcome: Outcome,
}

/// How a [`FakeBackend`] ends its requests.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// `"{pairs} inputs of {width}x{height}: {prompt}"`.
    Echo,
    /// A thought about the input, then the same sentence.
    ThinkAndEcho,
    /// [`Event::Failed`] with this failure.
    Fail(Failure),
}

impl FakeBackend {
    /// A backend that answers `delay` after it is asked.
    pub fn new(delay: Duration, outcome: Outcome) -> Self {
        let model = ModelInfo {
            name: "fake".into(),
            backend: "fake",
            runs_on: "none".into(),
            quantization: None,
            compute: None,
            factor: 32,
            temporal_patch: 2,
            video_pixels: (4096, 25_165_824),
            video_pixels_per_frame: false,
            image_pixels: (65_536, 16_777_216),
            sampling: SamplingParams::default(),
            own_sampling: SamplingParams::default(),
            thinks: matches!(outcome, Outcome::ThinkAndEcho),
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

    /// Fewest tokens: one for each word.
    fn text_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn open(&self, _head: WindowHead, _lost: LostSink) -> Box<dyn Window> {
        Box::new(FakeWindow {
            inputs: Vec::new(),
            delay: self.delay,
            outcome: self.outcome.clone(),
        })
    }
}

struct FakeWindow {
    inputs: Vec<VisionInput>,
    delay: Duration,
    outcome: Outcome,
}

impl Window for FakeWindow {
    fn push(&mut self, input: VisionInput) {
        self.inputs.push(input);
    }

    fn ask(&mut self, request: Request, sink: EventSink) -> Box<dyn RequestHandle> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let handle = FakeHandle(cancelled.clone());
        let (inputs, delay, outcome) = (self.inputs.clone(), self.delay, self.outcome.clone());
        let mut sink = sink.cancels();
        thread::spawn(move || {
            let until = Instant::now() + delay;
            while !cancelled.load(Ordering::Relaxed) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    sink.send(terminal(&inputs, &request, outcome, delay));
                    return;
                }
                thread::sleep(left.min(Duration::from_millis(2)));
            }
            // A dropped sink sends `Cancelled`.
        });
        Box::new(handle)
    }
}

struct FakeHandle(Arc<AtomicBool>);

impl RequestHandle for FakeHandle {
    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn terminal(inputs: &[VisionInput], request: &Request, outcome: Outcome, delay: Duration) -> Event {
    if let Outcome::Fail(failure) = outcome {
        return Event::Failed(failure);
    }
    let (width, height) = inputs
        .first()
        .map(VisionInput::size)
        .map_or((0, 0), |s| (s.width, s.height));
    let reasoning = matches!(outcome, Outcome::ThinkAndEcho)
        .then(|| format!("There are {} inputs.", inputs.len()));
    let text = format!(
        "{} inputs of {width}x{height}: {}",
        inputs.len(),
        request.prompt
    );
    let words = text.split_whitespace().count() as u32;
    Event::Answer(Answer {
        text,
        reasoning,
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

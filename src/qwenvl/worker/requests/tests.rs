use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome as Answers};
use qwen3_vl_core::event::{FinishReason, Timings};

use super::super::publish::Sink;
use super::*;

/// Numbers of ended requests, and how each ended.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<(u64, String)>>>);

impl Sink for Ends {
    fn hear(&self, event: &WindowEvent<'_>) {
        if let WindowEvent::Ended {
            request, message, ..
        } = event
        {
            let field = |name| message.get::<String>(name).ok();
            let what = field("text").or_else(|| field("message"));
            let end = (request.number, what.unwrap_or_default());
            self.0.lock().expect("no panic").push(end);
        }
    }
}

impl Ends {
    fn take(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// Requests 4, 5 and 6 of a window.
fn pending() -> (PendingRequests, Ends) {
    gst::init().expect("GStreamer");
    let window = WindowInfo {
        stream_id: "q".into(),
        id: 1,
        segment: Arc::default(),
        start: gst::ClockTime::ZERO,
        end: gst::ClockTime::SECOND,
        partial: false,
        frames: Vec::new(),
        utc: None,
    };
    let ends = Ends::default();
    let publisher = Publisher::new(vec![Box::new(ends.clone())], |_| ());
    let requests = (4..7).map(|number| (number, format!("prompt {number}")));
    let pending = PendingRequests::new(window, requests, Arc::new(publisher));
    (pending, ends)
}

fn end(number: u64, what: &str) -> (u64, String) {
    (number, what.into())
}

fn describe(request: PendingRequest) {
    let fake = FakeBackend::new(Duration::ZERO, Answers::Echo);
    let answer = Answer {
        text: format!("answer to {}", request.prompt()),
        tokens: Vec::new(),
        finish_reason: FinishReason::Stop,
        grid: [1; 3],
        prompt_tokens: 0,
        completion_tokens: 0,
        timings: Timings::default(),
    };
    request.described(&answer, fake.model(), Duration::ZERO, 0);
}

#[test]
fn each_ends_once_in_whatever_way() {
    let (mut pending, ends) = pending();
    pending.window_mut().frames.push(gst::ClockTime::ZERO);
    let first = pending.pop().expect("a request");
    let second = pending.pop().expect("a request");
    assert_eq!((first.id().window, first.id().request), (1, 4));
    second.dropped(Reason::Error, Some("why"));
    describe(first);
    pending.dropped(Reason::TooShort, Some("too short"));
    let expected = [
        end(5, "why"),
        end(4, "answer to prompt 4"),
        end(6, "too short"),
    ];
    assert_eq!(ends.take(), expected);
}

#[test]
fn a_window_that_is_lost_before_it_is_asked_ends_all_its_requests() {
    let (pending, ends) = pending();
    pending.dropped(Reason::Flush, None);
    assert_eq!(ends.take(), [end(4, ""), end(5, ""), end(6, "")]);
}

#[test]
fn what_is_lost_ends_as_well() {
    let (mut pending, ends) = pending();
    drop(pending.pop());
    let panicked = panic::catch_unwind(AssertUnwindSafe(move || {
        let _asked = pending.pop();
        assert!(pending.numbers().is_empty(), "on purpose");
    }));
    assert!(panicked.is_err());
    let mut ended = ends.take();
    ended.sort();
    assert_eq!(ended, (4..7).map(|id| end(id, LOST)).collect::<Vec<_>>());
}

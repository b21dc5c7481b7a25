//! The text stream, compiled with loom's locks: see `qwenvl::model_check`.

#[path = "stream.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
mod stream;

use std::sync::Arc;

use loom::thread;

use self::stream::{Mark, Phase, Text};
use super::timeline::{self, Out, Placing};
use crate::message::RequestId;
use crate::qwenvl::model_check::{check, monitor, sync};

const SECOND: gst::ClockTime = gst::ClockTime::SECOND;
const ANSWER: Placing = Placing::Answer {
    hold: 1_000_000_000,
};

/// A request of window 0.
fn request(request: u64) -> RequestId {
    RequestId { window: 0, request }
}

/// A text stream that has begun, and its task, which ends when it has to pause or has pushed
/// `last`.
fn started(
    placing: Placing,
    last: fn(&Out<Mark>) -> bool,
) -> (Arc<Text>, thread::JoinHandle<Option<Out<Mark>>>) {
    let text = Arc::new(Text::default());
    let pad = text.start();
    text.set_phase(Phase::Playing);
    text.set_placing(placing);
    let segment = Arc::new(gst::FormattedSegment::new());
    text.mark(Mark::Segment(segment, Some(None)));
    let task = thread::spawn({
        let text = text.clone();
        move || std::iter::from_fn(|| text.next(pad, || false)).find(last)
    });
    (text, task)
}

#[test]
fn a_text_wakes_the_task() {
    for placing in [ANSWER, Placing::Span] {
        check(3, move || {
            let (text, task) = started(placing, |out| matches!(out, Out::Text { .. }));
            let worker = thread::spawn({
                let text = text.clone();
                move || {
                    text.opened(0, &[0], gst::ClockTime::ZERO);
                    text.ended(request(0), Some(("a", SECOND)));
                }
            });
            text.push_begins(Some(SECOND));
            text.push_ends();
            worker.join().unwrap();
            assert!(task.join().unwrap().is_some());
        });
    }
}

/// Every answer of a window's requests wakes the task.
#[test]
fn every_text_of_a_window_is_said() {
    for placing in [ANSWER, Placing::Span] {
        check(3, move || {
            let (text, task) = started(
                placing,
                |out| matches!(out, Out::Text { text, .. } if text == "b"),
            );
            let worker = thread::spawn({
                let text = text.clone();
                move || {
                    text.opened(0, &[0, 1], gst::ClockTime::ZERO);
                    text.ended(request(0), Some(("a", SECOND)));
                    text.ended(request(1), Some(("b", SECOND)));
                }
            });
            worker.join().unwrap();
            assert!(task.join().unwrap().is_some());
        });
    }
}

#[test]
fn the_end_wakes_the_task() {
    for placing in [ANSWER, Placing::Span] {
        check(3, move || {
            let (text, task) = started(placing, |out| matches!(out, Out::Mark(Mark::Eos)));
            let worker = thread::spawn({
                let text = text.clone();
                move || {
                    text.opened(0, &[0], gst::ClockTime::ZERO);
                    text.ended(request(0), None);
                }
            });
            text.mark(Mark::Eos);
            worker.join().unwrap();
            assert!(task.join().unwrap().is_some());
        });
    }
}

#[test]
fn the_video_wakes_the_task() {
    check(3, || {
        let (text, task) = started(ANSWER, |out| matches!(out, Out::Gap { .. }));
        text.push_begins(Some(SECOND));
        text.push_ends();
        assert!(task.join().unwrap().is_some());
    });
}

#[test]
fn stop_and_flush_end_the_wait() {
    let acts: [fn(&Text); 2] = [Text::stop, Text::flush_start];
    for act in acts {
        check(3, move || {
            let (text, task) = started(ANSWER, |_| false);
            let worker = thread::spawn({
                let text = text.clone();
                move || text.ended(request(0), Some(("a", SECOND)))
            });
            act(&text);
            assert!(task.join().unwrap().is_none());
            worker.join().unwrap();
        });
    }
}

#[test]
fn a_stuck_video_is_let_go() {
    check(3, || {
        sync::time_is_over_after(0);
        let (text, task) = started(Placing::Span, |out| matches!(out, Out::Gap { .. }));
        text.opened(0, &[0], gst::ClockTime::ZERO);
        text.push_begins(Some(SECOND));
        assert!(task.join().unwrap().is_some());
    });
}

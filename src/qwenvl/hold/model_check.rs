//! `HeldBuffers` compiled with loom's locks: see `qwenvl::model_check`.

#[path = "stream.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
mod stream;

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use self::stream::{HeldBuffers, Item};
use super::queue::{self, StreamPosition};
use crate::message::RequestId;
use crate::qwenvl::model_check::{check, monitor, sync};

const SECOND: Duration = Duration::from_secs(1);

fn at(time: u64) -> StreamPosition {
    StreamPosition { part: 0, time }
}

fn request(window: u64, request: u64) -> RequestId {
    RequestId { window, request }
}

fn frame() -> Item {
    Item::Buffer(gst::Buffer::new(), None)
}

/// Pushes frames at these times, with this limit of held video.
fn push(hold: &HeldBuffers, times: &[u64], limit: Duration) -> Result<(), gst::FlowError> {
    for time in times {
        hold.push(frame(), Some(at(*time)), None, limit)?;
    }
    Ok(())
}

/// The source pad's task, which ends after `most` items or when it has to pause. Returns the number
/// of descriptions of each item.
fn task(hold: &Arc<HeldBuffers>, most: usize) -> thread::JoinHandle<Vec<usize>> {
    let hold = hold.clone();
    thread::spawn(move || {
        let next = || hold.next().map(|(_, descriptions)| descriptions.len());
        std::iter::from_fn(next).take(most).collect()
    })
}

fn started() -> Arc<HeldBuffers> {
    let hold = Arc::new(HeldBuffers::default());
    hold.start();
    hold
}

#[test]
fn the_end_of_a_windows_last_request_lets_its_frames_go() {
    check(3, || {
        let hold = started();
        let task = task(&hold, 2);
        let worker = thread::spawn({
            let hold = hold.clone();
            move || {
                hold.opened(0, &[0, 1], at(0), 2);
                hold.advance_watermark(at(2));
                hold.closed(0, Some(SECOND));
                let description = gst::Structure::new_empty("description");
                hold.ended(request(0, 0), Some(description.clone()));
                hold.ended(request(0, 1), Some(description));
            }
        });
        push(&hold, &[0, 1], SECOND).unwrap();
        worker.join().unwrap();
        assert_eq!(task.join().unwrap(), [2, 2]);
    });
}

#[test]
fn a_window_that_takes_too_long_is_not_waited_for() {
    check(3, || {
        sync::time_is_over_after(0);
        let hold = started();
        let task = task(&hold, 1);
        hold.opened(0, &[0, 1], at(0), 2);
        push(&hold, &[0], SECOND).unwrap();
        hold.advance_watermark(at(2));
        hold.closed(0, Some(SECOND));
        hold.ended(request(0, 0), None);
        assert_eq!(task.join().unwrap(), [0]);
    });
}

#[test]
fn a_leaving_frame_ends_the_wait_of_a_push() {
    check(3, || {
        let hold = started();
        hold.end_watermark();
        let task = task(&hold, 3);
        // The limit is one nanosecond of video.
        push(&hold, &[0, 1, 2], Duration::from_nanos(1)).unwrap();
        assert_eq!(task.join().unwrap(), [0; 3]);
    });
}

#[test]
fn stop_flush_and_refusal_end_all_waits() {
    let acts: [(fn(&HeldBuffers), _); 3] = [
        (HeldBuffers::stop, gst::FlowError::Flushing),
        (HeldBuffers::flush_start, gst::FlowError::Flushing),
        (
            |hold| hold.refused(gst::FlowError::NotLinked),
            gst::FlowError::NotLinked,
        ),
    ];
    for (act, why) in acts {
        check(3, move || {
            let hold = started();
            push(&hold, &[0, 1], SECOND).unwrap();
            // The next push has to wait, because no task takes frames.
            hold.end_watermark();
            let other = thread::spawn({
                let hold = hold.clone();
                move || act(&hold)
            });
            let limit = Duration::from_nanos(1);
            assert_eq!(push(&hold, &[2], limit), Err(why));
            assert_eq!(task(&hold, 9).join().unwrap(), [0; 0]);
            other.join().unwrap();
        });
        check(3, move || {
            let hold = started();
            let task = task(&hold, 9);
            push(&hold, &[0], SECOND).unwrap();
            act(&hold);
            assert_eq!(task.join().unwrap(), [0; 0]);
            assert_eq!(push(&hold, &[1], SECOND), Err(why));
            assert_eq!(hold.event(gst::event::Eos::new()), Err(why));
        });
    }
}

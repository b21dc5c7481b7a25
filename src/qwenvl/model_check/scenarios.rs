//! The interleavings that are checked. Here every frame is a window that is asked at once, by one
//! request unless a test says otherwise; a cancelled request counts as answered.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loom::thread;
use qwen3_vl_core::event::Event;

use super::sample::{Plan, Sample, SampledBuffer};
use super::session::{Control, Drained, Interrupted, Next, Session, Work};
use super::{check, sync};
use crate::message::RequestId;
use crate::qwenvl::settings::{Overload, Settings};

const SECOND: Duration = Duration::from_secs(1);

fn frame() -> Box<Sample> {
    let settings = Settings::default();
    let rules = settings.rules().unwrap();
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, 1, 1);
    let segment = gst::FormattedSegment::new();
    Box::new(Sample {
        frame: SampledBuffer::new(&gst::Buffer::new(), &Arc::default(), 2)
            .unwrap()
            .0,
        info: Arc::new(info.build().unwrap()),
        orientation: None,
        segment: Arc::new(segment),
        pts: gst::ClockTime::ZERO,
        running_time: gst::ClockTime::ZERO,
        next: 0,
        part: 0,
        plan: Arc::new(Plan { settings, rules }),
        overload: Overload::Block,
        arrived: Instant::now(),
        delay: None,
    })
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Flushed,
    Late,
    Given,
}

/// The worker, without conversion of frames.
struct Worker {
    session: Arc<Session>,
    epoch: u64,
    asked: Vec<RequestId>,
    ends: Ends,
}

type Ends = Arc<Mutex<Vec<(RequestId, End)>>>;

/// A request of a window; numbers begin at 0 in each window.
fn request(window: u64, request: u64) -> RequestId {
    RequestId { window, request }
}

impl Worker {
    /// A worker with one window, which has this number of unanswered requests.
    fn new(session: &Arc<Session>, requests: u64) -> Self {
        session.push_frame(frame(), false).unwrap();
        drop(session.next(0, None, |_| true));
        Self {
            session: session.clone(),
            epoch: 0,
            asked: (0..requests).map(|number| request(0, number)).collect(),
            ends: Arc::default(),
        }
    }

    fn end_all(&mut self, end: End) {
        let ends = self.asked.drain(..).map(|request| (request, end));
        self.ends.lock().unwrap().extend(ends);
    }

    /// Handles one entry of the queues. `false` after the last.
    fn turn(&mut self) -> bool {
        // As in a file: one request at a time.
        let idle = self.asked.is_empty();
        let admits = |work: &Work| idle || !matches!(work, Work::Frame(_));
        match self.session.next(self.asked.len(), None, admits) {
            Next::Work(Work::Frame(_)) => {
                let window = self.ends.lock().unwrap().len() as u64;
                self.asked.push(request(window, 0));
                self.session.event(request(window, 0), Event::Cancelled);
            }
            Next::Control(Control::Event(request, _)) => self.answered(request),
            Next::Control(Control::Flush(epoch)) => {
                self.epoch = self.epoch.max(epoch);
                self.end_all(End::Flushed);
                self.session.reached(self.epoch);
            }
            Next::Control(Control::Expire) => self.end_all(End::Late),
            Next::Control(Control::Stop | Control::Abort(_)) => {
                self.end_all(End::Given);
                self.session.finished();
                return false;
            }
            Next::Nothing
            | Next::Work(_)
            | Next::Control(Control::Ready(_) | Control::Lost(..)) => {}
        }
        true
    }

    fn answered(&mut self, request: RequestId) {
        if self.session.epoch() != self.epoch {
            return;
        }
        if let Some(place) = self.asked.iter().position(|asked| *asked == request) {
            self.asked.remove(place);
            let description = gst::Structure::builder("description");
            let description = description.field("epoch", self.epoch).build();
            self.session.attach(self.epoch, description);
            self.ends.lock().unwrap().push((request, End::Answered));
        }
    }

    fn run(mut self) {
        while self.turn() {}
    }
}

/// A session, and a worker that has asked one window, which `answer` answers; later ones are
/// answered at once.
struct Stage {
    session: Arc<Session>,
    ends: Ends,
    worker: thread::JoinHandle<()>,
}

impl Stage {
    fn new() -> Self {
        Self::with(1)
    }

    /// A stage whose first window has this number of requests.
    fn with(requests: u64) -> Self {
        let session = Arc::new(Session::default());
        let worker = Worker::new(&session, requests);
        let ends = worker.ends.clone();
        let worker = thread::spawn(move || worker.run());
        Self {
            session,
            ends,
            worker,
        }
    }

    fn spawn(&self, act: impl FnOnce(&Session) + 'static) -> thread::JoinHandle<()> {
        let session = self.session.clone();
        thread::spawn(move || act(&session))
    }

    /// The engine answers the window that was asked.
    fn answer(&self) -> thread::JoinHandle<()> {
        self.spawn(|session| session.event(request(0, 0), Event::Cancelled))
    }

    /// Drains as EOS does.
    fn drain(&self) -> Drained {
        let drained = self.session.drain(Some(SECOND)).unwrap();
        if drained == Drained::TimedOut {
            self.session.expire();
            assert_eq!(self.session.drain(None), Ok(Drained::Yes));
        }
        drained
    }

    /// Stops. Each request of the first `windows` windows must have ended once; returns how.
    fn finish(self, windows: u64) -> Vec<End> {
        self.finish_all(&Vec::from_iter(
            (0..windows).map(|window| request(window, 0)),
        ))
    }

    /// Stops. Each of these requests must have ended once; returns how.
    fn finish_all(self, requests: &[RequestId]) -> Vec<End> {
        self.session.stop();
        self.worker.join().unwrap();
        let mut ends = self.ends.lock().unwrap().clone();
        ends.sort_by_key(|(id, _)| (id.window, id.request));
        let ids: Vec<_> = ends.iter().map(|(request, _)| *request).collect();
        assert_eq!(ids, requests);
        ends.into_iter().map(|(_, end)| end).collect()
    }
}

/// Epochs of the descriptions that the next buffer would carry.
fn epochs(session: &Session) -> Vec<u64> {
    let taken = session.take_descriptions().unwrap_or_default();
    taken.iter().map(|s| s.get("epoch").unwrap()).collect()
}

/// Fills the work queue.
fn fill(session: &Session) {
    for _ in 0..8 {
        session.push_frame(frame(), true).unwrap();
    }
}

#[test]
fn a_taken_frame_ends_the_wait_of_a_push() {
    check(3, || {
        let session = Arc::new(Session::default());
        fill(&session);
        let worker = thread::spawn({
            let session = session.clone();
            move || match session.next(0, None, |_| true) {
                Next::Work(work) => drop(work),
                Next::Control(_) | Next::Nothing => unreachable!("there is none"),
            }
        });
        assert_eq!(session.push_frame(frame(), true), Ok(()));
        worker.join().unwrap();
    });
}

#[test]
fn flush_stop_and_failure_end_the_wait_of_a_push() {
    let acts: [(fn(&Session), _); 3] = [
        (Session::flush_start, Interrupted::Flushing),
        (Session::stop, Interrupted::Flushing),
        (|session| session.fail("broken"), Interrupted::Failed),
    ];
    for (act, why) in acts {
        check(3, move || {
            let session = Arc::new(Session::default());
            fill(&session);
            let other = thread::spawn({
                let session = session.clone();
                move || act(&session)
            });
            assert_eq!(session.push_frame(frame(), true), Err(why));
            other.join().unwrap();
        });
    }
}

#[test]
fn failure_stop_and_flush_end_the_wait_for_the_model() {
    let acts: [(fn(&Session), _); 3] = [
        (Session::flush_start, Interrupted::Flushing),
        (Session::stop, Interrupted::Flushing),
        (|session| session.fail("no model"), Interrupted::Failed),
    ];
    for (act, why) in acts {
        check(3, move || {
            let stage = Stage::new();
            let other = stage.spawn(act);
            assert_eq!(stage.session.wait_ready(), Err(why));
            other.join().unwrap();
            stage.finish(1);
        });
    }
}

#[test]
fn of_two_failures_one_is_posted_and_all_give_up() {
    check(2, || {
        let stage = Stage::new();
        let posted = Arc::new(Mutex::new(0));
        let others = [(); 2].map(|()| {
            let posted = posted.clone();
            stage.spawn(move |session| {
                if session.claim_failure() {
                    *posted.lock().unwrap() += 1;
                    session.fail("broken");
                }
            })
        });
        assert_eq!(stage.session.wait_ready(), Err(Interrupted::Failed));
        assert!(stage.session.wait_finished(SECOND));
        assert_eq!(*stage.ends.lock().unwrap(), [(request(0, 0), End::Given)]);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(*posted.lock().unwrap(), 1);
        stage.finish(1);
    });
}

#[test]
fn the_end_waits_for_the_answers() {
    check(3, || {
        let stage = Stage::new();
        let engine = stage.answer();
        stage.session.push_break(None, 1);
        assert_eq!(stage.session.drain(None), Ok(Drained::Yes));
        assert_eq!(
            *stage.ends.lock().unwrap(),
            [(request(0, 0), End::Answered)]
        );
        engine.join().unwrap();
        assert_eq!(epochs(&stage.session), [0]);
        stage.finish(1);
    });
}

#[test]
fn the_end_waits_for_all_requests_of_a_window() {
    check(3, || {
        let stage = Stage::with(2);
        let engine = stage.spawn(|session| {
            for number in [1, 0] {
                session.event(request(0, number), Event::Cancelled);
            }
        });
        assert_eq!(stage.session.drain(None), Ok(Drained::Yes));
        assert_eq!(stage.ends.lock().unwrap().len(), 2);
        engine.join().unwrap();
        let ends = stage.finish_all(&[request(0, 0), request(0, 1)]);
        assert_eq!(ends, [End::Answered; 2]);
    });
}

#[test]
fn a_flush_between_the_answers_of_a_window_ends_each_request_once() {
    check(2, || {
        let stage = Stage::with(2);
        let engine = stage.spawn(|session| {
            for number in [0, 1] {
                session.event(request(0, number), Event::Cancelled);
            }
        });
        stage.session.flush_start();
        assert!(stage.session.flush_stop(SECOND));
        assert_eq!(stage.ends.lock().unwrap().len(), 2);
        engine.join().unwrap();
        stage.finish_all(&[request(0, 0), request(0, 1)]);
    });
}

/// The frame is admitted when the window before it is answered.
#[test]
fn the_end_waits_for_frames_that_wait_for_the_engine() {
    for waits in 0..4 {
        check(2, move || {
            let stage = Stage::new();
            sync::time_is_over_after(waits);
            stage.session.push_frame(frame(), true).unwrap();
            let engine = stage.answer();
            stage.drain();
            engine.join().unwrap();
            let windows = stage.ends.lock().unwrap().len() as u64;
            assert!([1, 2].contains(&windows));
            stage.finish(windows);
        });
    }
}

#[test]
fn flush_and_stop_end_the_wait_for_the_last_answers() {
    for act in [Session::flush_start, Session::stop] {
        check(3, move || {
            let stage = Stage::new();
            let other = stage.spawn(act);
            let drained = stage.session.drain(None);
            assert!(matches!(
                drained,
                Err(Interrupted::Flushing) | Ok(Drained::Yes)
            ));
            other.join().unwrap();
            stage.finish(1);
        });
    }
}

#[test]
fn an_answer_comes_when_its_time_is_over() {
    for waits in 0..4 {
        check(3, move || {
            let stage = Stage::new();
            sync::time_is_over_after(waits);
            let engine = stage.answer();
            let drained = stage.drain();
            assert_eq!(stage.ends.lock().unwrap().len(), 1);
            engine.join().unwrap();
            let ends = stage.finish(1);
            assert!(drained == Drained::TimedOut || ends == [End::Answered]);
        });
    }
}

#[test]
fn an_answer_meets_two_flushes() {
    check(2, || {
        let stage = Stage::new();
        let engine = stage.answer();
        let ends = stage.ends.clone();
        let seeks = stage.spawn(move |session| {
            for epoch in 1..=2 {
                session.flush_start();
                assert!(session.flush_stop(SECOND));
                // The earlier windows have ended, and no description of theirs follows.
                assert_eq!(ends.lock().unwrap().len(), 1);
                assert!(epochs(session).iter().all(|of| *of >= epoch));
            }
        });
        for other in [engine, seeks] {
            other.join().unwrap();
        }
        stage.finish(1);
    });
}

#[test]
fn stop_and_failure_end_the_wait_of_a_flush() {
    let acts: [fn(&Session); 2] = [Session::stop, |session| session.fail("broken")];
    for act in acts {
        check(3, move || {
            let stage = Stage::new();
            let other = stage.spawn(act);
            stage.session.flush_start();
            assert!(stage.session.flush_stop(SECOND));
            other.join().unwrap();
            stage.finish(1);
        });
    }
}

#[test]
fn a_frame_after_a_flush_becomes_a_window() {
    check(3, || {
        let stage = Stage::new();
        stage.session.flush_start();
        assert!(stage.session.flush_stop(SECOND));
        let engine = stage.answer();
        stage.session.push_frame(frame(), true).unwrap();
        engine.join().unwrap();
        assert_eq!(stage.session.drain(None), Ok(Drained::Yes));
        stage.finish(2);
    });
}

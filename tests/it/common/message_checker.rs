//! Checks the messages of an element in the thread that posts them, so that none has to be kept.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::terminal::Terminal;

/// Ids that have been seen: all below `next`, and some above.
#[derive(Debug, Default)]
struct Ids {
    next: u64,
    ahead: BTreeSet<u64>,
}

impl Ids {
    /// Whether it is new.
    fn add(&mut self, id: u64) -> bool {
        let new = id >= self.next && self.ahead.insert(id);
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        new
    }
}

#[derive(Debug, Default)]
pub struct Counts {
    pub described: u64,
    pub dropped: u64,
    pub errors: usize,
}

#[derive(Debug, Default)]
struct State {
    windows: Ids,
    requests: Ids,
    /// Lowest epoch, as `stream-id`, whose messages may still come.
    epoch: u64,
    /// Number of the request that was answered last.
    last: Option<u64>,
    /// Described windows whose description has not been seen on a buffer.
    loose: BTreeSet<u64>,
    /// Windows whose description was on a buffer before its message was seen.
    early: BTreeSet<u64>,
    counts: Counts,
    /// The first fault.
    wrong: Option<String>,
}

/// Epoch and number of the request in an answer of the test. Answers of the demo model have none.
fn told(text: &str) -> Option<(u64, u64)> {
    let (epoch, number) = text.split_once(' ')?;
    Some((epoch.parse().ok()?, number.parse().ok()?))
}

/// Descriptions without a buffer are dropped from the check after this many later ones.
const MOST_LOOSE: usize = 1_000;

/// Checks the messages of an element whose `stream-id` is the number of its epoch.
#[derive(Clone, Default)]
pub struct MessageChecker(Arc<Mutex<State>>);

impl MessageChecker {
    /// Checks the messages of `element` on the bus, and drops all messages.
    pub fn new(bus: &gst::Bus, element: &gst::Element) -> Self {
        let this = Self::default();
        let (checker, element) = (this.clone(), element.downgrade());
        bus.set_sync_handler(move |_, message| {
            let Some(element) = element.upgrade() else {
                return gst::BusSyncReply::Drop;
            };
            match message.view() {
                _ if message.src() != Some(element.upcast_ref()) => (),
                gst::MessageView::Error(_) => checker.0.lock().unwrap().counts.errors += 1,
                gst::MessageView::Element(message) => {
                    if let Some(structure) = message.structure() {
                        checker.0.lock().unwrap().see(structure);
                    }
                }
                _ => (),
            }
            gst::BusSyncReply::Drop
        });
        this
    }

    /// A flush or the end has passed: no message of an earlier epoch may follow.
    pub fn begin(&self, epoch: u64) {
        self.0.lock().unwrap().epoch = epoch;
    }

    /// A buffer carries this description; with `others` other buffers may carry it too.
    pub fn attached(&self, description: &gst::StructureRef, others: bool) {
        let mut state = self.0.lock().unwrap();
        state.check_epoch(description);
        let id = description.get("window-id").unwrap();
        if !others && !state.loose.remove(&id) && !state.early.insert(id) {
            state.wrong(format!("attached twice: {description}"));
        }
    }

    /// The text pad has pushed this text.
    pub fn text(&self, text: &str) {
        let mut state = self.0.lock().unwrap();
        if told(text).is_some_and(|(epoch, _)| epoch < state.epoch) {
            state.wrong(format!("a text of an older epoch: {text}"));
        }
    }

    /// Reads the counters.
    pub fn counts<T>(&self, read: impl FnOnce(&Counts) -> T) -> T {
        read(&self.0.lock().unwrap().counts)
    }

    /// Fails if a fault was found.
    pub fn check(&self) {
        let wrong = self.0.lock().unwrap().wrong.take();
        if let Some(wrong) = wrong {
            panic!("{wrong}");
        }
    }

    /// Fails if a window or request up to the last one has not ended, or if a buffer carried a
    /// description without a message, or twice.
    pub fn check_all_ended(&self) {
        self.check();
        let state = self.0.lock().unwrap();
        for ids in [&state.windows, &state.requests] {
            assert!(ids.ahead.is_empty(), "{} has not ended", ids.next);
        }
        assert_eq!(state.windows.next, state.requests.next);
        assert!(state.early.is_empty(), "{:?}", state.early);
    }
}

impl State {
    fn wrong(&mut self, what: String) {
        let epoch = self.epoch;
        self.wrong
            .get_or_insert(format!("in epoch {epoch}: {what}"));
    }

    fn check_epoch(&mut self, structure: &gst::StructureRef) {
        let stream: String = structure.get("stream-id").unwrap();
        if stream.parse::<u64>().unwrap() < self.epoch {
            self.wrong(format!("of an older epoch: {structure}"));
        }
    }

    fn see(&mut self, structure: &gst::StructureRef) {
        self.check_epoch(structure);
        let terminal = match Terminal::read(structure) {
            Ok(Some(terminal)) => terminal,
            Ok(None) => return,
            Err(why) => return self.wrong(why),
        };
        let window = terminal.window();
        let id = window.window_id;
        if !self.windows.add(id) || !self.requests.add(window.request_id) {
            self.wrong(format!("ended twice: {structure}"));
        }
        if window.start_running_time > window.end_running_time
            || !window.frame_pts.is_sorted_by(|a, b| a < b)
        {
            self.wrong(format!("not in the order of time: {structure}"));
        }
        let Terminal::Description(description) = terminal else {
            self.counts.dropped += 1;
            return;
        };
        self.counts.described += 1;
        if let Some((_, number)) = told(&description.text)
            && self.last.replace(number) >= Some(number)
        {
            self.wrong(format!("not in the order of the requests: {structure}"));
        }
        if !self.early.remove(&id) {
            self.loose.insert(id);
        }
        if self.loose.len() > MOST_LOOSE {
            self.loose.pop_first();
        }
    }
}

//! The queue of held buffers and events. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::RequestId;

/// A position in the stream. Every break begins another part, in which time may start again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::qwenvl) struct StreamPosition {
    pub(in crate::qwenvl) part: u64,
    /// Running time in nanoseconds; never goes back within a part.
    pub(in crate::qwenvl) time: u64,
}

impl StreamPosition {
    /// After every other position.
    pub(super) const END: Self = Self {
        part: u64::MAX,
        time: u64::MAX,
    };
}

/// What the source pad's task does next.
#[derive(Debug, PartialEq)]
pub(super) enum Next<T, D> {
    /// Push this item, with these descriptions.
    Push(T, Vec<D>),
    /// Wait for a change, at most until this time.
    WaitUntil(Instant),
    /// Wait for a change.
    Wait,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// `None` for an event, which waits for the entries before it only.
    position: Option<StreamPosition>,
    /// The latest time to leave.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Window<D> {
    id: u64,
    start: StreamPosition,
    end: StreamPosition,
    /// When the wait for its answers ends, once it is closed.
    until: Option<Instant>,
    /// Number and outcome, in the order of the requests.
    requests: Vec<(u64, Outcome<D>)>,
}

#[derive(Debug)]
enum Outcome<D> {
    Pending,
    Ended(Option<D>),
}

impl<D> Window<D> {
    /// A window has ended when all its requests have.
    fn is_pending(&self) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|(_, outcome)| matches!(outcome, Outcome::Pending))
    }

    fn descriptions(&self) -> impl Iterator<Item = &D> {
        let requests = self.requests.iter();
        requests.filter_map(|(_, outcome)| match outcome {
            Outcome::Ended(description) => description.as_ref(),
            Outcome::Pending => None,
        })
    }
}

/// Items of type `T` in the order of the stream, and windows whose requests end in a description
/// `D` or none.
#[derive(Debug)]
pub(super) struct HoldQueue<T, D> {
    entries: VecDeque<Entry<T>>,
    /// In the order in which they opened.
    windows: Vec<Window<D>>,
    /// No window will open before this position.
    watermark: StreamPosition,
}

impl<T, D> Default for HoldQueue<T, D> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            windows: Vec::new(),
            watermark: StreamPosition::default(),
        }
    }
}

impl<T, D: Clone> HoldQueue<T, D> {
    /// Appends an item.
    pub(super) fn push(
        &mut self,
        item: T,
        position: Option<StreamPosition>,
        deadline: Option<Instant>,
    ) {
        self.entries.push_back(Entry {
            item,
            position,
            deadline,
        });
    }

    /// A window opens, with these requests. `end` is its last possible running time, in
    /// nanoseconds.
    pub(super) fn opened(&mut self, id: u64, requests: &[u64], start: StreamPosition, end: u64) {
        let end = StreamPosition { time: end, ..start };
        let requests = requests.iter().map(|number| (*number, Outcome::Pending));
        self.windows.push(Window {
            id,
            start,
            end,
            until: None,
            requests: requests.collect(),
        });
    }

    /// No window will open before `to`.
    pub(super) fn advance_watermark(&mut self, to: StreamPosition) {
        self.watermark = self.watermark.max(to);
    }

    /// A window is closed. Entries wait for its answers until `until` at most.
    pub(super) fn closed(&mut self, id: u64, until: Instant) {
        if let Some(window) = self.window(id) {
            window.until = Some(until);
        }
    }

    /// A request ended.
    pub(super) fn ended(&mut self, id: RequestId, description: Option<D>) {
        let requests = self.window(id.window).map(|window| &mut window.requests);
        let mut requests = requests.into_iter().flatten();
        if let Some((_, outcome)) = requests.find(|(number, _)| *number == id.request) {
            *outcome = Outcome::Ended(description);
        }
    }

    fn window(&mut self, id: u64) -> Option<&mut Window<D>> {
        self.windows.iter_mut().find(|window| window.id == id)
    }

    /// Number of held buffers and events.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether video of `limit` or longer is held although the first entry may leave.
    pub(super) fn is_full(&self, now: Instant, limit: Duration) -> bool {
        let positions = || self.entries.iter().filter_map(|entry| entry.position);
        let (Some(first), Some(last)) = (positions().next(), positions().next_back()) else {
            return false;
        };
        let held = Duration::from_nanos(last.time.saturating_sub(first.time));
        let much = first.part != last.part || held >= limit;
        much && matches!(self.front(now), Front::Ready)
    }

    /// What to push now.
    pub(super) fn next(&mut self, now: Instant) -> Next<T, D> {
        match self.front(now) {
            Front::Ready => (),
            Front::Until(Some(until)) => return Next::WaitUntil(until),
            Front::Until(None) => return Next::Wait,
        }
        let Some(Entry { item, position, .. }) = self.entries.pop_front() else {
            return Next::Wait;
        };
        let Some(position) = position else {
            return Next::Push(item, Vec::new());
        };
        self.windows.retain(|window| position < window.end);
        let descriptions = self.covering(position).flat_map(Window::descriptions);
        Next::Push(item, descriptions.cloned().collect())
    }

    fn covering(&self, position: StreamPosition) -> impl Iterator<Item = &Window<D>> {
        let covers = move |window: &&Window<D>| window.start <= position && position < window.end;
        self.windows.iter().filter(covers)
    }

    fn front(&self, now: Instant) -> Front {
        let Some(entry) = self.entries.front() else {
            return Front::Until(None);
        };
        let Some(position) = entry.position else {
            return Front::Ready;
        };
        let mut until = match entry.deadline {
            Some(deadline) if deadline <= now => return Front::Ready,
            deadline => deadline,
        };
        if self.watermark <= position {
            return Front::Until(until);
        }
        let mut last = Some(now);
        for window in self.covering(position) {
            if window.is_pending() {
                last = last.and_then(|last| Some(last.max(window.until?)));
            }
        }
        match last {
            Some(last) if last <= now => return Front::Ready,
            Some(last) => until = Some(until.map_or(last, |until| until.min(last))),
            None => (),
        }
        Front::Until(until)
    }
}

/// The wait of the first entry.
enum Front {
    Ready,
    /// For a change, or for this time.
    Until(Option<Instant>),
}

#[cfg(test)]
mod tests;

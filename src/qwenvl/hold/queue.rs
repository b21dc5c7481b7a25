//! What is held until its windows have ended. Pure: the time of day is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A position in the stream. Every break begins another part, in which time may start anew.
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

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Next<T, D> {
    /// Push this, with these descriptions.
    Push(T, Vec<D>),
    /// Nothing before this time, unless something happens.
    WaitUntil(Instant),
    /// Nothing until something happens.
    Wait,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// An event has none: it waits for its turn only.
    position: Option<StreamPosition>,
    /// When it leaves at the latest.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Window<D> {
    id: u64,
    start: StreamPosition,
    end: StreamPosition,
    outcome: Outcome<D>,
}

#[derive(Debug)]
enum Outcome<D> {
    Pending { until: Option<Instant> },
    Ended(Option<D>),
}

/// Items of type `T` in the order of the stream, and windows that end in a description `D` or none.
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
    /// Puts something at the end.
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

    /// A window opens and will end at the running time `end` of its part at the latest.
    pub(super) fn opened(&mut self, id: u64, start: StreamPosition, end: u64) {
        let end = StreamPosition { time: end, ..start };
        let outcome = Outcome::Pending { until: None };
        self.windows.push(Window {
            id,
            start,
            end,
            outcome,
        });
    }

    /// No window will open before `to`.
    pub(super) fn advance_watermark(&mut self, to: StreamPosition) {
        self.watermark = self.watermark.max(to);
    }

    /// A window waits for its answer. Entries wait for it until `until` at most.
    pub(super) fn closed(&mut self, id: u64, until: Instant) {
        if let Some(Outcome::Pending { until: limit }) = self.outcome(id) {
            *limit = Some(until);
        }
    }

    /// A window ended.
    pub(super) fn ended(&mut self, id: u64, description: Option<D>) {
        if let Some(outcome) = self.outcome(id) {
            *outcome = Outcome::Ended(description);
        }
    }

    fn outcome(&mut self, id: u64) -> Option<&mut Outcome<D>> {
        let mut windows = self.windows.iter_mut();
        windows.find_map(|window| (window.id == id).then_some(&mut window.outcome))
    }

    /// Buffers and events that are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the first entry may leave while video of `limit` or longer is held.
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
        let descriptions = self.covering(position).filter_map(|window| {
            let Outcome::Ended(description) = &window.outcome else {
                return None;
            };
            description.clone()
        });
        Next::Push(item, descriptions.collect())
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
            if let Outcome::Pending { until } = window.outcome {
                last = last.and_then(|last| Some(last.max(until?)));
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

/// What the first entry waits for.
enum Front {
    Ready,
    /// For something to happen, or for this time.
    Until(Option<Instant>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> StreamPosition {
        StreamPosition { part: 0, time }
    }

    fn pushed(queue: &mut HoldQueue<u64, u64>, now: Instant) -> Vec<(u64, Vec<u64>)> {
        let next = || match queue.next(now) {
            Next::Push(item, descriptions) => Some((item, descriptions)),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_frame_waits_for_its_window_and_for_those_that_may_open() {
        let now = Instant::now();
        let mut queue = HoldQueue::<u64, u64>::default();
        for time in 0..6 {
            queue.push(time, Some(at(time)), None);
        }
        assert_eq!(queue.next(now), Next::Wait);
        queue.opened(7, at(1), 4);
        queue.advance_watermark(at(3));
        assert_eq!(pushed(&mut queue, now), [(0, vec![])], "it has no window");
        queue.ended(7, Some(70));
        assert_eq!(pushed(&mut queue, now), [(1, vec![70]), (2, vec![70])]);
        queue.opened(8, at(3), 7);
        queue.advance_watermark(at(9));
        assert_eq!(pushed(&mut queue, now), []);
        queue.ended(8, Some(80));
        let both = (3, vec![70, 80]);
        assert_eq!(
            pushed(&mut queue, now),
            [both, (4, vec![80]), (5, vec![80])]
        );
    }

    #[test]
    fn a_window_holds_nothing_from_its_end_on() {
        let now = Instant::now();
        let mut queue = HoldQueue::<u64, u64>::default();
        queue.opened(0, at(0), 4);
        queue.push(4, Some(at(4)), None);
        queue.advance_watermark(at(5));
        assert_eq!(queue.len(), 1);
        assert_eq!(pushed(&mut queue, now), [(4, vec![])]);
    }

    #[test]
    fn no_longer_than_the_timeout() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = HoldQueue::<u64, u64>::default();
        queue.push(0, Some(at(0)), None);
        queue.opened(1, at(0), 4);
        queue.advance_watermark(at(4));
        assert_eq!(queue.next(now), Next::Wait, "it is not closed");
        queue.closed(1, later);
        assert_eq!(queue.next(now), Next::WaitUntil(later));
        assert_eq!(queue.next(later), Next::Push(0, vec![]));
        queue.push(1, Some(at(9)), Some(later));
        assert_eq!(queue.next(now), Next::WaitUntil(later));
        assert_eq!(
            queue.next(later),
            Next::Push(1, vec![]),
            "not even looked at"
        );
    }

    #[test]
    fn full_is_what_could_go_on() {
        let now = Instant::now();
        let limit = Duration::from_nanos(4);
        let mut queue = HoldQueue::<u64, u64>::default();
        for time in 0..=4 {
            queue.push(time, Some(at(time)), None);
        }
        assert!(!queue.is_full(now, limit), "a window needs its frames");
        queue.advance_watermark(at(1));
        assert!(queue.is_full(now, limit));
        assert_eq!(pushed(&mut queue, now).len(), 1);
        assert!(!queue.is_full(now, limit));
        // Times of two parts say nothing of how much lies between them.
        queue.push(5, Some(StreamPosition { part: 1, time: 1 }), None);
        queue.advance_watermark(at(2));
        assert!(queue.is_full(now, limit));
    }

    proptest::proptest! {
        /// Whatever the order of answers and of what the two threads do: everything comes out once,
        /// in order, with the descriptions of the windows that cover it, and nothing is left.
        #[test]
        fn everything_comes_out_with_its_descriptions(
            stride in 1u64..5,
            length in 1u64..9,
            parts in 1u64..3,
            frames in 1u64..30,
            steps in proptest::collection::vec((0u8..3, 0usize..8), 0..200),
        ) {
            let now = Instant::now();
            let mut queue = HoldQueue::<u64, u64>::default();
            let positions: Vec<StreamPosition> = (0..parts)
                .flat_map(|part| (0..frames).map(move |time| StreamPosition { part, time }))
                .collect();
            let starts = |position: &StreamPosition| position.time.is_multiple_of(stride);
            let windows: Vec<(u64, StreamPosition)> =
                (0..).zip(positions.iter().copied().filter(starts)).collect();
            // Every second window has no description.
            let description = |id: u64| id.is_multiple_of(2).then_some(id);
            let (mut arrived, mut seen, mut opened) = (0, 0, 0);
            let mut pending = Vec::new();
            let mut out = Vec::new();
            let rest = (0..3 * positions.len()).flat_map(|_| [(0, 0), (1, 0), (2, 0)]);
            for (what, which) in steps.into_iter().chain(rest) {
                match what {
                    0 if arrived < positions.len() => {
                        queue.push(arrived as u64, Some(positions[arrived]), None);
                        arrived += 1;
                    }
                    // The worker takes up a frame, which may not even be in the queue yet.
                    1 if seen < positions.len() => {
                        let position = positions[seen];
                        seen += 1;
                        if starts(&position) {
                            queue.opened(opened, position, position.time + length);
                            pending.push(opened);
                            opened += 1;
                        }
                        let next = positions.get(seen).copied();
                        queue.advance_watermark(next.unwrap_or(StreamPosition::END));
                    }
                    2 if !pending.is_empty() => {
                        let id = pending.remove(which % pending.len());
                        queue.ended(id, description(id));
                    }
                    _ => (),
                }
                out.extend(pushed(&mut queue, now));
            }
            let expected: Vec<(u64, Vec<u64>)> = (0u64..)
                .zip(&positions)
                .map(|(i, position)| {
                    let covers = |(_, start): &&(u64, StreamPosition)| {
                        start.part == position.part
                            && start.time <= position.time
                            && position.time < start.time + length
                    };
                    let covering = windows.iter().filter(covers);
                    (i, covering.filter_map(|(id, _)| description(*id)).collect())
                })
                .collect();
            proptest::prop_assert_eq!(out, expected);
            proptest::prop_assert_eq!(queue.len(), 0);
        }
    }
}

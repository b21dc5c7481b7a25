//! The windows of a sampled frame, and when they open and close.

use super::rules::{Nanos, WindowRules};

/// An event of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A window begins with the frame that follows.
    Opened {
        /// Its number; numbers count up and never repeat.
        window: u64,
        /// Its end, unless the stream breaks before.
        end: Nanos,
    },
    /// The frame that was pushed belongs to this window.
    Frame {
        /// The window.
        window: u64,
    },
    /// The window is complete.
    Closed {
        /// The window.
        window: u64,
        /// Whether it was cut short.
        partial: bool,
    },
    /// The window must not be described.
    Discarded {
        /// The window.
        window: u64,
        /// Why.
        reason: Discard,
    },
}

/// Why a window is not described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It holds too few frames.
    TooShort,
    /// [`Windows::clear`] was called.
    Cleared,
}

/// Cuts a stream of sampled frames into windows.
///
/// The first window starts at the first frame, the others a stride apart; each covers
/// `start <= time < start + duration`. A window opens with the first frame that it covers, so there
/// is none in a gap of the stream.
#[derive(Clone, Debug)]
pub struct Windows {
    rules: WindowRules,
    next_id: u64,
    next_start: Option<Nanos>,
    last: Nanos,
    open: Vec<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: u64,
    end: Nanos,
    frames: u32,
    /// Fewest frames that can be described, by the rules when it opened.
    least: u32,
}

impl Windows {
    /// No window yet; the first one gets the number `first_id`.
    pub fn new(rules: WindowRules, first_id: u64) -> Self {
        Self {
            rules,
            next_id: first_id,
            next_start: None,
            last: 0,
            open: Vec::new(),
        }
    }

    /// Other rules from the next window on; open ones keep theirs.
    pub fn set_rules(&mut self, rules: WindowRules) {
        self.rules = rules;
    }

    /// The number that the next window will have.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Takes a frame at `time`. No frame comes before `next` unless time jumps back, so windows
    /// that end by then are complete at once.
    ///
    /// A frame before the last one ends all windows, and windows start again with it.
    pub fn push(&mut self, time: Nanos, next: Nanos) -> Vec<Event> {
        let mut events = Vec::new();
        if time < self.last {
            events = self.finish();
        }
        self.close_until(time, &mut events);
        self.open_at(time, &mut events);
        for window in &mut self.open {
            window.frames += 1;
            events.push(Event::Frame { window: window.id });
        }
        self.last = time;
        self.close_until(next, &mut events);
        events
    }

    /// No frame comes before `time`: windows that end by then are complete.
    pub fn skip(&mut self, time: Nanos) -> Vec<Event> {
        let mut events = Vec::new();
        self.close_until(time, &mut events);
        events
    }

    /// The stream ends or breaks here: closes the open windows. Windows start again with the next
    /// frame.
    pub fn finish(&mut self) -> Vec<Event> {
        self.restart();
        self.open
            .drain(..)
            .map(|window| window.ended(true))
            .collect()
    }

    /// Discards the open windows. Windows start again with the next frame.
    pub fn clear(&mut self) -> Vec<Event> {
        self.restart();
        self.open
            .drain(..)
            .map(|window| Event::Discarded {
                window: window.id,
                reason: Discard::Cleared,
            })
            .collect()
    }

    fn restart(&mut self) {
        self.next_start = None;
        self.last = 0;
    }

    /// Closes the windows that end at or before `time`.
    fn close_until(&mut self, time: Nanos, events: &mut Vec<Event>) {
        self.open.retain(|window| {
            let stays = time < window.end;
            if !stays {
                events.push(window.ended(false));
            }
            stays
        });
    }

    /// Opens the windows that cover `time` and are not open yet.
    fn open_at(&mut self, time: Nanos, events: &mut Vec<Event>) {
        let (duration, stride) = (self.rules.duration(), self.rules.stride());
        let mut start = self.next_start.unwrap_or(time);
        // Over a gap: the first start whose window still covers `time`.
        if let Some(behind) = time.checked_sub(start.saturating_add(duration)) {
            start = start.saturating_add((behind / stride + 1).saturating_mul(stride));
        }
        while start <= time {
            let window = Open {
                id: self.next_id,
                end: start.saturating_add(duration),
                frames: 0,
                least: self.rules.least_frames(),
            };
            self.next_id += 1;
            events.push(Event::Opened {
                window: window.id,
                end: window.end,
            });
            self.open.push(window);
            start = start.saturating_add(stride);
            if start == Nanos::MAX {
                break;
            }
        }
        self.next_start = Some(start);
    }
}

impl Open {
    fn ended(&self, partial: bool) -> Event {
        let window = self.id;
        if self.frames < self.least {
            let reason = Discard::TooShort;
            Event::Discarded { window, reason }
        } else {
            Event::Closed { window, partial }
        }
    }
}

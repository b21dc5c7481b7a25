//! The order and times of the text pad's output. Pure: running times in nanoseconds, no pads, no
//! clock.

use std::collections::VecDeque;

use crate::message::RequestId;

/// Running time in nanoseconds.
type Nanos = u64;

/// How far ahead of the video the text stream goes, so that an overlay never waits for it.
const LEAD: Nanos = 500_000_000;
/// GAPs shorter than this are not worth an event.
const LEAST_GAP: Nanos = 100_000_000;
/// Most texts that wait for a slow peer; beyond that the oldest are lost.
const MOST_WAITING: usize = 64;

/// How texts are placed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qwenvl) enum Placing {
    /// From the video's position when the answer comes, until the next answer.
    Answer {
        /// Distance of windows: how long the texts of one last before the last is repeated.
        hold: Nanos,
    },
    /// At the described window.
    Span,
}

/// The state of the last push of video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Push {
    /// It may return at any moment.
    Free,
    /// The pipeline is not playing yet: the peer needs something to preroll with.
    Preroll,
    /// It does not return: a muxer holds the video back until it knows what text there is. A window
    /// that has no text yet no longer holds this stream back.
    Stuck,
    /// It has not returned after a GAP either: the muxer is not sparse-aware. It stays at a text
    /// until it has the next one, so it gets one.
    StillStuck,
}

/// What the peer needs to let the video go on, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    /// GAPs: it is sparse-aware.
    Sparse,
    /// It stays at a text until another buffer or GAP follows, so one follows at once (`qtmux`).
    StaysAtText,
    /// Texts: it ignores GAPs, and lets no video go past the last text (`splitmuxsink`, which GAPs
    /// can even stop for good: if a file ends while its text pad is at a GAP, GStreamer 1.22 may
    /// send the next file's muxer an EOS of the text).
    NeedsText,
}

/// An output of the pad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Out<M> {
    /// A text from `start` to `end`.
    Text {
        start: Nanos,
        end: Nanos,
        text: String,
    },
    /// No text starts between these times.
    Gap { start: Nanos, end: Nanos },
    /// An event of the stream.
    Mark(M),
}

/// The output that has to follow the last one for a muxer that is not sparse-aware.
#[derive(Debug)]
enum More {
    /// A GAP.
    Gap(Nanos, Nanos),
    /// An empty text.
    Text,
}

#[derive(Debug)]
enum Entry<M> {
    /// A request that has not ended, of a window that starts here and has this number of requests.
    Request {
        id: RequestId,
        start: Nanos,
        requests: u32,
    },
    /// The text of a request that has ended.
    Text {
        start: Nanos,
        end: Nanos,
        text: String,
    },
    Mark {
        mark: M,
        /// The running time at the start, if this is a segment.
        segment: Option<Nanos>,
    },
}

/// The text stream. `M` are the stream's events, which keep their place among the texts.
#[derive(Debug)]
pub(super) struct Timeline<M> {
    placing: Placing,
    /// In the order of the stream. With [`Placing::Span`] entries behind a request that has not
    /// ended wait for it.
    entries: VecDeque<Entry<M>>,
    /// No window starts before this time any more.
    watermark: Nanos,
    /// Running time that the video has reached.
    video: Nanos,
    /// No text may start before this time, because the pad has announced it by its output.
    said: Nanos,
    /// End of the last text.
    covered: Nanos,
    /// A segment is in force; without one no text has a place.
    placed: bool,
    /// The segment is new, so the peer does not know the stream's position.
    forgotten: bool,
    /// The output that follows the last one, if no other is due.
    more: Option<More>,
    /// The text that is shown now.
    shown: Option<String>,
    /// Start of the last text of this segment.
    last: Option<Nanos>,
    peer: Peer,
    /// Texts that a slow peer lost.
    pub(super) lost: u64,
}

impl<M> Timeline<M> {
    pub(super) fn new(placing: Placing) -> Self {
        Self {
            placing,
            entries: VecDeque::new(),
            watermark: 0,
            video: 0,
            said: 0,
            covered: 0,
            placed: false,
            forgotten: false,
            more: None,
            shown: None,
            last: None,
            peer: Peer::Sparse,
            lost: 0,
        }
    }

    /// How texts are placed from here on.
    pub(super) fn set_placing(&mut self, placing: Placing) {
        self.placing = placing;
    }

    /// Drops all entries and the state of the stream.
    pub(super) fn flush(&mut self) {
        *self = Self {
            lost: self.lost,
            ..Self::new(self.placing)
        };
    }

    /// The peer needs texts.
    pub(super) fn needs_text(&mut self) {
        self.peer = Peer::NeedsText;
    }

    /// Appends an event of the stream; `segment` is the running time at the start of a segment.
    pub(super) fn mark(&mut self, mark: M, segment: Option<Nanos>) {
        self.entries.push_back(Entry::Mark { mark, segment });
    }

    /// The video has reached this time.
    pub(super) fn video(&mut self, to: Nanos) {
        self.video = self.video.max(to);
    }

    /// No window starts before this time any more.
    pub(super) fn advance_watermark(&mut self, to: Nanos) {
        self.watermark = self.watermark.max(to);
    }

    /// A window opens, with these requests. Windows open in the order of their starts.
    pub(super) fn opened(&mut self, window: u64, requests: &[u64], start: Nanos) {
        self.advance_watermark(start);
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        self.entries
            .extend(requests.iter().map(|request| Entry::Request {
                id: RequestId {
                    window,
                    request: *request,
                },
                start,
                requests: count,
            }));
    }

    /// A request ended; `text` is its text and the end of its window. A request that was never
    /// opened here has no place, and none has one before the first segment, as for a new pad.
    pub(super) fn ended(&mut self, id: RequestId, text: Option<(String, Nanos)>) {
        let place = self
            .entries
            .iter()
            .position(|entry| matches!(entry, Entry::Request { id: other, .. } if *other == id));
        let opened = place.and_then(|place| Some((place, self.entries.remove(place)?)));
        let text = text.filter(|(text, _)| !text.is_empty());
        let Some((text, end)) = text else { return };
        match (self.placing, opened) {
            (Placing::Span, Some((place, Entry::Request { start, .. }))) => {
                self.entries.insert(place, Entry::Text { start, end, text });
            }
            (Placing::Span, _) => return,
            (Placing::Answer { .. }, _) if !self.has_segment() => return,
            (Placing::Answer { hold }, opened) => {
                let start = self.video.max(self.said);
                // The texts of a window share its time, or each would be later than the last.
                let share = match opened {
                    Some((_, Entry::Request { requests, .. })) => hold.checked_div(requests.into()),
                    _ => None,
                };
                let hold = share.unwrap_or(hold);
                let end = start.saturating_add(self.hold(hold));
                self.entries.push_back(Entry::Text { start, end, text });
            }
        }
        let texts = |entry: &Entry<M>| matches!(entry, Entry::Text { .. });
        if self.entries.iter().filter(|entry| texts(entry)).count() > MOST_WAITING
            && let Some(oldest) = self.entries.iter().position(texts)
        {
            self.entries.remove(oldest);
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Whether a segment is in force behind all entries.
    fn has_segment(&self) -> bool {
        let mut entries = self.entries.iter().rev();
        let last = entries.find_map(|entry| match entry {
            Entry::Mark { segment, .. } => Some(segment.is_some()),
            _ => None,
        });
        last.unwrap_or(self.placed)
    }

    /// How long a text lasts before it is repeated.
    fn hold(&self, hold: Nanos) -> Nanos {
        if self.peer > Peer::Sparse {
            hold.min(2 * LEAD)
        } else {
            hold
        }
    }

    /// Whether this stream may hold the video back: by requests, or because its last output has no
    /// successor.
    pub(super) fn waits(&self) -> bool {
        self.placing == Placing::Span || self.holds() || (self.placed && self.last.is_none())
    }

    /// Whether a muxer that is not sparse-aware may stay at the last text: if the video has reached
    /// it, or if the muxer took it ahead of the video, together with the text before.
    fn holds(&self) -> bool {
        let ahead = self.peer == Peer::Sparse;
        self.last.is_some_and(|last| ahead || last <= self.video)
    }

    /// The next output; `None` if the stream has to go on first.
    pub(super) fn next(&mut self, push: Push) -> Option<Out<M>> {
        let skip = match self.placing {
            Placing::Span => 0,
            // Requests have no place of their own, so nothing waits behind them.
            Placing::Answer { .. } => {
                let is_request = |entry: &Entry<M>| matches!(entry, Entry::Request { .. });
                self.entries
                    .iter()
                    .position(|entry| !is_request(entry))
                    .unwrap_or(self.entries.len())
            }
        };
        match self.entries.get(skip) {
            None | Some(Entry::Request { .. }) => {
                let stuck = push >= Push::Stuck;
                let more = self.more().or_else(|| self.preroll(push));
                let more = more.or_else(|| self.keep_ahead());
                let more = more.or_else(|| self.gap(stuck));
                more.or_else(|| self.release(push))
            }
            Some(_) => Some(match self.entries.remove(skip)? {
                Entry::Text { start, end, text } => self.say(start, end, text),
                Entry::Mark { mark, segment } => {
                    self.placed = segment.is_some();
                    self.forgotten = self.placed;
                    (self.last, self.more) = (None, None);
                    self.said = self.said.max(segment.unwrap_or(0));
                    Out::Mark(mark)
                }
                Entry::Request { .. } => return None,
            }),
        }
    }

    fn say(&mut self, start: Nanos, end: Nanos, text: String) -> Out<M> {
        let (place, mut length) = (start, end.saturating_sub(start));
        let start = place.max(self.said);
        if start > place && self.placing == Placing::Span {
            // A video that was stuck went on without this text. It is late and lasts about as long,
            // less the GAP that may have to follow it, or each text would be later than the last.
            length = length.saturating_sub(LEAST_GAP).max(LEAST_GAP);
        }
        let end = start.saturating_add(length);
        self.last = Some(start);
        self.covered = self.covered.max(end);
        self.forgotten = false;
        self.said = match self.placing {
            Placing::Answer { .. } => end,
            // Windows may overlap: the next text may start before this one ends.
            Placing::Span => start,
        };
        if let Placing::Answer { .. } = self.placing {
            self.shown = Some(text.clone());
        }
        let more = match self.placing {
            Placing::Span if !text.is_empty() => More::Text,
            _ => More::Gap(start, end),
        };
        self.more = (self.peer == Peer::StaysAtText).then_some(more);
        Out::Text { start, end, text }
    }

    /// The output that has to follow the last one.
    fn more(&mut self) -> Option<Out<M>> {
        Some(match self.more.take()? {
            More::Gap(start, end) => {
                (self.said, self.forgotten) = (self.said.max(end), false);
                Out::Gap { start, end }
            }
            More::Text => self.say_nothing(),
        })
    }

    /// An empty GAP to preroll with, which announces no time.
    fn preroll(&mut self, push: Push) -> Option<Out<M>> {
        let first = self.forgotten && self.placing == Placing::Span && self.peer != Peer::NeedsText;
        (push == Push::Preroll && first).then(|| {
            self.forgotten = false;
            let (start, end) = (self.said, self.said);
            Out::Gap { start, end }
        })
    }

    /// Another text, if only that lets the video go on.
    fn release(&mut self, push: Push) -> Option<Out<M>> {
        if self.peer == Peer::NeedsText && self.last.is_none() && push >= Push::Stuck && self.placed
        {
            return Some(self.say_nothing());
        }
        if push < Push::StillStuck || !self.placed {
            return None;
        }
        if self.peer == Peer::Sparse && self.last.is_some() {
            self.peer = Peer::StaysAtText;
            return Some(self.say_nothing());
        }
        // Neither a GAP nor an output behind the last text has helped.
        let behind = self.last.is_none_or(|last| last <= self.video);
        (self.peer < Peer::NeedsText && behind).then(|| {
            self.peer = Peer::NeedsText;
            self.say_nothing()
        })
    }

    /// A text ahead of the video, for a peer that needs texts.
    fn keep_ahead(&mut self) -> Option<Out<M>> {
        self.falls_behind().then(|| self.say_nothing())
    }

    /// Whether the video has passed the last text of a peer that needs texts. Not earlier, because
    /// held video comes together with its text; before the first text the video has to be stuck.
    fn falls_behind(&self) -> bool {
        let behind = self.last.is_some_and(|last| last < self.video);
        self.placed && self.peer == Peer::NeedsText && behind
    }

    /// A text without news: the one that is shown, or an empty one.
    fn say_nothing(&mut self) -> Out<M> {
        let mut start = self.said.max(self.covered);
        if self.peer == Peer::NeedsText {
            start = start.max(self.video.saturating_add(LEAD));
        }
        match (self.placing, self.shown.clone()) {
            (Placing::Answer { hold }, Some(text)) => {
                self.say(start, start.saturating_add(self.hold(hold)), text)
            }
            _ => self.say(start, start.saturating_add(LEAST_GAP), String::new()),
        }
    }

    /// The end of the next GAP, or of the repeated text, if it is long enough to be worth an event.
    fn gap_end(&self, stuck: bool) -> Option<Nanos> {
        if self.peer == Peer::NeedsText {
            return None;
        }
        let to = match self.placing {
            // A peer that reads a GAP at its start and needs more behind it gets a little more.
            Placing::Answer { .. } if stuck => self.video.saturating_add(LEAD + LEAST_GAP),
            Placing::Answer { .. } => self.video.saturating_add(LEAD),
            Placing::Span if stuck => self.video.saturating_add(LEAD),
            Placing::Span => match self.entries.front() {
                Some(Entry::Request { start, .. }) => *start,
                _ => self.watermark,
            },
        };
        let least = self.silent_from(stuck).saturating_add(LEAST_GAP);
        let free = self.placing != Placing::Span && !self.holds();
        let repeat = self.forgotten && (stuck || free);
        match self.placed {
            true if repeat => Some(to.max(least)),
            true if to >= least => Some(to),
            _ => None,
        }
    }

    /// Start of the next GAP: behind the last text, unless the video is stuck behind that too.
    fn silent_from(&self, stuck: bool) -> Nanos {
        if stuck && self.placing == Placing::Span {
            self.said
        } else {
            self.said.max(self.covered)
        }
    }

    /// Whether the video has gone on so far that an output is due.
    pub(super) fn due(&self) -> bool {
        self.falls_behind() || self.gap_end(false).is_some()
    }

    fn gap(&mut self, stuck: bool) -> Option<Out<M>> {
        let start = self.silent_from(stuck);
        let to = self.gap_end(stuck)?;
        if let (Placing::Answer { hold }, Some(text)) = (self.placing, self.shown.clone()) {
            let start = start.max(self.video);
            let hold = hold.min(2 * LEAD);
            return Some(self.say(start, start.saturating_add(hold), text));
        }
        // Some peers read a GAP at its start only, and need another one at its end.
        self.more = stuck.then_some(More::Gap(to, to.saturating_add(LEAST_GAP)));
        (self.said, self.forgotten) = (to, false);
        Some(Out::Gap { start, end: to })
    }
}

#[cfg(test)]
mod tests;

//! What goes out on the text pad, and when. Pure: running times in nanoseconds, no pads, no clock.

use std::collections::VecDeque;

use crate::message::RequestId;

/// Running time in nanoseconds.
type Nanos = u64;

/// How far ahead of the video the text stream says what it holds, so that an overlay that waits
/// for text never waits.
const LEAD: Nanos = 500_000_000;
/// GAPs shorter than this are not worth an event.
const LEAST_GAP: Nanos = 100_000_000;
/// Texts that wait for a slow peer; beyond that the oldest are lost.
const MOST_WAITING: usize = 64;

/// Where a text stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qwenvl) enum Placing {
    /// From the video's position when the answer is there, until the next one.
    Answer {
        /// Distance of windows: how long the texts of one stand before the last is said again.
        hold: Nanos,
    },
    /// Where the described window is.
    Span,
}

/// How the push of video goes that began last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Push {
    /// It may return at any moment.
    Free,
    /// The pipeline is not playing yet: the peer needs something to preroll with.
    Preroll,
    /// It does not return: a muxer holds the video back until it knows what text there is. A window
    /// that has no text yet no longer holds this stream back.
    Stuck,
    /// Nor has it after a GAP: the muxer is not sparse-aware. It stays at the text that it has until
    /// it has the next one, so it is given one.
    StillStuck,
}

/// What the peer needs to let the video go on, as far as it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    /// GAPs: it is sparse-aware.
    Sparse,
    /// It stays at a text until something lies behind it, so something follows at once (`qtmux`).
    StaysAtText,
    /// Texts: it looks at no GAP, and lets no video go past the last text (`splitmuxsink`, which GAPs
    /// can even stop for good: where a muxer's file ends while its text stands at one, GStreamer 1.22
    /// may tell the next file's muxer that the text has ended).
    NeedsText,
}

/// What comes next on the pad.
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

/// What must lie behind the last thing for a muxer that is not sparse-aware.
#[derive(Debug)]
enum More {
    /// A GAP.
    Gap(Nanos, Nanos),
    /// A text, although there is nothing to say.
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
    /// One that has.
    Text {
        start: Nanos,
        end: Nanos,
        text: String,
    },
    Mark {
        mark: M,
        /// Where the segment begins, if this is one.
        segment: Option<Nanos>,
    },
}

/// The text stream so far. `M` are the stream's events, which keep their place among the texts.
#[derive(Debug)]
pub(super) struct Timeline<M> {
    placing: Placing,
    /// In the order of the stream; what stands behind an unended request waits, if texts stand
    /// where their windows are.
    entries: VecDeque<Entry<M>>,
    /// No window starts before this time any more.
    watermark: Nanos,
    /// Running time that the video has reached.
    video: Nanos,
    /// No text will start before this time: the pad has said so.
    said: Nanos,
    /// End of the last text.
    covered: Nanos,
    /// A segment is in force: without one nothing has a place.
    placed: bool,
    /// The segment is new, so the peer has forgotten how far the stream is.
    forgotten: bool,
    /// What is due, if nothing else is.
    more: Option<More>,
    /// The text on show.
    shown: Option<String>,
    /// Where the last text of this segment starts.
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

    /// From here on texts are placed like this.
    pub(super) fn set_placing(&mut self, placing: Placing) {
        self.placing = placing;
    }

    /// Forgets the stream.
    pub(super) fn flush(&mut self) {
        *self = Self {
            lost: self.lost,
            ..Self::new(self.placing)
        };
    }

    /// The peer is known: it needs texts.
    pub(super) fn needs_text(&mut self) {
        self.peer = Peer::NeedsText;
    }

    /// An event of the stream; if it is a segment, where that begins.
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

    /// A request ended: its text and where its window ends, if it has a text. One that was never
    /// opened here has no place of its own, and none has one before the first segment, where a
    /// worker may be ahead of a pad that is new.
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
                // The texts of a window share its time, or each would come later than the one before.
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

    /// Whether a segment is in force behind all that has been told so far.
    fn has_segment(&self) -> bool {
        let mut entries = self.entries.iter().rev();
        let last = entries.find_map(|entry| match entry {
            Entry::Mark { segment, .. } => Some(segment.is_some()),
            _ => None,
        });
        last.unwrap_or(self.placed)
    }

    /// How long a text stands before it is said again.
    fn hold(&self, hold: Nanos) -> Nanos {
        if self.peer > Peer::Sparse {
            hold.min(2 * LEAD)
        } else {
            hold
        }
    }

    /// Whether this stream may hold the video back: by requests, or by what it said last for lack of
    /// more.
    pub(super) fn waits(&self) -> bool {
        self.placing == Placing::Span || self.holds() || (self.placed && self.last.is_none())
    }

    /// Whether a muxer that is not sparse-aware may stay at the last text: if the video has come to
    /// it, or if it took it ahead of the video together with the one before, which a text without
    /// anything behind it makes it do.
    fn holds(&self) -> bool {
        let ahead = self.peer == Peer::Sparse;
        self.last.is_some_and(|last| ahead || last <= self.video)
    }

    /// What to push now; nothing if the stream has to go on first.
    pub(super) fn next(&mut self, push: Push) -> Option<Out<M>> {
        let skip = match self.placing {
            Placing::Span => 0,
            // Requests have no place of their own, and hold nothing back.
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
            // A video that was stuck did not wait: its text is late, and stands about as long. Less by
            // what may have to be put behind it, or each would be later than the one before.
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

    /// What is due because of what was said last.
    fn more(&mut self) -> Option<Out<M>> {
        Some(match self.more.take()? {
            More::Gap(start, end) => {
                (self.said, self.forgotten) = (self.said.max(end), false);
                Out::Gap { start, end }
            }
            More::Text => self.say_nothing(),
        })
    }

    /// Something to preroll with, which says nothing of what follows.
    fn preroll(&mut self, push: Push) -> Option<Out<M>> {
        let first = self.forgotten && self.placing == Placing::Span && self.peer != Peer::NeedsText;
        (push == Push::Preroll && first).then(|| {
            self.forgotten = false;
            let (start, end) = (self.said, self.said);
            Out::Gap { start, end }
        })
    }

    /// Lets a video go on that only another text sets free.
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
        // Neither a GAP nor what lies behind the last text has helped.
        let behind = self.last.is_none_or(|last| last <= self.video);
        (self.peer < Peer::NeedsText && behind).then(|| {
            self.peer = Peer::NeedsText;
            self.say_nothing()
        })
    }

    /// For a peer that needs texts: one that lies ahead of the video.
    fn keep_ahead(&mut self) -> Option<Out<M>> {
        self.falls_behind().then(|| self.say_nothing())
    }

    /// Not before the video has gone past the last text: held video comes to the next one together with
    /// it. Before the first text it may go on for a while, and has to be stuck.
    fn falls_behind(&self) -> bool {
        let behind = self.last.is_some_and(|last| last < self.video);
        self.placed && self.peer == Peer::NeedsText && behind
    }

    /// A text that tells nothing new: the one on show, or an empty one.
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

    /// Up to where a GAP or the text on show goes on, if that is worth saying.
    fn gap_end(&self, stuck: bool) -> Option<Nanos> {
        if self.peer == Peer::NeedsText {
            return None;
        }
        let to = match self.placing {
            // Whoever reads a GAP where it starts, and needs more behind it, gets a little more.
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

    /// Where the next GAP starts: behind the last text, unless the video is stuck behind that too.
    fn silent_from(&self, stuck: bool) -> Nanos {
        if stuck && self.placing == Placing::Span {
            self.said
        } else {
            self.said.max(self.covered)
        }
    }

    /// Whether the video has come so far that there is something to say.
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
        // Some read only where one starts.
        self.more = stuck.then_some(More::Gap(to, to.saturating_add(LEAST_GAP)));
        (self.said, self.forgotten) = (to, false);
        Some(Out::Gap { start, end: to })
    }
}

#[cfg(test)]
mod tests;

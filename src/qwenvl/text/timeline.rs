//! What goes out on the text pad, and when. Pure: running times in nanoseconds, no pads, no clock.

use std::collections::VecDeque;

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
        /// Distance of windows: how long a text stands before it is said again.
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
    /// It does not return: a muxer holds the video back until it knows what text there is. A window
    /// that has no text yet no longer holds this stream back.
    Stuck,
    /// Nor has it after a GAP: the muxer is not sparse-aware. It stays at the text that it has until
    /// it has the next one, so it is given one.
    StillStuck,
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
    /// A window that has not ended.
    Window { id: u64, start: Nanos },
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
    /// In the order of the stream; what stands behind an unended window waits, if texts stand where
    /// their windows are.
    entries: VecDeque<Entry<M>>,
    /// No window starts before this time any more.
    decided: Nanos,
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
    /// The peer stays at a text until something lies behind it, so something follows at once.
    hurried: bool,
    /// Texts that a slow peer lost.
    pub(super) lost: u64,
}

impl<M> Timeline<M> {
    pub(super) fn new(placing: Placing) -> Self {
        Self {
            placing,
            entries: VecDeque::new(),
            decided: 0,
            video: 0,
            said: 0,
            covered: 0,
            placed: false,
            forgotten: false,
            more: None,
            shown: None,
            last: None,
            hurried: false,
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

    /// An event of the stream; if it is a segment, where that begins.
    pub(super) fn mark(&mut self, mark: M, segment: Option<Nanos>) {
        self.entries.push_back(Entry::Mark { mark, segment });
    }

    /// The video has reached this time.
    pub(super) fn video(&mut self, to: Nanos) {
        self.video = self.video.max(to);
    }

    /// No window starts before this time any more.
    pub(super) fn decided(&mut self, to: Nanos) {
        self.decided = self.decided.max(to);
    }

    /// A window opens. Windows open in the order of their starts.
    pub(super) fn opened(&mut self, id: u64, start: Nanos) {
        self.decided(start);
        self.entries.push_back(Entry::Window { id, start });
    }

    /// A window ended: its text and where it ends, if it has one. One that was never opened here
    /// has no place of its own, and none has one before the first segment, where a worker may be ahead
    /// of a pad that is new.
    pub(super) fn ended(&mut self, id: u64, text: Option<(String, Nanos)>) {
        let place = self
            .entries
            .iter()
            .position(|entry| matches!(entry, Entry::Window { id: other, .. } if *other == id));
        let window = place.and_then(|place| Some((place, self.entries.remove(place)?)));
        let text = text.filter(|(text, _)| !text.is_empty());
        let Some((text, end)) = text else { return };
        match (self.placing, window) {
            (Placing::Span, Some((place, Entry::Window { start, .. }))) => {
                self.entries.insert(place, Entry::Text { start, end, text });
            }
            (Placing::Span, _) => return,
            (Placing::Answer { .. }, _) if !self.has_segment() => return,
            (Placing::Answer { hold }, _) => {
                let start = self.video.max(self.said);
                let end = start + self.hold(hold);
                self.entries.push_back(Entry::Text { start, end, text });
            }
        }
        let texts = |entry: &Entry<M>| matches!(entry, Entry::Text { .. });
        if self.entries.iter().filter(|entry| texts(entry)).count() > MOST_WAITING
            && let Some(oldest) = self.entries.iter().position(texts)
        {
            self.entries.remove(oldest);
            self.lost += 1;
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
        if self.hurried {
            hold.min(2 * LEAD)
        } else {
            hold
        }
    }

    /// Whether this stream may hold the video back: by windows, or by what it said last for lack of
    /// more.
    pub(super) fn waits(&self) -> bool {
        self.placing == Placing::Span || self.holds() || (self.placed && self.last.is_none())
    }

    /// Whether a muxer that is not sparse-aware may stay at the last text: if the video has come to
    /// it, or if it took it ahead of the video together with the one before, which a text without
    /// anything behind it makes it do.
    fn holds(&self) -> bool {
        let ahead = !self.hurried;
        self.last.is_some_and(|last| ahead || last <= self.video)
    }

    /// What to push now; nothing if the stream has to go on first.
    pub(super) fn next(&mut self, push: Push) -> Option<Out<M>> {
        let skip = match self.placing {
            Placing::Span => 0,
            // Windows have no place of their own, and hold nothing back.
            Placing::Answer { .. } => {
                let is_window = |entry: &Entry<M>| matches!(entry, Entry::Window { .. });
                self.entries
                    .iter()
                    .position(|entry| !is_window(entry))
                    .unwrap_or(self.entries.len())
            }
        };
        match self.entries.get(skip) {
            None | Some(Entry::Window { .. }) => {
                let stuck = push >= Push::Stuck;
                let more = self.more().or_else(|| self.gap(stuck));
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
                Entry::Window { .. } => return None,
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
        let end = start + length;
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
        self.more = self.hurried.then_some(more);
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

    /// Lets a video go on that only another text sets free.
    fn release(&mut self, push: Push) -> Option<Out<M>> {
        (push == Push::StillStuck && self.holds()).then(|| {
            self.hurried = true;
            self.say_nothing()
        })
    }

    /// A text that tells nothing new: the one on show, or an empty one.
    fn say_nothing(&mut self) -> Out<M> {
        let start = self.said.max(self.covered);
        match (self.placing, self.shown.clone()) {
            (Placing::Answer { hold }, Some(text)) => {
                self.say(start, start + self.hold(hold), text)
            }
            _ => self.say(start, start + LEAST_GAP, String::new()),
        }
    }

    /// Up to where a GAP or the text on show goes on, if that is worth saying.
    fn gap_end(&self, stuck: bool) -> Option<Nanos> {
        let to = match self.placing {
            // Whoever reads a GAP where it starts, and needs more behind it, gets a little more.
            Placing::Answer { .. } if stuck => self.video + LEAD + LEAST_GAP,
            Placing::Answer { .. } => self.video + LEAD,
            Placing::Span if stuck => self.video + LEAD,
            Placing::Span => match self.entries.front() {
                Some(Entry::Window { start, .. }) => *start,
                _ => self.decided,
            },
        };
        let least = self.silent_from(stuck) + LEAST_GAP;
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
        self.gap_end(false).is_some()
    }

    fn gap(&mut self, stuck: bool) -> Option<Out<M>> {
        let start = self.silent_from(stuck);
        let to = self.gap_end(stuck)?;
        if let (Placing::Answer { hold }, Some(text)) = (self.placing, self.shown.clone()) {
            let start = start.max(self.video);
            let hold = hold.min(2 * LEAD);
            return Some(self.say(start, start + hold, text));
        }
        // Some read only where one starts.
        self.more = stuck.then_some(More::Gap(to, to + LEAST_GAP));
        (self.said, self.forgotten) = (to, false);
        Some(Out::Gap { start, end: to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const ANSWER: Placing = Placing::Answer { hold: 4 * SECOND };

    fn all(timeline: &mut Timeline<&'static str>) -> Vec<Out<&'static str>> {
        std::iter::from_fn(|| timeline.next(Push::Free)).collect()
    }

    fn text(start: Nanos, end: Nanos, text: &str) -> Out<&'static str> {
        let text = text.into();
        Out::Text { start, end, text }
    }

    #[test]
    fn spans_come_in_order_and_gaps_stop_at_the_oldest_window() {
        let mut t = Timeline::new(Placing::Span);
        t.mark("segment", Some(0));
        t.opened(0, 0);
        t.opened(1, 4 * SECOND);
        t.opened(2, 8 * SECOND);
        t.decided(9 * SECOND);
        assert_eq!(all(&mut t), [Out::Mark("segment")]);
        t.ended(1, Some(("second".into(), 8 * SECOND)));
        t.mark("eos", None);
        assert_eq!(all(&mut t), []);
        t.ended(0, None);
        assert_eq!(
            all(&mut t),
            [text(4 * SECOND, 8 * SECOND, "second")],
            "the next window starts where this one ends: there is no gap to say"
        );
        t.ended(2, None);
        assert_eq!(all(&mut t), [Out::Mark("eos")]);
    }

    #[test]
    fn a_stuck_video_gets_its_gap_and_the_text_is_late() {
        let mut t = Timeline::new(Placing::Span);
        t.mark("segment", Some(0));
        assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
        t.opened(0, 0);
        t.video(2 * SECOND);
        assert_eq!(t.next(Push::Free), None);
        assert!(t.waits());
        let end = 2 * SECOND + LEAD;
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start: 0, end }));
        let (start, end) = (end, end + LEAST_GAP);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        assert_eq!(t.next(Push::Stuck), None);
        t.ended(0, Some(("late".into(), 4 * SECOND)));
        assert_eq!(
            t.next(Push::Free),
            Some(text(end, end + 4 * SECOND - LEAST_GAP, "late"))
        );
        // Stuck again, behind that text: it too is followed by two GAPs.
        t.opened(1, 4 * SECOND);
        t.video(8 * SECOND);
        let (start, end) = (end, 8 * SECOND + LEAD);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        let (start, end) = (end, end + LEAST_GAP);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
    }

    #[test]
    fn a_live_text_follows_the_last_one_although_the_video_is_stuck() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        t.ended(0, Some(("one".into(), 0)));
        let one = text(0, 4 * SECOND, "one");
        assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
        t.video(3 * SECOND);
        assert_eq!(t.next(Push::Stuck), None, "it still stands");
    }

    #[test]
    fn a_muxer_that_stays_at_a_text_gets_another_one() {
        let mut t = Timeline::new(Placing::Span);
        t.mark("segment", Some(0));
        t.opened(0, 0);
        t.opened(1, 4 * SECOND);
        t.ended(0, Some(("one".into(), 4 * SECOND)));
        let one = text(0, 4 * SECOND, "one");
        assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
        let (start, end) = (0, 2 * SECOND + LEAD);
        t.video(2 * SECOND);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        let (start, end) = (end, end + LEAST_GAP);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        assert_eq!(t.next(Push::Stuck), None);
        // An empty text, and something behind it.
        let (start, end) = (4 * SECOND, 4 * SECOND + LEAST_GAP);
        assert_eq!(t.next(Push::StillStuck), Some(text(start, end, "")));
        assert_eq!(t.next(Push::StillStuck), Some(Out::Gap { start, end }));
        assert_eq!(t.next(Push::StillStuck), None);
        // From then on at once, and the texts get no later than that.
        for id in 1..20 {
            t.opened(id + 1, (id + 1) * 4 * SECOND);
            t.ended(id, Some(("next".into(), (id + 1) * 4 * SECOND)));
            let (start, end) = (id * 4 * SECOND + LEAST_GAP, (id + 1) * 4 * SECOND);
            let next = text(start, end, "next");
            let (start, end) = (end, end + LEAST_GAP);
            let nothing = text(start, end, "");
            assert_eq!(all(&mut t), [next, nothing, Out::Gap { start, end }]);
        }
    }

    #[test]
    fn for_such_a_muxer_live_texts_are_short() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        t.ended(0, Some(("one".into(), 0)));
        let one = text(0, 4 * SECOND, "one");
        assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
        assert!(t.waits(), "the video is where the text is");
        let (start, end) = (4 * SECOND, 5 * SECOND);
        let again = text(start, end, "one");
        assert_eq!(t.next(Push::StillStuck), Some(again));
        assert_eq!(t.next(Push::StillStuck), Some(Out::Gap { start, end }));
        assert!(!t.waits(), "the video is before the text");
        assert_eq!(t.next(Push::StillStuck), None);
        t.ended(1, Some(("two".into(), 0)));
        let (start, end) = (5 * SECOND, 6 * SECOND);
        assert_eq!(
            all(&mut t),
            [text(start, end, "two"), Out::Gap { start, end }]
        );
    }

    /// It reads a GAP where that starts, and the video cannot come to where the next one would be due.
    #[test]
    fn such_a_muxer_may_stay_at_a_long_gap() {
        let mut t = Timeline::new(ANSWER);
        assert!(!t.waits(), "nothing has been said");
        t.mark("segment", Some(0));
        t.video(6 * SECOND);
        let (start, end) = (0, 6 * SECOND + LEAD);
        assert_eq!(all(&mut t), [Out::Mark("segment"), Out::Gap { start, end }]);
        assert!(t.waits());
        let (start, end) = (end, end + LEAST_GAP);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        let (start, end) = (end, end + LEAST_GAP);
        assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
        assert_eq!(t.next(Push::Stuck), None);
        assert_eq!(t.next(Push::StillStuck), None);
    }

    /// It has taken both, as its turn at this stream lasts, and waits for a third.
    #[test]
    fn such_a_muxer_may_be_ahead_of_the_video() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        t.video(6 * SECOND);
        t.ended(0, Some(("one".into(), 0)));
        t.ended(1, Some(("two".into(), 0)));
        assert_eq!(all(&mut t).len(), 3);
        assert_eq!(t.last, Some(10 * SECOND));
        assert!(t.waits());
        assert_eq!(t.next(Push::Stuck), None);
        let (start, end) = (14 * SECOND, 15 * SECOND);
        let again = text(start, end, "two");
        assert_eq!(t.next(Push::StillStuck), Some(again));
        assert_eq!(t.next(Push::StillStuck), Some(Out::Gap { start, end }));
        assert!(!t.waits(), "each text has something behind it now");
        assert_eq!(t.next(Push::StillStuck), None);
    }

    #[test]
    fn a_span_that_has_no_window_is_a_gap() {
        let mut t = Timeline::new(Placing::Span);
        t.mark("segment", Some(0));
        t.decided(2 * SECOND);
        let (start, end) = (0, 2 * SECOND);
        assert_eq!(all(&mut t), [Out::Mark("segment"), Out::Gap { start, end }]);
    }

    #[test]
    fn after_another_segment_the_peer_is_told_again() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        assert_eq!(all(&mut t).len(), 2);
        t.mark("again", Some(0));
        let (start, end) = (LEAD, LEAD + LEAST_GAP);
        assert_eq!(all(&mut t), [Out::Mark("again"), Out::Gap { start, end }]);
    }

    #[test]
    fn something_is_due_when_the_video_has_gone_on() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        assert!(!t.due(), "nothing has a place");
        assert_eq!(all(&mut t).len(), 2);
        assert!(!t.due());
        t.video(LEAST_GAP);
        assert!(t.due());
    }

    #[test]
    fn a_flush_forgets_all_but_the_count_of_what_is_lost() {
        let mut t = Timeline::new(Placing::Span);
        t.set_placing(ANSWER);
        t.mark("segment", Some(0));
        for id in 0..=MOST_WAITING as u64 {
            t.ended(id, Some((id.to_string(), 0)));
        }
        t.flush();
        assert_eq!((all(&mut t), t.lost), (vec![], 1));
        assert!(!t.waits(), "texts still stand where they stood");
    }

    #[test]
    fn an_answer_starts_at_the_video_and_is_said_again_until_the_next() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        t.video(5 * SECOND);
        let end = 5 * SECOND + LEAD;
        assert_eq!(
            all(&mut t),
            [Out::Mark("segment"), Out::Gap { start: 0, end }]
        );
        t.opened(0, SECOND);
        t.ended(0, Some(("one".into(), 5 * SECOND)));
        assert_eq!(all(&mut t), [text(end, end + 4 * SECOND, "one")]);
        t.video(9 * SECOND);
        assert_eq!(t.next(Push::Free), None, "it still stands");
        t.video(10 * SECOND);
        let next = end + 4 * SECOND;
        let again = 10 * SECOND;
        assert_eq!(all(&mut t), [text(again, again + SECOND, "one")]);
        t.ended(1, Some(("two".into(), 9 * SECOND)));
        let start = again + SECOND;
        assert_eq!(all(&mut t), [text(start, start + 4 * SECOND, "two")]);
        assert!(next < again);
    }

    #[test]
    fn a_peer_that_takes_nothing_costs_the_oldest_texts() {
        let mut t = Timeline::new(ANSWER);
        t.mark("segment", Some(0));
        for id in 0..MOST_WAITING as u64 + 3 {
            t.ended(id, Some((id.to_string(), 0)));
        }
        assert_eq!(t.lost, 3);
        assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
        assert!(matches!(t.next(Push::Free), Some(Out::Text { text, .. }) if text == "3"));
    }

    #[test]
    fn outside_of_a_segment_a_text_has_no_place() {
        let one = || Some(("one".into(), 0));
        let mut t = Timeline::new(ANSWER);
        t.ended(0, one());
        t.mark("segment", Some(0));
        t.ended(1, one());
        let texts = |out: Vec<_>| {
            out.into_iter()
                .filter(|out| matches!(out, Out::Text { .. }))
                .count()
        };
        assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
        assert_eq!(texts(all(&mut t)), 1);
        t.ended(2, one());
        assert_eq!(texts(all(&mut t)), 1);
        t.mark("eos", None);
        t.ended(3, one());
        assert_eq!(all(&mut t), [Out::Mark("eos")]);
        t.ended(4, one());
        assert_eq!(all(&mut t), []);
    }

    proptest::proptest! {
        /// Whatever the order of answers: texts and gaps go forward, each text comes once, at its
        /// window, in the order of the windows.
        #[test]
        fn spans_keep_their_order(
            order in proptest::collection::vec((0usize..6, proptest::bool::ANY), 0..40),
            stride in 1u64..5,
        ) {
            let (stride, length) = (stride * SECOND, 4 * SECOND);
            let mut t = Timeline::<()>::new(Placing::Span);
            let (mut open, mut id, mut told) = (Vec::new(), 0, Vec::new());
            let (mut out, mut said) = (Vec::new(), 0);
            let mut take = |t: &mut Timeline<()>, out: &mut Vec<u64>| {
                while let Some(next) = t.next(Push::Free) {
                    match next {
                        Out::Text { start, end, text } => {
                            let id: u64 = text.parse().expect("a number");
                            assert_eq!((start, end), (id * stride, id * stride + length));
                            assert!(start >= said);
                            said = start;
                            out.push(id);
                        }
                        Out::Gap { start, end } => {
                            assert!(start >= said && end > start);
                            said = end;
                        }
                        Out::Mark(()) => {}
                    }
                }
            };
            for (which, answered) in order {
                if open.len() < 3 {
                    t.opened(id, id * stride);
                    open.push(id);
                    id += 1;
                } else {
                    let window = open.remove(which % open.len());
                    if answered { told.push(window); }
                    t.ended(window, answered.then(|| (window.to_string(), window * stride + length)));
                }
                take(&mut t, &mut out);
            }
            for window in open {
                t.ended(window, None);
            }
            take(&mut t, &mut out);
            told.sort_unstable();
            proptest::prop_assert_eq!(out, told);
        }
    }
}

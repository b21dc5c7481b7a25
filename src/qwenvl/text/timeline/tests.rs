use super::*;

const SECOND: Nanos = 1_000_000_000;
const ANSWER: Placing = Placing::Answer { hold: 4 * SECOND };

fn all(timeline: &mut Timeline<&'static str>) -> Vec<Out<&'static str>> {
    std::iter::from_fn(|| timeline.next(Push::Free)).collect()
}

fn request(window: u64, request: u64) -> RequestId {
    RequestId { window, request }
}

/// The only request of a window.
fn only(window: u64) -> RequestId {
    request(window, 0)
}

fn text(start: Nanos, end: Nanos, text: &str) -> Out<&'static str> {
    let text = text.into();
    Out::Text { start, end, text }
}

#[test]
fn spans_come_in_order_and_gaps_stop_at_the_oldest_window() {
    let mut t = Timeline::new(Placing::Span);
    t.mark("segment", Some(0));
    t.opened(0, &[0], 0);
    t.opened(1, &[0], 4 * SECOND);
    t.opened(2, &[0], 8 * SECOND);
    t.advance_watermark(9 * SECOND);
    assert_eq!(all(&mut t), [Out::Mark("segment")]);
    t.ended(only(1), Some(("second".into(), 8 * SECOND)));
    t.mark("eos", None);
    assert_eq!(all(&mut t), []);
    t.ended(only(0), None);
    assert_eq!(
        all(&mut t),
        [text(4 * SECOND, 8 * SECOND, "second")],
        "the next window starts where this one ends: there is no gap to say"
    );
    t.ended(only(2), None);
    assert_eq!(all(&mut t), [Out::Mark("eos")]);
}

#[test]
fn a_window_has_a_text_for_each_request_in_their_order() {
    let mut t = Timeline::new(Placing::Span);
    t.mark("segment", Some(0));
    t.opened(0, &[0, 1, 2], 0);
    t.opened(1, &[3, 4], 4 * SECOND);
    t.advance_watermark(9 * SECOND);
    assert_eq!(all(&mut t), [Out::Mark("segment")]);
    let end = 4 * SECOND;
    t.ended(request(0, 2), Some(("third".into(), end)));
    t.ended(request(1, 3), None);
    t.ended(request(0, 1), None);
    assert_eq!(all(&mut t), [], "the first has not ended");
    t.ended(request(0, 0), Some(("first".into(), end)));
    let texts = [text(0, end, "first"), text(0, end, "third")];
    assert_eq!(all(&mut t), texts);
    t.ended(request(1, 4), Some(("last".into(), 8 * SECOND)));
    assert_eq!(all(&mut t)[0], text(end, 8 * SECOND, "last"));
}

#[test]
fn the_live_texts_of_a_window_share_its_time() {
    let mut t = Timeline::new(ANSWER);
    t.mark("segment", Some(0));
    assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
    for window in 0..3 {
        let start = window * 4 * SECOND;
        t.video(start);
        t.opened(window, &[0, 1], start);
        t.ended(request(window, 0), Some(("one".into(), start)));
        t.ended(request(window, 1), Some(("two".into(), start)));
        let half = start + 2 * SECOND;
        let one = text(start, half, "one");
        assert_eq!(all(&mut t), [one, text(half, half + 2 * SECOND, "two")]);
    }
}

#[test]
fn a_stuck_video_gets_its_gap_and_the_text_is_late() {
    let mut t = Timeline::new(Placing::Span);
    t.mark("segment", Some(0));
    assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
    t.opened(0, &[0], 0);
    t.video(2 * SECOND);
    assert_eq!(t.next(Push::Free), None);
    assert!(t.waits());
    let end = 2 * SECOND + LEAD;
    assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start: 0, end }));
    let (start, end) = (end, end + LEAST_GAP);
    assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
    assert_eq!(t.next(Push::Stuck), None);
    t.ended(only(0), Some(("late".into(), 4 * SECOND)));
    assert_eq!(
        t.next(Push::Free),
        Some(text(end, end + 4 * SECOND - LEAST_GAP, "late"))
    );
    // Stuck again, behind that text: it too is followed by two GAPs.
    t.opened(1, &[0], 4 * SECOND);
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
    t.ended(only(0), Some(("one".into(), 0)));
    let one = text(0, 4 * SECOND, "one");
    assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
    t.video(3 * SECOND);
    assert_eq!(t.next(Push::Stuck), None, "it still stands");
}

#[test]
fn a_muxer_that_stays_at_a_text_gets_another_one() {
    let mut t = Timeline::new(Placing::Span);
    t.mark("segment", Some(0));
    t.opened(0, &[0], 0);
    t.opened(1, &[0], 4 * SECOND);
    t.ended(only(0), Some(("one".into(), 4 * SECOND)));
    let one = text(0, 4 * SECOND, "one");
    assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
    let (start, end) = (0, 2 * SECOND + LEAD);
    t.video(2 * SECOND);
    assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
    let (start, end) = (end, end + LEAST_GAP);
    assert_eq!(t.next(Push::Stuck), Some(Out::Gap { start, end }));
    assert_eq!(t.next(Push::Stuck), None);
    // An empty text, and a GAP or text behind it.
    let (start, end) = (4 * SECOND, 4 * SECOND + LEAST_GAP);
    assert_eq!(t.next(Push::StillStuck), Some(text(start, end, "")));
    assert_eq!(t.next(Push::StillStuck), Some(Out::Gap { start, end }));
    assert_eq!(t.next(Push::StillStuck), None);
    // From then on at once, and the texts are not later than that.
    for id in 1..20 {
        t.opened(id + 1, &[0], (id + 1) * 4 * SECOND);
        t.ended(only(id), Some(("next".into(), (id + 1) * 4 * SECOND)));
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
    t.ended(only(0), Some(("one".into(), 0)));
    let one = text(0, 4 * SECOND, "one");
    assert_eq!(all(&mut t), [Out::Mark("segment"), one]);
    assert!(t.waits(), "the video is where the text is");
    let (start, end) = (4 * SECOND, 5 * SECOND);
    let again = text(start, end, "one");
    assert_eq!(t.next(Push::StillStuck), Some(again));
    assert_eq!(t.next(Push::StillStuck), Some(Out::Gap { start, end }));
    assert!(!t.waits(), "the video is before the text");
    assert_eq!(t.next(Push::StillStuck), None);
    t.ended(only(1), Some(("two".into(), 0)));
    let (start, end) = (5 * SECOND, 6 * SECOND);
    assert_eq!(
        all(&mut t),
        [text(start, end, "two"), Out::Gap { start, end }]
    );
}

/// It reads a GAP at its start, and the video cannot reach the time at which the next one is due.
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
}

/// It looks at no GAP, and lets no video go past the last text. One that lies ahead frees it, and
/// from then on there always is one.
#[test]
fn a_muxer_that_needs_texts_gets_them_ahead_of_the_video() {
    for placing in [Placing::Span, ANSWER] {
        let mut t = Timeline::new(placing);
        t.mark("segment", Some(0));
        t.opened(0, &[0], 0);
        t.video(2 * SECOND);
        let said: Vec<_> = std::iter::from_fn(|| t.next(Push::Stuck)).collect();
        assert!(
            said.iter().all(|out| !matches!(out, Out::Text { .. })),
            "{said:?}"
        );
        let Some(Out::Text { start, text, .. }) = t.next(Push::StillStuck) else {
            panic!("nothing frees it");
        };
        assert!(text.is_empty() && start > 2 * SECOND, "{start}");
        let mut last = start;
        for video in (2_100..6_000).step_by(100).map(|ms| ms * 1_000_000) {
            t.video(video);
            assert!(!t.falls_behind() || t.due());
            let out = std::iter::from_fn(|| t.next(Push::Free));
            for out in out.take(100) {
                if let Out::Text { start, .. } = out {
                    assert!(start >= last);
                    last = start;
                }
            }
            assert!(last >= video, "{last} is behind {video}");
        }
        // The window's own text comes behind the announced time, and no text is lost.
        t.ended(only(0), Some(("window".into(), 4 * SECOND)));
        let texts: Vec<_> = all(&mut t);
        let own = |out: &Out<_>| matches!(out, Out::Text { text, .. } if text == "window");
        assert!(texts.iter().any(own), "{texts:?}");
    }
}

/// One that is known from the start gets no GAP, and the texts of held video where their windows
/// are.
#[test]
fn a_muxer_that_is_known_to_need_texts_gets_nothing_else() {
    let mut t = Timeline::new(Placing::Span);
    t.needs_text();
    t.mark("segment", Some(0));
    assert_eq!(t.next(Push::Preroll), Some(Out::Mark("segment")));
    for push in [Push::Preroll, Push::Free] {
        t.video(SECOND / 25);
        assert_eq!(t.next(push), None, "nothing is stuck");
    }
    let mut texts = Vec::new();
    for window in 0..3 {
        let start = window * 2 * SECOND;
        t.opened(window, &[0], start);
        t.ended(only(window), Some(("window".into(), start + 2 * SECOND)));
        for ms in (0..2_000).step_by(100).map(|ms| ms * 1_000_000) {
            let said = std::iter::from_fn(|| t.next(Push::Free));
            texts.extend(said.take(100));
            t.video(start + ms);
        }
    }
    let starts = texts.iter().map(|out| match out {
        Out::Text { start, text, .. } => (*start, text.is_empty()),
        other => panic!("{other:?}"),
    });
    let own: Vec<u64> = starts
        .filter(|(_, empty)| !empty)
        .map(|(start, _)| start)
        .collect();
    assert_eq!(own, [0, 2 * SECOND, 4 * SECOND]);
}

/// The GAP for the preroll announces no time.
#[test]
fn a_preroll_moves_nothing() {
    let mut t = Timeline::new(Placing::Span);
    t.mark("segment", Some(SECOND));
    assert_eq!(t.next(Push::Preroll), Some(Out::Mark("segment")));
    let (start, end) = (SECOND, SECOND);
    assert_eq!(t.next(Push::Preroll), Some(Out::Gap { start, end }));
    assert_eq!(t.next(Push::Preroll), None);
    t.opened(0, &[0], SECOND);
    t.ended(only(0), Some(("one".into(), 5 * SECOND)));
    assert_eq!(all(&mut t), [text(SECOND, 5 * SECOND, "one")]);
}

/// It has taken both, as its turn at this stream lasts, and waits for a third.
#[test]
fn such_a_muxer_may_be_ahead_of_the_video() {
    let mut t = Timeline::new(ANSWER);
    t.mark("segment", Some(0));
    t.video(6 * SECOND);
    t.ended(only(0), Some(("one".into(), 0)));
    t.ended(only(1), Some(("two".into(), 0)));
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
    t.advance_watermark(2 * SECOND);
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
        t.ended(only(id), Some((id.to_string(), 0)));
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
    t.opened(0, &[0], SECOND);
    t.ended(only(0), Some(("one".into(), 5 * SECOND)));
    assert_eq!(all(&mut t), [text(end, end + 4 * SECOND, "one")]);
    t.video(9 * SECOND);
    assert_eq!(t.next(Push::Free), None, "it still stands");
    t.video(10 * SECOND);
    let next = end + 4 * SECOND;
    let again = 10 * SECOND;
    assert_eq!(all(&mut t), [text(again, again + SECOND, "one")]);
    t.ended(only(1), Some(("two".into(), 9 * SECOND)));
    let start = again + SECOND;
    assert_eq!(all(&mut t), [text(start, start + 4 * SECOND, "two")]);
    assert!(next < again);
}

#[test]
fn a_peer_that_takes_nothing_costs_the_oldest_texts() {
    let mut t = Timeline::new(ANSWER);
    t.mark("segment", Some(0));
    for id in 0..MOST_WAITING as u64 + 3 {
        t.ended(only(id), Some((id.to_string(), 0)));
    }
    assert_eq!(t.lost, 3);
    assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
    assert!(matches!(t.next(Push::Free), Some(Out::Text { text, .. }) if text == "3"));
}

#[test]
fn outside_of_a_segment_a_text_has_no_place() {
    let one = || Some(("one".into(), 0));
    let mut t = Timeline::new(ANSWER);
    t.ended(only(0), one());
    t.mark("segment", Some(0));
    t.ended(only(1), one());
    let texts = |out: Vec<_>| {
        out.into_iter()
            .filter(|out| matches!(out, Out::Text { .. }))
            .count()
    };
    assert_eq!(t.next(Push::Free), Some(Out::Mark("segment")));
    assert_eq!(texts(all(&mut t)), 1);
    t.ended(only(2), one());
    assert_eq!(texts(all(&mut t)), 1);
    t.mark("eos", None);
    t.ended(only(3), one());
    assert_eq!(all(&mut t), [Out::Mark("eos")]);
    t.ended(only(4), one());
    assert_eq!(all(&mut t), []);
}

proptest::proptest! {
    /// Whatever the order of answers: texts and gaps go forward, each text comes once, at its
    /// window, in the order of the windows and their requests.
    #[test]
    fn spans_keep_their_order(
        order in proptest::collection::vec((0usize..6, proptest::bool::ANY), 0..40),
        stride in 1u64..5,
        requests in 1u64..4,
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
                        let place = id / requests * stride;
                        assert_eq!((start, end), (place, place + length));
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
                let numbers: Vec<u64> = (0..requests).collect();
                t.opened(id, &numbers, id * stride);
                open.extend(numbers.iter().map(|number| request(id, *number)));
                id += 1;
            } else {
                let asked = open.remove(which % open.len());
                let number = asked.window * requests + asked.request;
                if answered { told.push(number); }
                let end = asked.window * stride + length;
                t.ended(asked, answered.then(|| (number.to_string(), end)));
            }
            take(&mut t, &mut out);
        }
        for asked in open {
            t.ended(asked, None);
        }
        take(&mut t, &mut out);
        told.sort_unstable();
        proptest::prop_assert_eq!(out, told);
    }
}

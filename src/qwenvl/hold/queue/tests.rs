use super::*;

fn at(time: u64) -> StreamPosition {
    StreamPosition { part: 0, time }
}

fn request(window: u64, request: u64) -> RequestId {
    RequestId { window, request }
}

/// The only request of a window.
fn only(window: u64) -> RequestId {
    request(window, 0)
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
    queue.opened(7, &[0], at(1), 4);
    queue.advance_watermark(at(3));
    assert_eq!(pushed(&mut queue, now), [(0, vec![])], "it has no window");
    queue.ended(only(7), Some(70));
    assert_eq!(pushed(&mut queue, now), [(1, vec![70]), (2, vec![70])]);
    queue.opened(8, &[0], at(3), 7);
    queue.advance_watermark(at(9));
    assert_eq!(pushed(&mut queue, now), []);
    queue.ended(only(8), Some(80));
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
    queue.opened(0, &[0], at(0), 4);
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
    queue.opened(1, &[0], at(0), 4);
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
fn a_frame_waits_for_all_requests_of_its_window_and_carries_their_descriptions() {
    let now = Instant::now();
    let mut queue = HoldQueue::<u64, u64>::default();
    for time in 0..3 {
        queue.push(time, Some(at(time)), None);
    }
    queue.opened(0, &[5, 6, 7], at(0), 2);
    queue.advance_watermark(at(2));
    queue.ended(request(0, 6), Some(60));
    queue.ended(request(0, 7), None);
    queue.ended(request(1, 5), Some(0));
    assert_eq!(queue.next(now), Next::Wait, "the first is not answered");
    queue.ended(request(0, 5), Some(50));
    let both = vec![50, 60];
    assert_eq!(pushed(&mut queue, now), [(0, both.clone()), (1, both)]);
}

#[test]
fn after_the_timeout_a_frame_carries_the_descriptions_that_are_there() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut queue = HoldQueue::<u64, u64>::default();
    queue.push(0, Some(at(0)), None);
    queue.opened(0, &[0, 1], at(0), 2);
    queue.advance_watermark(at(2));
    queue.ended(request(0, 1), Some(1));
    queue.closed(0, later);
    assert_eq!(queue.next(now), Next::WaitUntil(later));
    assert_eq!(queue.next(later), Next::Push(0, vec![1]));
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
    // Times of different parts cannot be compared.
    queue.push(5, Some(StreamPosition { part: 1, time: 1 }), None);
    queue.advance_watermark(at(2));
    assert!(queue.is_full(now, limit));
}

proptest::proptest! {
    /// In any order of answers and of the two threads' steps every entry leaves once, in order,
    /// with the descriptions of the windows that cover it, and none is left.
    #[test]
    fn everything_comes_out_with_its_descriptions(
        stride in 1u64..5,
        length in 1u64..9,
        parts in 1u64..3,
        frames in 1u64..30,
        requests in 1u64..4,
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
        let numbers: Vec<u64> = (0..requests).collect();
        // Every second request has no description.
        let number = |id: &RequestId| id.window * requests + id.request;
        let description = |id: RequestId| number(&id).is_multiple_of(2).then(|| number(&id));
        let (mut arrived, mut seen, mut opened) = (0, 0, 0);
        let mut pending = Vec::new();
        let mut out = Vec::new();
        let rest = (0..4 * positions.len()).flat_map(|_| [(0, 0), (1, 0), (2, 0)]);
        for (what, which) in steps.into_iter().chain(rest) {
            match what {
                0 if arrived < positions.len() => {
                    queue.push(arrived as u64, Some(positions[arrived]), None);
                    arrived += 1;
                }
                // The worker handles a frame, which may not be in the queue yet.
                1 if seen < positions.len() => {
                    let position = positions[seen];
                    seen += 1;
                    if starts(&position) {
                        queue.opened(opened, &numbers, position, position.time + length);
                        pending.extend(numbers.iter().map(|number| request(opened, *number)));
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
                let asked = covering.flat_map(|(window, _)| {
                    numbers.iter().map(move |number| request(*window, *number))
                });
                (i, asked.filter_map(description).collect())
            })
            .collect();
        proptest::prop_assert_eq!(out, expected);
        proptest::prop_assert_eq!(queue.len(), 0);
    }
}

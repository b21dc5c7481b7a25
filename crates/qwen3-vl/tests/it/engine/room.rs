//! Room in a small KV cache for several requests of several windows.

use super::*;

const LARGE: Size = Size {
    width: 256,
    height: 256,
};

/// A window that says that it needs so many blocks.
fn window(backend: &dyn Backend, blocks: usize, waits: bool) -> Box<dyn Window> {
    let head = WindowHead {
        tokens: blocks * BLOCK_TOKENS,
        waits,
        ..WindowHead::default()
    };
    backend.open(head, Box::new(|_| ()))
}

fn push(window: &mut dyn Window, inputs: Vec<VisionInput>) {
    inputs.into_iter().for_each(|input| window.push(input));
}

fn request(window: &mut dyn Window, question: Request) -> Receiver<Event> {
    let (sink, rx) = log();
    window.ask(question, sink);
    rx
}

/// One whose answer repeats its first token until it has all its tokens.
fn endless(max_tokens: u32) -> Request {
    Request {
        sampling: SamplingParams {
            presence_penalty: -1e4,
            ..SamplingParams::default()
        },
        ..question(0.0, max_tokens)
    }
}

/// Holds the engine until it is told to go on, and has ended after one more step.
fn blocker(backend: &dyn Backend) -> Stopped {
    let mut window = open(backend);
    push(&mut *window, pairs(2, SMALL, 0));
    Stopped::ask(&mut *window, question(0.0, 2))
}

/// What a request is answered alone, about the first `count` pairs.
fn alone(count: u32, question: Request) -> Answer {
    answer(&ask(&*backend(), pairs(count, SMALL, 0), question).1)
}

#[test]
fn a_window_that_is_asked_before_it_has_room_waits_for_it() {
    let backend = backend_of(4);
    let mut first = window(&*backend, 4, false);
    let mut waiting = window(&*backend, 1, true);
    let rx = request(&mut *waiting, question(0.0, 4));
    // When this has been answered, the one before has been looked at.
    answer(&request(&mut *first, question(0.0, 4)));
    assert!(rx.try_recv().is_err(), "the first one has all room");
    drop(first);
    assert_eq!(answer(&rx).grid, [0; 3]);
    drop(waiting);
    all_blocks_are_free(&*backend);
}

#[test]
fn the_room_of_a_window_that_failed_goes_to_one_that_waits() {
    let backend = backend_of(4);
    let blocker = blocker(&*backend);
    let mut fails = window(&*backend, 2, false);
    let mut waiting = window(&*backend, 3, true);
    push(&mut *waiting, pairs(2, SMALL, 0));
    let rx = request(&mut *waiting, question(0.0, 8));
    drop(waiting);
    // With their times these are more than 512 tokens, which shows when they have been encoded.
    push(&mut *fails, pairs(40, SMALL, 0));
    blocker.go.send(()).unwrap();
    // No other command wakes the engine.
    assert_eq!(answer(&rx).tokens, alone(2, question(0.0, 8)).tokens);
    let lost = request(&mut *fails, question(0.0, 8));
    assert_fails(&lost, Failure::Invalid, "512 that fit");
}

#[test]
fn a_request_goes_on_when_the_one_before_it_was_refused() {
    let backend = backend_of(4);
    let blocker = blocker(&*backend);
    let mut asked = window(&*backend, 1, true);
    push(&mut *asked, pairs(2, SMALL, 0));
    let refused = request(&mut *asked, question(0.0, 1000));
    let rx = request(&mut *asked, question(0.0, 8));
    drop(asked);
    blocker.go.send(()).unwrap();
    assert_fails(&refused, Failure::Full, "KV cache");
    assert_eq!(answer(&rx).tokens, alone(2, question(0.0, 8)).tokens);
    answer(&blocker.events);
    all_blocks_are_free(&*backend);
}

/// A window becomes its last request, which needs as much as one that is a fork.
#[test]
fn the_last_request_waits_for_room_too() {
    let backend = backend_of(6);
    let expected = alone(2, endless(350));
    assert_eq!(expected.tokens.len(), 350, "the test is weak");
    let mut asked = window(&*backend, 4, false);
    push(&mut *asked, pairs(2, SMALL, 0));
    let receivers = [(); 3].map(|()| request(&mut *asked, endless(350)));
    drop(asked);
    for rx in &receivers {
        assert_eq!(answer(rx).tokens, expected.tokens);
    }
    all_blocks_are_free(&*backend);
}

/// The engine may hear of a request before it hears that it was the last one.
#[test]
fn a_window_has_room_for_a_request_while_it_is_open() {
    let backend = backend_of(4);
    let mut asked = window(&*backend, 4, false);
    push(&mut *asked, pairs(2, SMALL, 0));
    let expected = alone(2, endless(300));
    for _ in 0..2 {
        let rx = request(&mut *asked, endless(300));
        assert_eq!(answer(&rx).tokens, expected.tokens);
    }
    drop(asked);
    all_blocks_are_free(&*backend);
}

/// What a window said has room for one request, and often for more: a window that takes no more
/// inputs needs what it has.
#[test]
fn a_window_that_cannot_grow_needs_what_it_has() {
    let backend = backend_of(6);
    let blocker = blocker(&*backend);
    let mut asked = window(&*backend, 6, true);
    push(&mut *asked, pairs(2, SMALL, 0));
    let receivers = [(); 3].map(|()| request(&mut *asked, question(0.0, 8)));
    drop(asked);
    blocker.go.send(()).unwrap();
    let expected = alone(2, question(0.0, 8));
    for rx in &receivers {
        assert_eq!(answer(rx).tokens, expected.tokens);
    }
}

#[test]
fn an_answer_that_may_be_longer_than_the_context_needs_no_more_than_that() {
    let backend = backend_of(40);
    let request = Request {
        repetition_guard: 40,
        ..endless(100_000)
    };
    let expected = alone(2, request.clone());
    let mut held = window(&*backend, 2, false);
    push(&mut *held, pairs(2, SMALL, 0));
    let rx = self::request(&mut *held, request);
    assert_eq!(answer(&rx).tokens, expected.tokens);
}

/// A request whose answer stops at every token until it is told to go on.
fn stepped(window: &mut dyn Window, question: Request) -> (Receiver<Event>, Sender<()>) {
    let (tx, events) = channel();
    let (go, gate) = channel::<()>();
    let sink = EventSink::new(move |event: Event| {
        let stops = !event.is_terminal();
        let _ = tx.send(event);
        if stops {
            // Without who says so it goes on.
            let _ = gate.recv_timeout(WATCHDOG);
        }
    });
    let question = Request {
        emit_tokens: true,
        ..question
    };
    window.ask(question, sink);
    (events, go)
}

#[test]
fn a_request_that_outlives_its_window_has_its_blocks() {
    let backend = backend_of(4);
    // It says that it needs none, so that nothing but the count of its blocks keeps them.
    let mut asked = open(&*backend);
    push(&mut *asked, pairs(4, LARGE, 0));
    let (events, go) = stepped(&mut *asked, endless(8));
    let token = || events.recv_timeout(WATCHDOG).unwrap();
    assert!(!token().is_terminal());
    assert!(backend.kv_blocks() >= 3, "the test is weak");
    drop(asked);
    go.send(()).unwrap();
    assert!(!token().is_terminal());
    let used = backend.kv_blocks();
    assert!(used >= 3, "the test is weak: {used}");
    let (lost, why) = lost();
    let head = WindowHead {
        tokens: 2 * BLOCK_TOKENS,
        ..WindowHead::default()
    };
    let other = backend.open(head, lost);
    drop(go);
    assert_lost(&why, Failure::Full, "kv-memory");
    drop(other);
    assert!(matches!(
        self::events(&events).last(),
        Some(Event::Answer(_))
    ));
    all_blocks_are_free(&*backend);
}

/// A request is about the inputs before it: what comes behind them does it no harm.
#[test]
fn an_input_that_is_refused_fails_the_requests_behind_it() {
    let backend = backend();
    let blocker = blocker(&*backend);
    let mut asked = open(&*backend);
    push(&mut *asked, pairs(2, SMALL, 0));
    let before = [(); 2].map(|()| request(&mut *asked, question(0.0, 8)));
    let odd = Size {
        width: 100,
        height: 96,
    };
    push(&mut *asked, pairs(1, odd, 0));
    push(&mut *asked, pairs(1, SMALL, 0));
    let behind = request(&mut *asked, question(0.0, 8));
    blocker.go.send(()).unwrap();
    let expected = alone(2, question(0.0, 8));
    for rx in &before {
        assert_eq!(answer(rx).tokens, expected.tokens);
    }
    let later = request(&mut *asked, question(0.0, 8));
    for rx in [behind, later] {
        assert_fails(&rx, Failure::Invalid, "multiples of 32");
    }
    // Nothing of it is kept, though it is open.
    answer(&blocker.events);
    all_blocks_are_free(&*backend);
    drop(asked);
}

#[test]
fn an_answer_has_at_least_one_token() {
    let backend = backend();
    let (_, rx) = ask(&*backend, pairs(1, SMALL, 0), question(0.0, 0));
    assert_fails(&rx, Failure::Invalid, "max_tokens");
    assert_works(&*backend);
}

//! Room in a small KV cache for several requests of several windows.

use super::*;

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
fn an_answer_has_at_least_one_token() {
    let backend = backend();
    let (_, rx) = ask(&*backend, pairs(1, SMALL, 0), question(0.0, 0));
    assert_fails(&rx, Failure::Invalid, "max_tokens");
    assert_works(&*backend);
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

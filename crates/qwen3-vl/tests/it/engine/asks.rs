//! Several requests of one window, also before its end: each gets the answer that it gets alone.

use super::*;

/// Declares blocks for a window with one request, so that only further requests need more.
fn head(blocks: usize) -> WindowHead {
    WindowHead {
        tokens: blocks * BLOCK_TOKENS,
        ..WindowHead::default()
    }
}

fn about(prompt: &str, temperature: f64, max_tokens: u32) -> Request {
    Request {
        prompt: prompt.into(),
        ..question(temperature, max_tokens)
    }
}

fn requests() -> [Request; 4] {
    [
        about("Describe this video.", 0.0, 40),
        about("How many cars are there?", 1.3, 25),
        about("Why is the road empty?", 0.0, 3),
        about("Describe this video.", 0.9, 30),
    ]
}

#[test]
fn requests_of_one_window_have_the_answers_of_each_alone() {
    let backend = backend();
    let alone = requests().map(|request| answer(&ask(&*backend, pairs(4, SMALL, 0), request).1));
    // The window is held open meanwhile, or not.
    for held in [false, true] {
        let mut window = open(&*backend);
        pairs(4, SMALL, 0)
            .into_iter()
            .for_each(|pair| window.push(pair));
        let receivers = requests().map(|request| {
            let (sink, rx) = log();
            window.ask(request, sink);
            rx
        });
        let window = held.then_some(window);
        for (rx, alone) in receivers.iter().zip(&alone) {
            let found = answer(rx);
            assert_eq!((&found.tokens, &found.text), (&alone.tokens, &alone.text));
            assert_eq!(
                (found.grid, found.prompt_tokens),
                (alone.grid, alone.prompt_tokens)
            );
        }
        drop(window);
        all_blocks_are_free(&*backend);
    }
}

#[test]
fn a_request_before_the_end_is_about_what_has_arrived() {
    let backend = backend();
    for pause in [Duration::ZERO, Duration::from_millis(25)] {
        let mut window = open(&*backend);
        let mut receivers = Vec::new();
        for (count, pair) in (1..).zip(pairs(5, SMALL, 2)) {
            window.push(pair);
            thread::sleep(pause);
            // One at a time, or two.
            for request in requests().into_iter().take(count % 3) {
                let (sink, rx) = log();
                window.ask(request.clone(), sink);
                receivers.push((count as u32, request, rx));
            }
        }
        drop(window);
        assert_eq!(receivers.len(), 6);
        for (count, request, rx) in receivers {
            let found = answer(&rx);
            let alone = answer(&ask(&*backend, pairs(count, SMALL, 2), request).1);
            assert_eq!(found.grid[0], count);
            assert_eq!(found.tokens, alone.tokens, "about {count} pairs");
            assert_eq!(found.prompt_tokens, alone.prompt_tokens);
        }
        all_blocks_are_free(&*backend);
    }
}

#[test]
fn blocks_that_requests_share_are_counted_once() {
    let backend = backend();
    let size = Size {
        width: 256,
        height: 256,
    };
    let mut window = open(&*backend);
    pairs(8, size, 0)
        .into_iter()
        .for_each(|pair| window.push(pair));
    let first = Stopped::ask(&mut *window, question(0.0, 40));
    // By another engine, because this one is stopped.
    let other = super::backend();
    let prefix = answer(&ask(&*other, pairs(8, size, 0), question(0.0, 1)).1).prompt_tokens;
    let blocks = (prefix as usize).div_ceil(BLOCK_TOKENS);
    assert!(blocks >= 4, "the test is weak: {prefix} tokens");
    // The window has its blocks; the request has copied the last one, and may have begun another.
    let used = backend.kv_blocks();
    assert!((blocks..=blocks + 2).contains(&used), "{used} of {blocks}");
    drop(window);
    first.go.send(()).unwrap();
    answer(&first.events);
    all_blocks_are_free(&*backend);
}

#[test]
fn a_request_is_cancelled_alone() {
    let backend = backend();
    let mut window = open(&*backend);
    pairs(3, SMALL, 0)
        .into_iter()
        .for_each(|pair| window.push(pair));
    let running = Stopped::ask(&mut *window, question(0.0, 40));
    let (sink, queued) = log();
    let handle = window.ask(question(0.0, 40), sink);
    let (sink, kept) = log();
    window.ask(question(0.0, 8), sink);
    handle.cancel();
    running.handle.cancel();
    running.go.send(()).unwrap();
    assert_cancelled(&queued);
    assert_cancelled(&running.events);
    let alone = answer(&ask(&*backend, pairs(3, SMALL, 0), question(0.0, 8)).1);
    assert_eq!(answer(&kept).tokens, alone.tokens);
    drop(window);
    all_blocks_are_free(&*backend);
}

/// Requests that find no free blocks wait for the other requests of their window; without others, a
/// request fails with `Full`.
#[test]
fn requests_without_free_blocks_wait_for_those_of_their_window() {
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let block = runner.parts.model.kv.block_bytes() as u64;
    let options = LoadOptions {
        kv_memory: Some(KvMemory::Bytes(4 * block)),
        ..options()
    };
    let small = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let alone = answer(&ask(&*backend(), pairs(2, SMALL, 0), question(0.0, 8)).1).tokens;
    let mut window = small.open(head(1), Box::new(|_| ()));
    pairs(2, SMALL, 0)
        .into_iter()
        .for_each(|pair| window.push(pair));
    // The window has one block, and a request needs one or two.
    let receivers = [(); 6].map(|()| {
        let (sink, rx) = log();
        window.ask(question(0.0, 8), sink);
        rx
    });
    for rx in &receivers {
        assert_eq!(answer(rx).tokens, alone);
    }
    let (sink, rx) = log();
    window.ask(question(0.0, 1000), sink);
    assert_fails(&rx, Failure::Full, "KV cache");
    let (sink, rx) = log();
    window.ask(question(0.0, 8), sink);
    assert_eq!(answer(&rx).tokens, alone, "the window goes on");
    drop(window);
    all_blocks_are_free(&*small);
}

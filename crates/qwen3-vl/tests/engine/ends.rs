//! Ends of windows, of steps that nobody waits for, and of the engine.

use super::*;

/// The demo model with a context for frames of 16 megapixels, which it encodes for a minute or more.
fn large() -> (tempfile::TempDir, LoadOptions) {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for entry in std::fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let long = text.replace(
        "\"max_position_embeddings\": 4096",
        "\"max_position_embeddings\": 65536",
    );
    assert_ne!(long, text);
    std::fs::write(config, long).unwrap();
    let options = LoadOptions {
        source: ModelSource::Folder(folder.path().into()),
        ..options()
    };
    (folder, options)
}

const LARGE: Size = Size {
    width: 4096,
    height: 4096,
};

/// What an interrupted step may take to end. It takes a fraction of a second on an idle machine; a step that
/// is not interrupted many times this.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_engine_ends_in_the_middle_of_a_large_picture() {
    let (_folder, options) = large();
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let (_, rx) = ask(&*backend, pairs(1, LARGE, 0), question(0.0, 2));
    thread::sleep(Duration::from_millis(700));
    assert!(rx.try_recv().is_err(), "the test is weak");
    let start = Instant::now();
    drop(backend);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_cancelled(&rx);
}

#[test]
fn a_large_picture_that_nobody_waits_for_is_given_up() {
    let (_folder, options) = large();
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let large = pairs(1, LARGE, 0);
    // Closed or still open, and a small one waits behind it.
    for close in [true, false] {
        let (sink, rx) = log();
        let mut window = backend.open(WindowHead::default(), sink);
        window.push(large[0].clone());
        let (handle, window) = match close {
            true => (Some(window.close(question(0.0, 2))), None),
            false => (None, Some(window)),
        };
        thread::sleep(Duration::from_millis(700));
        let (_, small) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 4));
        assert!(
            small.try_recv().is_err() && rx.try_recv().is_err(),
            "the test is weak"
        );
        let start = Instant::now();
        if let Some(handle) = handle {
            handle.cancel();
        }
        drop(window);
        assert_cancelled(&rx);
        assert!(!answer(&small).tokens.is_empty());
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
    all_blocks_are_free(&*backend);
}

#[test]
fn an_open_window_is_cancelled_by_dropping_it() {
    let backend = backend();
    let (sink, rx) = log();
    let mut window = backend.open(WindowHead::default(), sink);
    for pair in pairs(2, SMALL, 0) {
        window.push(pair);
    }
    drop(window);
    assert_cancelled(&rx);
    assert_works(&*backend);
}

#[test]
fn a_request_is_cancelled_while_it_waits_and_while_it_is_answered() {
    let backend = backend();
    let first = Stopped::new(&*backend);
    let (waiting, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 64));
    waiting.cancel();
    waiting.cancel();
    first.handle.cancel();
    first.go.send(()).unwrap();
    assert_cancelled(&rx);
    assert_cancelled(&first.events);
    // Too late: nothing happens.
    waiting.cancel();
    first.handle.cancel();
    assert_works(&*backend);
}

#[test]
fn dropping_a_handle_does_not_cancel() {
    let backend = backend();
    let (handle, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 4));
    drop(handle);
    answer(&rx);
}

#[test]
fn the_end_of_the_backend_ends_every_window() {
    let backend = backend();
    let running = Stopped::new(&*backend);
    let mut kept: Vec<Box<dyn WindowInput>> = Vec::new();
    let mut receivers = vec![running.events];
    // Untouched, and with frames.
    for count in [0, 3] {
        let (sink, rx) = log();
        let mut window = backend.open(WindowHead::default(), sink);
        for pair in pairs(count, SMALL, 0) {
            window.push(pair);
        }
        kept.push(window);
        receivers.push(rx);
    }
    let (handle, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 64));
    receivers.push(rx);
    // The engine is joined, so it must go on while the backend is dropped.
    let dropping = thread::spawn(move || drop(backend));
    running.go.send(()).unwrap();
    dropping.join().unwrap();
    for rx in &receivers {
        let end = end(rx);
        assert!(
            matches!(end, Event::Cancelled | Event::Answer(_)),
            "{end:?}"
        );
    }
    // What callers still hold does no harm.
    handle.cancel();
    for mut window in kept {
        window.push(pairs(1, SMALL, 0).remove(0));
        window.close(question(0.0, 8));
    }
}

#[test]
fn a_panic_breaks_the_engine_for_everybody_once() {
    let shared = || {
        let never = AtomicBool::new(false);
        shared::load(&options(), &mut |_| (), &never).unwrap()
    };
    for at_the_end in [false, true] {
        let backend = shared();
        assert_eq!(Arc::strong_count(&shared()), 2, "it is not shared");
        let (sink, open) = log();
        let window = backend.open(WindowHead::default(), sink);

        let (tx, own) = channel();
        let mut panicked = false;
        let panics = EventSink::new(move |event: Event| {
            let now = event.is_terminal() == at_the_end && !panicked;
            let _ = tx.send(event);
            if now {
                panicked = true;
                panic!("on purpose");
            }
        });
        let (at_gate, reached) = channel();
        let (go, gate) = channel::<()>();
        let mut blocker = backend.open(
            WindowHead::default(),
            // Holds the engine until all requests are there.
            EventSink::new(move |_| {
                at_gate.send(()).unwrap();
                gate.recv_timeout(WATCHDOG).unwrap();
            }),
        );
        blocker.push(pairs(1, SMALL, 0).remove(0));
        blocker.close(question(0.0, 1));
        reached.recv_timeout(WATCHDOG).unwrap();

        let mut panicking = backend.open(WindowHead::default(), panics);
        panicking.push(pairs(1, SMALL, 0).remove(0));
        panicking.close(Request {
            emit_tokens: true,
            ..question(0.0, 4)
        });
        let (_, waiting) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        go.send(()).unwrap();

        match end(&own) {
            Event::Answer(_) if at_the_end => (),
            Event::Failed(Failure::Fatal(_)) if !at_the_end => (),
            other => panic!("{other:?}"),
        }
        for rx in [&open, &waiting] {
            assert_fails(rx, Failure::Fatal, "panicked (on purpose)");
        }
        window.close(question(0.0, 8));
        let (_, later) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        assert_fails(&later, Failure::Fatal, "panicked (on purpose)");

        // Whoever loads the model again gets another engine.
        let next = shared();
        assert!(!next.is_broken());
        assert_works(&*next);
    }
}

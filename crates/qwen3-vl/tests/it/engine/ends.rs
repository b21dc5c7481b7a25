//! Ends of windows, of steps without waiters, and of the engine.

use super::*;

/// The demo model with a context for frames of 16 megapixels, which take a minute or more to
/// encode.
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
        mmproj: None,
        ..options()
    };
    (folder, options)
}

const LARGE: Size = Size {
    width: 4096,
    height: 4096,
};

/// Longest end of an interrupted step. It takes a fraction of a second on an idle machine; a step
/// that is not interrupted takes many times this.
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
fn a_large_picture_without_waiters_is_interrupted() {
    let (_folder, options) = large();
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let large = pairs(1, LARGE, 0);
    // With a request or without, and a small window waits behind it.
    for asks in [true, false] {
        let mut window = open(&*backend);
        window.push(large[0].clone());
        let asked = asks.then(|| {
            let (sink, rx) = log();
            (window.ask(question(0.0, 2), sink), rx)
        });
        thread::sleep(Duration::from_millis(700));
        let (_, small) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 4));
        assert!(small.try_recv().is_err(), "the test is weak");
        let start = Instant::now();
        drop(window);
        if let Some((handle, rx)) = asked {
            assert!(rx.try_recv().is_err(), "the test is weak");
            handle.cancel();
            assert_cancelled(&rx);
        }
        assert!(!answer(&small).tokens.is_empty());
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
    all_blocks_are_free(&*backend);
}

#[test]
fn a_window_without_a_request_is_forgotten_when_it_is_dropped() {
    let backend = backend();
    let mut window = open(&*backend);
    for pair in pairs(2, SMALL, 0) {
        window.push(pair);
    }
    let start = Instant::now();
    while backend.kv_blocks() == 0 {
        assert!(start.elapsed() < WATCHDOG, "nothing is prefilled");
        thread::yield_now();
    }
    drop(window);
    all_blocks_are_free(&*backend);
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
    // Cancelling is too late: nothing happens.
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
    let mut kept: Vec<Box<dyn Window>> = Vec::new();
    let mut receivers = vec![running.events];
    // Without frames, and with frames.
    for count in [0, 3] {
        let (sink, rx) = log();
        let mut window = open(&*backend);
        for pair in pairs(count, SMALL, 0) {
            window.push(pair);
        }
        window.ask(question(0.0, 8), sink);
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
    // Windows and handles that callers still hold do no harm.
    handle.cancel();
    for mut window in kept {
        window.push(pairs(1, SMALL, 0).remove(0));
        let (sink, rx) = log();
        window.ask(question(0.0, 8), sink);
        assert_fails(&rx, Failure::Fatal, "stopped");
    }
}

#[test]
fn a_panic_breaks_the_engine_for_all_windows_once() {
    let shared = || {
        let never = AtomicBool::new(false);
        shared::load(&options(), &mut |_| (), &never).unwrap()
    };
    for at_the_end in [false, true] {
        let backend = shared();
        assert_eq!(Arc::strong_count(&shared()), 2, "it is not shared");
        let (lost, why) = lost();
        let mut window = backend.open(WindowHead::default(), lost);

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
        // Stops the engine until all requests have been made.
        let blocks = EventSink::new(move |_| {
            at_gate.send(()).unwrap();
            gate.recv_timeout(WATCHDOG).unwrap();
        });
        let mut blocker = open(&*backend);
        blocker.push(pairs(1, SMALL, 0).remove(0));
        blocker.ask(question(0.0, 1), blocks);
        drop(blocker);
        reached.recv_timeout(WATCHDOG).unwrap();

        let mut panicking = open(&*backend);
        panicking.push(pairs(1, SMALL, 0).remove(0));
        let request = Request {
            emit_tokens: true,
            ..question(0.0, 4)
        };
        panicking.ask(request, panics);
        drop(panicking);
        let (_, waiting) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        go.send(()).unwrap();

        match end(&own) {
            Event::Answer(_) if at_the_end => (),
            Event::Failed(Failure::Fatal(_)) if !at_the_end => (),
            other => panic!("{other:?}"),
        }
        assert_fails(&waiting, Failure::Fatal, "panicked (on purpose)");
        assert_lost(&why, Failure::Fatal, "panicked (on purpose)");
        let (sink, rx) = log();
        window.ask(question(0.0, 8), sink);
        let (_, later) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        for rx in [rx, later] {
            assert_fails(&rx, Failure::Fatal, "panicked (on purpose)");
        }

        // Loading the model again gives a new engine.
        let next = shared();
        assert!(!next.is_broken());
        assert_works(&*next);
    }
}

//! Callers whose code panics on the engine's thread: nobody else is harmed by that, and everybody
//! is told.

use super::*;

/// Panics at the terminal event, behind what is told of it.
fn panics_at_the_end() -> (EventSink, Receiver<Event>) {
    let (tx, rx) = channel();
    let sink = EventSink::new(move |event: Event| {
        let ends = event.is_terminal();
        let _ = tx.send(event);
        assert!(!ends, "on purpose");
    });
    (sink, rx)
}

/// A window that waits until so many blocks are free.
fn window(backend: &dyn Backend, blocks: usize) -> Box<dyn Window> {
    let head = WindowHead {
        tokens: blocks * BLOCK_TOKENS,
        waits: true,
        ..WindowHead::default()
    };
    backend.open(head, Box::new(|_| ()))
}

/// Asks so that the engine stops at the first token, and panics when it is told to go on.
fn breaks(window: &mut dyn Window) -> Sender<()> {
    let (at_token, reached) = channel();
    let (go, gate) = channel::<()>();
    let mut first = true;
    let sink = EventSink::new(move |_| {
        if std::mem::take(&mut first) {
            at_token.send(()).unwrap();
            gate.recv_timeout(WATCHDOG).unwrap();
            panic!("at the token");
        }
    });
    let request = Request {
        emit_tokens: true,
        ..question(0.0, 4)
    };
    window.ask(request, sink);
    reached.recv_timeout(WATCHDOG).unwrap();
    go
}

#[test]
fn all_requests_of_a_window_are_told_although_one_panics() {
    let backend = backend_of(3);
    let (mut first, mut window) = (window(&*backend, 1), window(&*backend, 3));
    let (sinks, receivers): (Vec<_>, Vec<_>) =
        [panics_at_the_end(), log(), panics_at_the_end(), log()]
            .into_iter()
            .unzip();
    for sink in sinks {
        window.ask(question(0.0, 4), sink);
    }
    let go = breaks(&mut *first);
    assert!(
        receivers.iter().all(|rx| rx.try_recv().is_err()),
        "the first one has room"
    );
    go.send(()).unwrap();
    for rx in &receivers {
        assert_fails(rx, Failure::Fatal, "at the token");
    }
    let (sink, rx) = log();
    window.ask(question(0.0, 4), sink);
    assert_fails(&rx, Failure::Fatal, "at the token");
}

#[test]
fn a_window_fails_although_who_is_told_of_it_panics() {
    let backend = backend();
    let head = WindowHead::default();
    let mut window = backend.open(head, Box::new(|_| panic!("on purpose")));
    let mut first = open(&*backend);
    let go = breaks(&mut *first);
    go.send(()).unwrap();
    // When this has been refused, the engine has told all.
    let (_, rx) = ask(&*backend, Vec::new(), question(0.0, 4));
    assert_fails(&rx, Failure::Fatal, "at the token");
    let (sink, rx) = log();
    window.ask(question(0.0, 4), sink);
    assert_fails(&rx, Failure::Fatal, "at the token");
}

#[test]
fn the_end_of_the_engine_is_told_to_all_although_some_panic() {
    let backend = backend();
    let stopped = Stopped::new(&*backend);
    let mut window = open(&*backend);
    let (sinks, receivers): (Vec<_>, Vec<_>) = [
        panics_at_the_end(),
        panics_at_the_end(),
        log(),
        panics_at_the_end(),
    ]
    .into_iter()
    .unzip();
    for sink in sinks {
        window.ask(question(0.0, 4), sink);
    }
    let dropping = thread::spawn(move || drop(backend));
    stopped.go.send(()).unwrap();
    dropping.join().unwrap();
    for rx in &receivers {
        let end = end(rx);
        assert!(!matches!(end, Event::Token { .. }), "{end:?}");
    }
}

/// A sink may use its window, its handle and the backend.
#[test]
fn a_sink_asks_cancels_and_drops() {
    let backend = backend();
    let mut window = open(&*backend);
    pairs(2, SMALL, 0)
        .into_iter()
        .for_each(|pair| window.push(pair));
    let (other, cancelled) = log();
    let (again, asked) = log();
    let (tx, rx) = channel();
    let own = std::sync::Mutex::new(Some((backend, window, other, again)));
    let own = Arc::new(own);
    let mut kept = None;
    let sink = {
        let own = own.clone();
        EventSink::new(move |event: Event| {
            let ends = event.is_terminal();
            let _ = tx.send(event);
            let taken = own.lock().unwrap().take();
            if let Some((backend, mut window, other, again)) = taken {
                window.ask(question(0.0, 4), other).cancel();
                window.ask(question(0.0, 4), again);
                window.push(pairs(1, SMALL, 3).remove(0));
                drop(window);
                kept = Some(backend);
            }
            if ends {
                // The last one of the engine, on its own thread.
                drop(kept.take());
            }
        })
    };
    let request = Request {
        emit_tokens: true,
        ..question(0.0, 8)
    };
    let mut taken = own.lock().unwrap();
    if let Some((_, window, ..)) = &mut *taken {
        window.ask(request, sink);
    }
    drop(taken);
    answer(&rx);
    assert_cancelled(&cancelled);
    let end = end(&asked);
    assert!(
        matches!(end, Event::Answer(_) | Event::Cancelled),
        "{end:?}"
    );
}

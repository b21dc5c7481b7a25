//! The pad comes, goes and is flushed.

use super::*;

#[test]
fn the_pad_comes_and_goes_while_the_video_plays() {
    let line = format!("{LIVE} ! qwenvl name=q window-duration=1000000000 ! fakesink name=v");
    let run = Run::new(&line, hooks(echo(Duration::ZERO)));
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 3);
    for _ in 0..2 {
        let pad = run.element.request_pad_simple("text").unwrap();
        assert!(
            run.element.request_pad_simple("text").is_none(),
            "one is enough"
        );
        let sink = gst::ElementFactory::make("fakesink")
            .name("t")
            .property("async", false)
            .build()
            .unwrap();
        run.pipeline.add(&sink).unwrap();
        let seen = watch(&run);
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        wait_until("a text", || !texts(&seen).is_empty());
        assert!(matches!(seen.lock().unwrap()[0], Out::Start(_)));
        pad.unlink(&sink.static_pad("sink").unwrap()).unwrap();
        run.element.release_request_pad(&pad);
        sink.set_state(gst::State::Null).unwrap();
        run.pipeline.remove(&sink).unwrap();
    }
    let before = frames.load(Ordering::SeqCst);
    wait_until("more video", || frames.load(Ordering::SeqCst) > before + 3);
}

/// A sink that waits for the clock, here for half a minute, blocks neither the release of the pad
/// nor the video.
#[test]
fn the_pad_goes_while_its_peer_waits() {
    let line = "videotestsrc num-buffers=400 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                qwenvl name=q window-duration=30000000000 fps=1/5 text-timing=span ! \
                fakesink name=v sync=false async=false \
                q.text ! fakesink name=t sync=true async=false";
    let run = Run::new(line, hooks(echo(Duration::ZERO)));
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("the second text", || texts(&seen).len() == 2);
    let pad = run.element.static_pad("text").unwrap();
    let begin = std::time::Instant::now();
    run.element.release_request_pad(&pad);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(run.element.static_pad("text").is_none());
    assert!(pad.peer().is_none());
    // Another one takes its place at once.
    let pad = run.element.request_pad_simple("text").unwrap();
    run.element.release_request_pad(&pad);
    wait_until("the video", || frames.load(Ordering::SeqCst) == 400);
    run.set_state(gst::State::Null).unwrap();
}

/// A peer that never comes back, one that was never linked, one that fails.
#[test]
fn the_peer_of_the_text_never_holds_the_video() {
    for peer in [
        "queue name=t max-size-buffers=1 ! fakesink name=b",
        "none",
        "error",
    ] {
        let text = match peer {
            "none" => String::new(),
            "error" => "q.text ! identity name=t error-after=1 ! fakesink name=b".into(),
            other => format!("q.text ! {other}"),
        };
        let line = format!(
            "{LIVE} ! qwenvl name=q window-duration=500000000 text-timing=answer ! \
             fakesink name=v async=false {text}"
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        if peer == "none" {
            run.element.request_pad_simple("text").unwrap();
        } else if let Some(sink) = run.pipeline.by_name("b") {
            sink.set_property("async", false);
            let pad = sink.static_pad("sink").unwrap();
            if peer != "error" {
                let block = gst::PadProbeType::BLOCK_DOWNSTREAM;
                pad.add_probe(block, |_, _| gst::PadProbeReturn::Ok);
            }
        }
        let frames = video(&run);
        run.set_state(gst::State::Playing).unwrap();
        wait_until(peer, || frames.load(Ordering::SeqCst) > 30);
        run.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_flush_forgets_the_texts_of_before() {
    let line =
        format!("{FILE} ! qwenvl name=q ! fakesink name=v sync=true q.text ! fakesink name=t");
    let run = Run::new(&line, hooks(echo(Duration::from_secs(1))));
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 45);
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
    run.pipeline
        .seek_simple(flags, 5 * ClockTime::SECOND)
        .unwrap();
    wait_until("the end", || seen.lock().unwrap().last() == Some(&Out::Eos));
    let starts = starts_since_flush(&seen);
    assert!(!starts.is_empty());
    assert!(
        starts.iter().all(|pts| *pts >= 5 * ClockTime::SECOND),
        "{starts:?}"
    );
}

/// The worker handles a frame with a later time than all that follow.
#[test]
fn a_flush_forgets_what_the_worker_is_at() {
    let line = format!(
        "{FILE} ! qwenvl name=q ! fakesink name=v sync=true q.text ! fakesink name=t async=false"
    );
    let mut hooks = hooks(echo(Duration::from_millis(10)));
    let (hold, held) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (stop, stopped) = (hold.clone(), held.clone());
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker && stop.load(Ordering::SeqCst) {
            stopped.store(true, Ordering::SeqCst);
            wait_until("permission", || !stop.load(Ordering::SeqCst));
        }
    });
    let run = Run::new(&line, hooks);
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 45);
    hold.store(true, Ordering::SeqCst);
    wait_until("the worker", || held.load(Ordering::SeqCst));
    let pipeline = run.pipeline.clone();
    let seek = thread::spawn(move || {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        pipeline.seek_simple(flags, ClockTime::ZERO)
    });
    // Time for a fault to show.
    thread::sleep(Duration::from_millis(100));
    hold.store(false, Ordering::SeqCst);
    seek.join().unwrap().unwrap();
    wait_until("the end", || seen.lock().unwrap().last() == Some(&Out::Eos));
    // The source ends after 100 frames, wherever they were.
    let starts = starts_since_flush(&seen);
    assert_eq!(starts, [ClockTime::ZERO, 4 * ClockTime::SECOND]);
}

//! Bad input and broken parts: a clear error, once, and no hanging pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gst::prelude::*;
use gstqwenvl::testing::{Hooks, Stage};
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
use qwen3_vl_core::backend::manual::{Call, ManualBackend};
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::load::{LoadError, Progress};

use crate::common::bench::Bench;
use crate::common::{self, Messages, Run, echo, hooks, in_time, loader, wait_until};

const VIDEO: &str = "videotestsrc num-buffers=200 ! video/x-raw,width=64,height=64,framerate=10/1";

/// Runs a video through `qwenvl name=q PROPERTIES`.
fn run(video: &str, properties: &str, hooks: Hooks) -> Messages {
    Run::new(
        &format!("{video} ! qwenvl name=q {properties} ! fakesink"),
        hooks,
    )
    .finish()
}

/// The one ERROR, which must contain this text.
fn only_error(messages: &Messages, text: &str) -> gst::glib::Error {
    assert_eq!(messages.errors.len(), 1, "{messages:?}");
    let (error, _) = messages.errors[0].clone();
    assert!(
        error.message().contains(text),
        "{error} does not say {text}"
    );
    messages.ids();
    error
}

#[test]
fn properties_that_make_no_sense() {
    for (properties, text) in [
        ("fps=0/1", "fps is 0/1"),
        ("window-duration=1", "window-duration is 1 ns"),
        (
            "min-frames=9 max-frames=8",
            "min-frames 9 is above max-frames 8",
        ),
        ("min-frames=1 max-frames=1", "needs at least 2"),
        ("min-frames=1 max-frames=1", "raise max-frames"),
        ("min-frames=1 fps=1/10", "raise fps, min-frames"),
        ("max-frames=4294967295", "max-frames is 4294967295"),
        ("window-stride=1000", "window-stride is 1000 ns"),
        (
            "min-pixels=100000 max-pixels=50000",
            "max-pixels 50000 is below min-pixels 100000",
        ),
        ("model=\"\"", "model is empty"),
        // 10 frames a second: 100 ms apart.
        ("window-duration=150000000", "holds less than two frames"),
    ] {
        is_refused(properties, text);
    }
}

/// Only the engine knows the devices of the machine.
#[cfg(feature = "local")]
#[test]
fn devices_that_there_are_none_of() {
    is_refused("device=gpu", "unknown device \"gpu\"");
    is_refused("device=cuda:x", "unknown device");
}

fn is_refused(properties: &str, text: &str) {
    let messages = run(VIDEO, properties, hooks(echo(Duration::ZERO)));
    let error = only_error(&messages, text);
    assert!(
        error.matches(gst::LibraryError::Settings),
        "{properties}: {error:?}"
    );
}

#[test]
fn a_single_pixel_limit_moves_the_other() {
    for properties in ["max-pixels=2048", "min-pixels=2000000", "total-pixels=1"] {
        let messages = run(VIDEO, properties, hooks(echo(Duration::ZERO)));
        assert!(messages.errors.is_empty(), "{properties}: {messages:?}");
        assert_eq!(messages.descriptions().len(), 5);
    }
}

#[test]
fn loading_fails() {
    for (error, matches) in [
        (
            LoadError::NotFound as fn(String) -> LoadError,
            gst::ResourceError::NotFound,
        ),
        (LoadError::Invalid, gst::ResourceError::Read),
        (LoadError::Unavailable, gst::ResourceError::Failed),
    ] {
        let messages = run(
            VIDEO,
            "",
            loader(move |_, _, _| Err(error("so and so".into()))),
        );
        assert!(only_error(&messages, "so and so").matches(matches));
        let kinds: Vec<_> = messages.progress.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [gst::ProgressType::Start, gst::ProgressType::Error]);
    }
}

#[test]
fn loading_panics() {
    let messages = run(VIDEO, "", loader(|_, _, _| panic!("in the loader")));
    only_error(&messages, "in the loader");
}

#[test]
fn progress_never_goes_back_nor_beyond_its_end() {
    let hooks = loader(|_, progress, _| {
        for percent in [30, 100, 0, 50, u32::MAX] {
            let what = format!("step {percent}");
            progress(Progress { what, percent });
        }
        Ok(echo(Duration::ZERO))
    });
    let messages = run(VIDEO, "", hooks);
    assert_eq!(messages.percents, [30, 100, 100, 100, 100]);
    assert!(
        messages
            .progress
            .iter()
            .any(|(_, text)| text == "step 50: 100 %")
    );
}

#[test]
fn loading_reports_progress() {
    let hooks = loader(|_, progress, _| {
        for percent in [0, 50, 50, 100] {
            progress(Progress {
                what: "reading".into(),
                percent,
            });
        }
        Ok(echo(Duration::ZERO))
    });
    let messages = run(VIDEO, "", hooks);
    let texts: Vec<&str> = messages
        .progress
        .iter()
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "Loading the model",
            "reading: 0 %",
            "reading: 50 %",
            "reading: 100 %",
            "Loaded fake on none"
        ]
    );
    assert_eq!(messages.percents, [0, 50, 100]);
    // The demo model is the default, and its WARNING comes once.
    assert_eq!(messages.warnings.len(), 1);
}

#[test]
fn loading_is_cancelled_by_a_state_change() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = cancelled.clone();
    let run = Run::new(
        &format!("{VIDEO} ! qwenvl name=q ! fakesink"),
        loader(move |_, _, cancel| {
            wait_until("cancel", || cancel.load(Ordering::SeqCst));
            count.fetch_add(1, Ordering::SeqCst);
            Err(LoadError::Cancelled)
        }),
    );
    for _ in 0..3 {
        run.set_state(gst::State::Playing).unwrap();
        run.set_state(gst::State::Null).unwrap();
    }
    wait_until("the loaders", || cancelled.load(Ordering::SeqCst) == 3);
    let mut messages = Messages::default();
    messages.take_from(&run.pipeline.bus().unwrap(), &run.element);
    assert!(messages.errors.is_empty());
}

#[test]
fn video_of_odd_sizes() {
    let video =
        |size: &str| format!("videotestsrc num-buffers=60 ! video/x-raw,framerate=10/1,{size}");
    // Scaled up to what the model takes at least.
    let tiny = run(&video("width=1,height=1"), "", hooks(echo(Duration::ZERO)));
    assert!(tiny.errors.is_empty(), "{tiny:?}");
    assert_eq!(tiny.descriptions().len(), 2);
    // Nothing to describe, and nothing to end a stream for.
    for (width, height) in [(20_000, 1), (4096, 16), (4000, 8), (1, 300)] {
        let size = format!("width={width},height={height}");
        let thin = run(&video(&size), "", hooks(echo(Duration::ZERO)));
        assert!(thin.errors.is_empty(), "{thin:?}");
        assert_eq!(thin.dropped(), ["error"; 2]);
        for dropped in thin.named("qwenvl/dropped") {
            let message: String = dropped.get("message").unwrap();
            let said = format!("aspect ratio of {width}x{height} pixels");
            assert!(message.contains(&said), "{message:?}");
        }
    }
    // Thin, with almost no pixels: still one block high.
    let low = run(
        &video("width=1920,height=300"),
        "max-pixels=4096",
        hooks(echo(Duration::ZERO)),
    );
    assert!(low.errors.is_empty() && low.dropped().is_empty(), "{low:?}");
    assert_eq!(low.descriptions().len(), 2);
}

#[test]
fn more_pixels_than_the_model_can_see_are_refused_before_a_frame_is_resized() {
    for properties in ["min-pixels=1000000000", "min-pixels=18446744073709551615"] {
        let run = run(VIDEO, properties, hooks(echo(Duration::ZERO)));
        assert!(run.errors.is_empty(), "{run:?}");
        assert_eq!(run.dropped(), ["error"; 5], "{properties}");
        for dropped in run.named("qwenvl/dropped") {
            let message: String = dropped.get("message").unwrap();
            assert!(message.contains("min-pixels"), "{message:?}");
        }
    }
}

/// If a planned window is longer than the stream, the stream's length counts.
#[test]
fn a_window_longer_than_its_stream_is_measured_by_the_stream() {
    // 768 frames of 1024 tokens each, two of them together, are more than the context.
    let large = "window-duration=400000000000 min-pixels=1048576 max-pixels=1048576";
    let short = run(VIDEO, large, hooks(echo(Duration::ZERO)));
    assert!(short.dropped().is_empty(), "{short:?}");
    assert_eq!(short.descriptions().len(), 1);
    let long = VIDEO.replace("=200", "=4000");
    let messages = run(&long, large, hooks(echo(Duration::ZERO)));
    assert_eq!(messages.dropped(), ["error"]);
}

#[test]
fn a_prompt_that_the_model_cannot_hold_is_refused_before_a_frame_is_pushed() {
    let context = echo(Duration::ZERO).model().limits.context;
    for name in ["prompt", "system-prompt"] {
        let mut backend = ManualBackend::default();
        let pushed = Arc::new(AtomicBool::new(false));
        backend.at = {
            let pushed = pushed.clone();
            Arc::new(move |_| pushed.store(true, Ordering::Relaxed))
        };
        let hooks = hooks(Arc::new(backend));
        let mut bench = Bench::new(hooks, true, &[]).ready();
        let element = bench.harness.element().unwrap();
        element.set_property(name, "word ".repeat(context));
        bench.frames(0..4_500);
        bench.ended(1);
        let dropped = bench.messages.named("qwenvl/dropped")[0];
        assert_eq!(dropped.get::<&str>("reason").unwrap(), "error", "{name}");
        let message: String = dropped.get("message").unwrap();
        assert!(message.contains("a shorter prompt"), "{name}: {message}");
        assert!(!pushed.load(Ordering::Relaxed), "{name}");
        bench.stop();
    }
}

#[test]
fn a_panic_anywhere_is_one_error() {
    let stage = |stage: Stage| Hooks {
        at: Arc::new(move |at| assert!(at != stage, "on purpose")),
        ..hooks(echo(Duration::ZERO))
    };
    let call = |call: Call| {
        let mut backend = ManualBackend::default();
        backend.at = Arc::new(move |at| assert!(at != call, "on purpose"));
        hooks(Arc::new(backend))
    };
    let engine = Outcome::Fail(Failure::Fatal("on purpose".into()));
    for (what, hooks, ended) in [
        ("sampling", stage(Stage::Sampling), 0),
        ("worker", stage(Stage::Worker), 0),
        ("open", call(Call::Open), 1),
        ("push", call(Call::Push), 1),
        ("close", call(Call::Ask), 1),
        (
            "engine",
            hooks(Arc::new(FakeBackend::new(Duration::ZERO, engine))),
            1,
        ),
    ] {
        let messages = run(VIDEO, "", hooks);
        only_error(&messages, "on purpose");
        assert!(messages.ids().len() >= ended, "{what}: {messages:?}");
        assert!(
            messages.dropped().iter().all(|reason| reason == "error"),
            "{what}"
        );
    }
}

#[test]
fn a_pipeline_works_again_after_a_panic() {
    let failing = Arc::new(AtomicUsize::new(1));
    let count = failing.clone();
    let run = Run::new(
        &format!("{VIDEO} ! qwenvl name=q ! fakesink"),
        Hooks {
            at: Arc::new(move |_| {
                let first = count.swap(0, Ordering::SeqCst) == 1;
                assert!(!first, "on purpose");
            }),
            ..hooks(echo(Duration::ZERO))
        },
    );
    only_error(&run.finish(), "on purpose");
    let messages = run.finish();
    assert!(messages.errors.is_empty(), "{messages:?}");
    assert_eq!(messages.descriptions().len(), 5);
}

#[test]
fn a_backend_that_loses_a_request_fails() {
    let backend = ManualBackend::default();
    let model = backend.clone();
    let run = Run::new(
        &format!("{VIDEO} ! qwenvl name=q ! fakesink"),
        hooks(Arc::new(model)),
    );
    run.set_state(gst::State::Playing).unwrap();
    drop(backend.take());
    let messages = Messages::until_end(&run.pipeline.bus().unwrap(), &run.element);
    only_error(&messages, "lost a request");
    run.set_state(gst::State::Null).unwrap();
}

#[test]
fn cancelling_by_the_backend_drops_the_window() {
    let backend = ManualBackend::default();
    let model = backend.clone();
    let run = Run::new(
        "videotestsrc num-buffers=40 ! video/x-raw,width=64,height=64,framerate=10/1 \
         ! qwenvl name=q ! fakesink",
        hooks(Arc::new(model)),
    );
    let canceller = std::thread::spawn(move || backend.take().end(Event::Cancelled));
    let messages = run.finish();
    in_time("the canceller", move || canceller.join().unwrap());
    assert_eq!(messages.dropped(), ["cancelled"]);
    assert!(messages.errors.is_empty());
}

/// A window that fails ends alone: the stream and its other windows go on.
#[test]
fn one_odd_second_ends_no_stream() {
    for odd in [
        "video/x-raw,format=RGB,width=4096,height=16,framerate=10/1",
        "video/x-raw,format=RGB,width=16,height=4096,framerate=10/1",
        "video/x-raw,format=RGB,width=96,height=64,framerate=10/1,pixel-aspect-ratio=1/10000",
        "video/x-raw,format=RGB,width=96,height=64,framerate=10/1,pixel-aspect-ratio=2147483647/1",
        "video/x-raw,format=RGB,width=1,height=1,framerate=10/1",
        "video/x-raw,format=RGB,width=96,height=64,framerate=1/10",
    ] {
        let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]).ready();
        bench.frames(0..4_000);
        let caps: gst::Caps = odd.parse().unwrap();
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        assert!(bench.event(gst::event::Caps::new(&caps)), "{odd}");
        for ms in (4_000..5_000).step_by(500) {
            let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
            buffer
                .get_mut()
                .unwrap()
                .set_pts(gst::ClockTime::from_mseconds(ms));
            bench.harness.push(buffer).unwrap();
        }
        let caps = common::bench::CAPS.parse().unwrap();
        assert!(bench.event(gst::event::Caps::new(&caps)));
        bench.frames(5_000..9_000);
        bench.ended(3);
        bench.stop();
        assert!(
            bench.messages.errors.is_empty(),
            "{odd}: {:?}",
            bench.messages
        );
        let starts = bench.messages.starts();
        assert!(
            starts.contains(&0) && starts.contains(&5_000_000_000),
            "{odd}: {starts:?}"
        );
        for dropped in bench.messages.named("qwenvl/dropped") {
            let message: String = dropped.get("message").unwrap();
            assert!(message.len() > 20, "{odd}: {message}");
            let failed = dropped.get::<&str>("reason").unwrap() == "error";
            if let Some((_, par)) = odd.split_once("pixel-aspect-ratio=").filter(|_| failed) {
                // As they lie in memory, not as they are shown.
                let own = format!("96x64 pixels, with pixel-aspect-ratio {par}");
                assert!(message.contains(&own), "{odd}: {message}");
            }
        }
    }
}

#[test]
fn what_is_no_raw_video_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("film");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    let video = format!("filesrc location=\"{}\"", file.display());
    let messages = run(&video, "", hooks(echo(Duration::ZERO)));
    only_error(&messages, "decodebin");
}

#[test]
fn what_is_dropped_says_why_and_what_to_do() {
    // A window for ever takes its frames years apart.
    let ever = format!("window-duration={}", i64::MAX);
    for (frames, properties, remedy) in [
        (1, "", "raise window-duration or fps"),
        (40, &*ever, "lower window-duration or raise max-frames"),
    ] {
        let video = format!(
            "videotestsrc num-buffers={frames} ! video/x-raw,width=64,height=64,framerate=10/1"
        );
        let messages = run(&video, properties, hooks(echo(Duration::ZERO)));
        assert_eq!(messages.dropped(), ["too-short"]);
        let message: String = messages.named("qwenvl/dropped")[0].get("message").unwrap();
        assert!(message.contains(remedy), "{message}");
    }
}

//! Time of the state change to NULL during slow work: a loader that does not notice its
//! cancellation, a backend that does not return, and passes of the demo model over frames of 8
//! megapixels. The promise is a second.
//!
//! `cargo bench --bench stopping`
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstqwenvl::testing::{self, Hooks, Stage};
use qwen3_vl_core::load::LoadError;

const SMALL: &str = "video/x-raw,width=64,height=64,framerate=10/1";
const LARGE: &str = "video/x-raw,width=3840,height=2160,framerate=10/1";
const ROUNDS: u32 = 5;

fn slow_loader() -> Hooks {
    Hooks {
        load: Arc::new(|_, _, _| {
            thread::sleep(Duration::from_secs(3));
            Err(LoadError::Cancelled)
        }),
        ..Hooks::default()
    }
}

fn slow_worker() -> Hooks {
    Hooks {
        at: Arc::new(|stage| {
            if stage == Stage::Worker {
                thread::sleep(Duration::from_secs(3));
            }
        }),
        ..Hooks::default()
    }
}

/// Plays for `play`, and stops. Returns the time of the stop.
fn stop(caps: &str, properties: &str, hooks: Hooks, play: Duration) -> Duration {
    let line = format!(
        "videotestsrc is-live=true pattern=ball ! {caps} ! qwenvl name=q {properties} ! \
         fakesink async=false"
    );
    let pipeline = gst::parse::launch(&line).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    testing::set_hooks(&pipeline.by_name("q").unwrap(), hooks);
    pipeline.set_state(gst::State::Playing).unwrap();
    thread::sleep(play);
    let begin = Instant::now();
    pipeline.set_state(gst::State::Null).unwrap();
    begin.elapsed()
}

fn main() {
    gst::init().unwrap();
    gstqwenvl::plugin_register_static().unwrap();
    let large = "max-pixels=16777216 total-pixels=134217728 window-duration=2000000000";
    let case = |what, caps, properties, hooks: fn() -> Hooks, seconds| {
        let play = Duration::from_secs(seconds);
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| stop(caps, properties, hooks(), play))
            .collect();
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{what:34} median {median:9.1?}, longest {longest:9.1?} of {ROUNDS}");
    };
    case("while nothing is done", SMALL, "", Hooks::default, 1);
    case("while a loader does not notice", SMALL, "", slow_loader, 1);
    case(
        "while the worker does not return",
        SMALL,
        "",
        slow_worker,
        1,
    );
    case(
        "in passes over 8 megapixels",
        LARGE,
        large,
        Hooks::default,
        4,
    );
}

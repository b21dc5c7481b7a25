//! Upstream has four buffers, as V4L2 and VA-API do, and the engine is slow: no frame is lost, none
//! waits, none is copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;
use gstqwenvl::testing::Stage;
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::bench::Bench;
use crate::common::camera::{BUFFERS, Camera, Done};
use crate::common::{hooks, wait_until};

const FRAMES: u64 = 300;

/// Pushes half a minute of a live stream whose engine never answers.
fn stream(overload: &str, worker_stands_still: bool) {
    let still = Arc::new(AtomicBool::new(worker_stands_still));
    let stop = still.clone();
    let backend = ManualBackend::default();
    let mut hooks = hooks(Arc::new(backend.clone()));
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || !stop.load(Ordering::SeqCst));
        }
    });
    let (element, bus, worked) = Bench::idle(hooks);
    element.set_property_from_str("overload", overload);
    element.set_state(gst::State::Playing).unwrap();
    let mut camera = Camera::new(&element, true);
    camera.start(0);
    // The camera fails if there is no buffer when it takes a picture.
    camera.frame(0);
    wait_until("the worker", || worked.load(Ordering::SeqCst) == 1);
    for i in 1..FRAMES {
        camera.frame(i * 100);
    }
    camera.wait_all();
    let flow = camera
        .take_results()
        .into_iter()
        .filter(|done| matches!(done, Done::Flow(flow) if *flow == Ok(gst::FlowSuccess::Ok)));
    assert_eq!(flow.count() as u64, FRAMES);

    let shown = camera.shown_frames();
    assert_eq!(shown, *camera.taken.lock().unwrap());
    let used: std::collections::HashSet<usize> = shown.iter().map(|(_, memory)| *memory).collect();
    assert!(used.len() <= BUFFERS as usize);

    let stats: gst::Structure = element.property("stats");
    let stat = |name: &str| stats.get::<u64>(name).unwrap();
    assert_eq!(stat("sampled") + stat("skipped"), FRAMES / 5);
    if worker_stands_still {
        // The worker has one and the queue eight, of which two may be the camera's buffers.
        assert_eq!(camera.in_pool(), BUFFERS as usize - 2);
        assert_eq!((stat("sampled"), stat("copied")), (9, 9 - 2));
    }
    still.store(false, Ordering::SeqCst);
    // Windows wait for the engine, but no buffers do.
    wait_until("the buffers", || camera.in_pool() == BUFFERS as usize);
    element.set_state(gst::State::Null).unwrap();
    drop(bus);
}

#[test]
fn of_four_buffers_none_is_missing_when_the_engine_is_slow() {
    for overload in ["auto", "drop-oldest", "drop-newest"] {
        stream(overload, false);
    }
}

#[test]
fn of_four_buffers_two_are_left_when_the_worker_stands_still() {
    stream("auto", true);
}

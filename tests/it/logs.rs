//! What `GST_DEBUG=qwenvl:4` says: what was loaded and described, and what was dropped and why.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::bench::Bench;
use crate::common::{self, Run, echo, hooks};

/// All tests of this file share the log of the process: one test.
#[test]
fn what_happens_is_in_the_log() {
    common::init();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    gst::log::set_active(true);
    gst::log::set_threshold_for_name("qwenvl", gst::DebugLevel::Info);
    gst::log::add_log_function(move |category, level, _, _, _, _, message| {
        if category.name() == "qwenvl" {
            let text = message.get().unwrap().to_string();
            log.lock().unwrap().push((level, text));
        }
    });
    let said = |level, words: &str| {
        let lines = lines.lock().unwrap();
        let found = lines
            .iter()
            .any(|(l, text)| *l == level && text.contains(words));
        assert!(found, "nothing says {words:?}: {lines:?}");
    };

    let line = "videotestsrc num-buffers=41 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                qwenvl name=q ! fakesink";
    let messages = Run::new(line, hooks(echo(Duration::ZERO))).finish();
    assert_eq!(messages.dropped(), ["too-short"]);
    said(gst::DebugLevel::Info, "Loaded");
    said(gst::DebugLevel::Info, "window 0 is described");
    said(gst::DebugLevel::Warning, "window 1 is dropped (too-short)");
    said(gst::DebugLevel::Warning, "raise window-duration");

    let mut bench = Bench::new(hooks(echo(Duration::from_secs(60))), true, &[]).ready();
    bench.frames(0..20_000);
    bench.ended(1);
    bench.stop();
    said(gst::DebugLevel::Warning, "is dropped (overload)");
    said(gst::DebugLevel::Warning, "lower fps");
}

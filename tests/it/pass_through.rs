//! Buffers pass untouched and in order, in any format, and every window ends in one message.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use crate::common::{self, Run, echo, hooks};

/// Address of a buffer's memory, and its PTS.
type Identity = (usize, Option<gst::ClockTime>);

/// What passes a pad.
fn watch(pad: &gst::Pad) -> Arc<Mutex<Vec<Identity>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let memory = buffer.peek_memory(0).as_ptr() as usize;
        log.lock().unwrap().push((memory, buffer.pts()));
        gst::PadProbeReturn::Ok
    });
    seen
}

#[test]
fn the_same_memory_in_the_same_order() {
    let run = Run::new(
        "videotestsrc num-buffers=300 ! \
         video/x-raw,format=NV12,width=1280,height=720,framerate=30/1 ! qwenvl name=q ! fakesink",
        hooks(echo(Duration::ZERO)),
    );
    let before = watch(&run.element.static_pad("sink").unwrap());
    let after = watch(&run.element.static_pad("src").unwrap());
    let messages = run.finish();
    assert!(messages.errors.is_empty(), "{messages:?}");
    assert_eq!(before.lock().unwrap().len(), 300);
    assert_eq!(*before.lock().unwrap(), *after.lock().unwrap());
    // 10 seconds in windows of 4.
    assert_eq!(messages.ids(), [0, 1, 2]);
    assert_eq!(messages.descriptions().len(), 3);
    // 8 frames, each with at most 768 tokens of 32x32 pixels.
    let text: String = messages.descriptions()[0].get("text").unwrap();
    assert_eq!(text, "4 inputs of 1152x640: Describe this video.");
}

#[test]
fn every_raw_format() {
    common::init();
    for format in gst_video::VideoFormat::iter_raw() {
        // videotestsrc cannot make all of them; the converter that feeds it can.
        let run = Run::new(
            &format!(
                "videotestsrc num-buffers=30 ! video/x-raw,format=AYUV,width=66,height=50,\
                 framerate=10/1 ! videoconvert ! video/x-raw,format={} ! qwenvl name=q ! fakesink",
                format.to_str()
            ),
            hooks(echo(Duration::ZERO)),
        );
        let messages = run.finish();
        assert!(messages.errors.is_empty(), "{format}: {messages:?}");
        assert_eq!(messages.descriptions().len(), 1, "{format}: {messages:?}");
    }
}

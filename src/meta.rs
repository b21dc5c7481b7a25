//! `QwenVLDescriptionMeta`: descriptions that travel on a buffer.
//!
//! A custom meta without tags, so that no element has a reason to leave it behind. Its structure
//! has one field, `descriptions`: a `GstValueList` of structures as in the bus messages.
//!
//! With `attach=window` every buffer carries the descriptions of its windows:
//!
//! ```
//! use gst::prelude::*;
//! use gstqwenvl::{message, meta};
//!
//! gst::init()?;
//! gstqwenvl::plugin_register_static()?;
//! let pipeline = gst::parse::launch(
//!     "videotestsrc num-buffers=50 ! video/x-raw,width=128,height=96,framerate=25/1 ! \
//!      qwenvl attach=window window-duration=1000000000 ! fakesink name=sink sync=false",
//! )?;
//! let sink = pipeline.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("sink"));
//! let pad = sink.and_then(|sink| sink.static_pad("sink")).ok_or("no sink")?;
//! let (sender, seen) = std::sync::mpsc::channel();
//! pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
//!     for description in info.buffer().into_iter().flat_map(|buffer| meta::descriptions(buffer)) {
//!         let window = description.get::<u64>("window-id").unwrap_or(u64::MAX);
//!         let _ = sender.send((window, description.name().to_string()));
//!     }
//!     gst::PadProbeReturn::Ok
//! });
//! pipeline.set_state(gst::State::Playing)?;
//! let bus = pipeline.bus().ok_or("no bus")?;
//! let ends = [gst::MessageType::Eos, gst::MessageType::Error];
//! let end = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
//! assert_eq!(end.map(|end| end.type_()), Some(gst::MessageType::Eos));
//! pipeline.set_state(gst::State::Null)?;
//! let seen: Vec<_> = seen.try_iter().collect();
//! assert_eq!(seen.len(), 50);
//! assert_eq!(seen[0], (0, message::DESCRIPTION.to_string()));
//! assert_eq!(seen[49], (1, message::DESCRIPTION.to_string()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use gst::meta::CustomMeta;
use gst::prelude::*;

/// Name under which the meta is registered.
pub const NAME: &str = "QwenVLDescriptionMeta";

const FIELD: &str = "descriptions";

/// Makes the meta known to GStreamer; done once by the plugin.
pub(crate) fn register() {
    if !CustomMeta::is_registered(NAME) {
        CustomMeta::register(NAME, &[]);
    }
}

/// Adds descriptions to those that the buffer may already carry.
pub(crate) fn add(buffer: &mut gst::BufferRef, new: Vec<gst::Structure>) {
    let mut all = descriptions(buffer);
    all.extend(new);
    let list = gst::List::new(all.iter().map(ToSendValue::to_send_value));
    if let Ok(mut meta) = CustomMeta::from_mut_buffer(buffer, NAME) {
        meta.mut_structure().set(FIELD, list);
    } else if let Ok(mut meta) = CustomMeta::add(buffer, NAME) {
        meta.mut_structure().set(FIELD, list);
    }
}

/// The descriptions on a buffer, oldest first; none if it has no such meta.
pub fn descriptions(buffer: &gst::BufferRef) -> Vec<gst::Structure> {
    let Ok(meta) = CustomMeta::from_buffer(buffer, NAME) else {
        return Vec::new();
    };
    let Ok(list) = meta.structure().get::<gst::List>(FIELD) else {
        return Vec::new();
    };
    list.iter().filter_map(|value| value.get().ok()).collect()
}

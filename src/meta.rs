//! `QwenVLDescriptionMeta`: descriptions that travel on a buffer.
//!
//! A custom meta without tags, so that no element has a reason to leave it behind. Its structure
//! has one field, `descriptions`: a `GstValueList` of structures as in the bus messages.

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

//! Feature `analytics` (GStreamer 1.24): descriptions as `GstAnalyticsRelationMeta`, for elements
//! that do not know this one.
//!
//! A description is an object detection as large as the frame, and a classification that it
//! relates to; the label of both is the text, in one line. `objectdetectionoverlay` draws them.
//!
//! A label is a `GQuark`, and GLib keeps every string that has ever been one. So a process makes at
//! most [`MAX_LABELS`] labels: enough for prompts with a choice of answers, not for free text.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_analytics::prelude::*;
use gst_analytics::{AnalyticsRelationMeta, RelTypes};

use super::imp::{CAT, QwenVL, lock};

/// Most labels that a process makes of descriptions.
pub const MAX_LABELS: u32 = 1024;

/// The label of every description that would need one more.
pub const OTHER: &str = "qwenvl/description";

/// Pixels that the overlay needs for a line of text, which it writes above the object.
const LINE: i32 = 24;

/// The model gives no probability of a text.
const CONFIDENCE: f32 = 1.0;

/// The text as a label, unless that would be one too many.
fn label(text: &str) -> Option<glib::Quark> {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    glib::Quark::try_from_str(&line).or_else(|| {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let one_more = |made: u32| (made < MAX_LABELS).then(|| made.saturating_add(1));
        MADE.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(glib::Quark::from_str(&line))
    })
}

fn size(caps: &gst::CapsRef) -> Option<(i32, i32)> {
    let caps = caps.structure(0)?;
    Some((caps.get("width").ok()?, caps.get("height").ok()?))
}

/// Adds labels to the buffer's meta, each a line below the one before.
fn add(
    buffer: &mut gst::BufferRef,
    (width, height): (i32, i32),
    labels: impl Iterator<Item = glib::Quark>,
) -> Result<(), glib::BoolError> {
    if buffer.meta::<AnalyticsRelationMeta>().is_none() {
        AnalyticsRelationMeta::add(buffer);
    }
    let Some(mut meta) = buffer.meta_mut::<AnalyticsRelationMeta>() else {
        return Ok(());
    };
    for (label, line) in labels.zip(1..) {
        let top = LINE.saturating_mul(line).min(height / 2);
        let object = meta
            .add_od_mtd(label, 0, top, width, height.saturating_sub(top), CONFIDENCE)?
            .id();
        let class = meta.add_one_cls_mtd(CONFIDENCE, label)?.id();
        meta.set_relation(RelTypes::RELATE_TO, object, class)?;
    }
    Ok(())
}

impl QwenVL {
    /// With `attach-analytics`: puts the descriptions on the buffer that carries them.
    pub(super) fn attach_analytics(
        &self,
        buffer: &mut gst::BufferRef,
        descriptions: &[gst::Structure],
    ) {
        if !lock(&self.settings).attach_analytics {
            return;
        }
        // The sink pad's caps may be ahead of the held buffers.
        let caps = self.srcpad.current_caps();
        let Some(size) = caps.and_then(|caps| size(&caps)) else {
            return;
        };
        let labels = descriptions.iter().map(|description| {
            let text = description.get::<&str>("text").unwrap_or_default();
            label(text).unwrap_or_else(|| {
                self.say_labels_are_used_up();
                glib::Quark::from_str(OTHER)
            })
        });
        if let Err(error) = add(buffer, size, labels) {
            gst::warning!(CAT, imp = self, "No analytics meta: {error}");
        }
    }

    /// Once a process.
    fn say_labels_are_used_up(&self) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Relaxed) {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::NoSpaceLeft,
                ("This process has made {MAX_LABELS} labels for attach-analytics, which are never \
                  freed: other descriptions are labelled {OTHER} from now on"),
                ["Ask for one of a few answers, or read QwenVLDescriptionMeta"]
            );
        }
    }
}

//! Caps and queries of the sink pad.

use gst::prelude::*;
use gst::subclass::prelude::*;

use super::imp::{CAT, QwenVL, lock};
use super::sample::MAX_HELD;

/// Every raw format, in any memory. What cannot be mapped is refused with a text when it comes,
/// because a refusal by template says nothing to the user.
pub(super) fn template_caps() -> gst::Caps {
    let video = gst_video::VideoCapsBuilder::new;
    let mut caps = video()
        .format_list(gst_video::VideoFormat::iter_raw())
        .build();
    caps.merge(video().any_features().build());
    caps
}

/// Whether a feature leaves frames where the CPU can read them. What `meta:` announces travels with
/// the buffer and does not matter here; `format:Interlaced` are fields, each in a buffer of its own.
fn plain(feature: &str) -> bool {
    ["memory:SystemMemory", "format:Interlaced"].contains(&feature) || feature.starts_with("meta:")
}

/// Whether frames with these features lie in memory that the CPU can read.
fn readable(features: &gst::CapsFeaturesRef) -> bool {
    !features.is_any() && features.iter().all(|feature| plain(feature))
}

/// Why frames with these caps cannot be described, and what to do about it.
pub(super) fn refusal(caps: &gst::CapsRef) -> Option<String> {
    let features = caps.features(0)?;
    if readable(features) {
        return None;
    }
    let memory = features.iter().find(|feature| !plain(feature))?;
    let element = match memory.as_str() {
        "memory:CUDAMemory" => "cudadownload",
        "memory:GLMemory" => "gldownload",
        "memory:VAMemory" | "memory:VASurface" | "memory:DMABuf" => "vapostproc",
        "memory:D3D11Memory" => "d3d11download",
        "memory:VulkanImage" => "vulkandownload",
        "memory:NVMM" => "nvvideoconvert",
        _ => "an element that downloads to system memory",
    };
    Some(format!(
        "Frames in {memory} cannot be read: put {element} and the caps filter video/x-raw in front"
    ))
}

impl QwenVL {
    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let caps = self.caps(pad, query.filter());
                query.set_result(&caps);
                true
            }
            // Whatever fits the template may come as an event, which can be refused with a text.
            gst::QueryViewMut::AcceptCaps(query) => {
                let fits = query.caps().can_intersect(&pad.pad_template_caps());
                query.set_result(fits);
                true
            }
            gst::QueryViewMut::Allocation(query) => {
                self.allocation(query);
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// What downstream takes; only system memory if upstream has any of that to offer.
    fn caps(&self, pad: &gst::Pad, filter: Option<&gst::CapsRef>) -> gst::Caps {
        let filter = filter.map(ToOwned::to_owned);
        let template = pad.pad_template_caps();
        let mut caps = self.srcpad.peer_query_caps(filter.as_ref());
        caps = caps.intersect_with_mode(&template, gst::CapsIntersectMode::First);
        if let Some(filter) = &filter {
            caps = filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First);
            let system: gst::Caps = caps
                .iter_with_features()
                .filter(|(_, features)| readable(features))
                .map(|(structure, features)| (structure.to_owned(), features.to_owned()))
                .collect();
            if !system.is_empty() {
                caps = system;
            }
        }
        gst::log!(CAT, imp = self, "Caps: {caps:?}");
        caps
    }

    /// Asks for as many more buffers as may be held here.
    fn allocation(&self, query: &mut gst::query::Allocation) {
        let held = MAX_HELD as u32;
        self.srcpad.peer_query(query.query_mut());
        let pools: Vec<_> = query.allocation_pools().collect();
        if pools.is_empty() {
            let info = lock(&self.stream).info.clone();
            let size = info.map_or(0, |info| info.size());
            query.add_allocation_pool(None::<&gst::BufferPool>, size as u32, held, 0);
        }
        for (i, (pool, size, min, max)) in pools.into_iter().enumerate() {
            let max = if max == 0 {
                0
            } else {
                max.saturating_add(held)
            };
            let min = min.saturating_add(held);
            query.set_nth_allocation_pool(i as u32, pool.as_ref(), size, min, max);
        }
    }
}

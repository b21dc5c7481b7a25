//! Caps and queries of the sink pad.

use gst::prelude::*;
use gst::subclass::prelude::*;

use super::imp::{CAT, QwenVL, lock};
use super::memory;
use super::sample::MAX_SAMPLED;
use super::settings::Attach;

impl QwenVL {
    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let caps = self.caps(pad, query.filter());
                query.set_result(&caps);
                true
            }
            // A CAPS event can be refused with an ERROR, this query cannot, so it takes the
            // template's caps.
            gst::QueryViewMut::AcceptCaps(query) => {
                let fits = query.caps().can_intersect(&pad.pad_template_caps());
                query.set_result(fits);
                true
            }
            gst::QueryViewMut::Allocation(query) => self.allocation(query),
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Downstream's caps. Memory that cannot be read stays in only if upstream, by its filter, has
    /// no other: then the CAPS event is refused with an ERROR.
    fn caps(&self, pad: &gst::Pad, filter: Option<&gst::CapsRef>) -> gst::Caps {
        let filter = filter.map(ToOwned::to_owned);
        let template = pad.pad_template_caps();
        let mut caps = self.srcpad.peer_query_caps(filter.as_ref());
        caps = caps.intersect_with_mode(&template, gst::CapsIntersectMode::First);
        if let Some(filter) = &filter {
            caps = filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First);
            let readable = memory::readable(&caps);
            if !readable.is_empty() {
                caps = readable;
            }
            // Held buffers of a bounded pool are copied, which works in system memory only.
            let system = memory::of_the_system(&caps);
            if lock(&self.settings).attach == Attach::Window && !system.is_empty() {
                caps = system;
            }
        }
        gst::log!(CAT, imp = self, "Caps: {caps:?}");
        caps
    }

    /// Forwards the query and adds the buffers that the element may hold. Without caps there is no
    /// buffer size to answer.
    fn allocation(&self, query: &mut gst::query::Allocation) -> bool {
        if query.get().0.is_none() {
            return false;
        }
        let held = MAX_SAMPLED as u32;
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
        true
    }
}

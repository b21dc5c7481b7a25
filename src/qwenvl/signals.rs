//! The signals: for programs that would rather not read a bus.

use std::sync::LazyLock;

use gst::glib::subclass::Signal;
use gst::prelude::*;

const DESCRIPTION: &str = "description";

/// Specifications of all signals.
pub(super) fn all() -> &'static [Signal] {
    static SIGNALS: LazyLock<Vec<Signal>> = LazyLock::new(|| {
        let description = Signal::builder(DESCRIPTION)
            .param_types([gst::Structure::static_type()])
            .run_last();
        vec![description.build()]
    });
    &SIGNALS
}

/// Emits `description`, in the calling thread; the caller holds no lock.
pub(super) fn description(element: &super::QwenVL, structure: &gst::Structure) {
    element.emit_by_name::<()>(DESCRIPTION, &[structure]);
}

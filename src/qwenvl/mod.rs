//! The element. Its files in the order in which a frame meets them:
//!
//! - `chain`: the streaming thread: samples, hands over, pushes on
//! - `sample`: a sampled frame
//! - `session`: the queues and waits between the threads
//! - `worker`: converts and resizes, makes windows, asks the engine, posts the answers
//! - `hold`: the video that waits for its descriptions (`attach=window`)
//! - `text`: the request pad with the answers as timed text, and its task
//!
//! and around them `imp` (pads, states), `properties`, `signals`, `settings`, `events`, `queries`,
//! `memory`, `loader`, `failure`, `stats`, `monitor`, `outlets`, `sync`, `task`, checks of input
//! from outside (`time`, `strings`) and, for tests, `hooks`.
//!
//! **Locks.** Their order is in `docs/ARCHITECTURE.md`. No two locks of the element are held
//! together, except that of an outlet with the one of the text stream or of `hold` that it leads
//! to. None is held while a buffer, event or query goes to a pad, a message to the bus, a signal to
//! its handlers or a frame to the engine, or while an engine is loaded or dropped.
//!
//! SECTION:element-qwenvl
//!
//! Describes the video that passes through it with Qwen3-VL, in the process. Buffers pass
//! untouched and at once; the element samples some of them by their timestamps, makes windows of a
//! few seconds of them and posts the model's answer about each window as an element message
//! `qwenvl/description`. The first buffer after the answer also carries the description, as
//! `QwenVLDescriptionMeta`.
//!
//! ```bash
//! gst-launch-1.0 -m videotestsrc num-buffers=300 ! \
//!     video/x-raw,format=NV12,width=1280,height=720,framerate=30/1 ! qwenvl ! fakesink
//! ```
//!
//! **Signal `description`**
//! (`void handler(GstElement *element, GstStructure *description, gpointer user_data)`): the
//! structure of each `qwenvl/description`, emitted after its message is posted, once and in the
//! same order, from the element's worker thread with no lock held. A handler may set and get
//! properties and send events. Until it returns, no other window is described. The change to READY
//! and EOS wait for it for three seconds at most (without one the change takes a second at most,
//! whatever is computed or loaded), FLUSH_STOP for a second. Video goes on as with a slow model. A
//! handler that changes the element's state is refused with a WARNING: it would wait for itself.
//!
//! **Flushes.** When FLUSH_STOP has passed, every window from before the flush has its terminal
//! message, and no later message is about it. The one exception is a window whose message a handler
//! of the application holds up for longer than a second.
//!
//! The default model is a small one that is part of the plugin and knows synthetic traffic only;
//! `model=Qwen/Qwen3-VL-2B-Instruct` downloads and runs a real one.

#[cfg(feature = "analytics")]
pub mod analytics;
mod chain;
mod events;
mod failure;
mod hold;
pub mod hooks;
mod imp;
mod loader;
mod memory;
#[cfg(test)]
mod model_check;
mod monitor;
mod outlets;
mod properties;
mod queries;
mod sample;
mod session;
pub(crate) mod settings;
mod signals;
mod stats;
mod strings;
mod sync;
mod task;
mod text;
pub(crate) mod time;
mod worker;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

pub use settings::{
    Attach, Compute, Dtype, Layout, Mode, Overload, Preset, Quantization, TextTiming,
};

glib::wrapper! {
    /// The element `qwenvl`.
    pub struct QwenVL(ObjectSubclass<imp::QwenVL>) @extends gst::Element, gst::Object;
}

impl QwenVL {
    /// Replaces the hooks from the next time that the element leaves READY.
    pub(crate) fn set_hooks(&self, hooks: hooks::Hooks) {
        self.imp().set_hooks(hooks);
    }
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "qwenvl",
        gst::Rank::NONE,
        QwenVL::static_type(),
    )
}

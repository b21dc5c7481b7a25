//! GStreamer plugin with one element, `qwenvl`: it describes the video that passes through it with
//! Qwen3-VL, in the process.
//!
//! From a frame to a message: [`qwenvl`] samples frames on the sink pad and pushes all buffers on.
//! A worker makes windows of the sampled frames and asks the engine (crate `qwen3_vl`). The answers
//! become bus messages ([`message`]) and buffer metas ([`meta`]).

// Any 64 bits may come as a time or a number: nothing here may overflow or panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::disallowed_methods,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable
    )
)]

#[cfg(feature = "local")]
mod demo;
mod engines;
mod json;
pub mod message;
pub mod meta;
pub mod qwenvl;
#[doc(hidden)]
pub mod testing;

pub use plugin::plugin_register_static;

#[allow(missing_docs, reason = "the macro's functions have none")]
mod plugin {
    use gst::glib;

    fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
        crate::meta::register();
        crate::qwenvl::register(plugin)
    }

    gst::plugin_define!(
        qwenvl,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        env!("CARGO_PKG_LICENSE"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_REPOSITORY"),
        env!("BUILD_REL_DATE")
    );
}

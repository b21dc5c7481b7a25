//! Hooks for tests: another loader instead of the engine's, and a place for faults.

use gst::prelude::*;

#[cfg(feature = "local")]
pub use crate::engines::load_options;
pub use crate::engines::{LoadFn, ModelOptions};
pub use crate::qwenvl::hooks::{Hooks, Stage};

/// Replaces the hooks of a `qwenvl` element; takes effect when it leaves READY.
///
/// # Panics
///
/// If the element is another one.
#[allow(clippy::panic, reason = "of a test")]
pub fn set_hooks(element: &gst::Element, hooks: Hooks) {
    let Some(element) = element.downcast_ref::<crate::qwenvl::QwenVL>() else {
        panic!("{element:?} is no qwenvl");
    };
    element.set_hooks(hooks);
}

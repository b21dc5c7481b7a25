//! Failures: one ERROR message a session, for all failures of all threads.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

use gst::glib;
use gst::prelude::*;
use qwen3_vl_core::failure::panic_text;
use qwen3_vl_core::load::LoadError;

use super::imp::CAT;
use super::session::Session;

/// Posts the error if it is the session's first, and ends the session.
///
/// In this order: once the streaming thread returns an error, upstream posts a general one, and
/// many applications read the first ERROR only.
pub(super) fn report(element: &super::QwenVL, session: &Session, error: &glib::Error) {
    if session.claim_failure() {
        post(element, error);
        session.fail(error.message());
    }
}

/// Posts the error.
pub(super) fn post(element: &super::QwenVL, error: &glib::Error) {
    gst::error!(CAT, obj = element, "{error}");
    let message = gst::message::Error::builder_from_error(error.clone())
        .src(element)
        .build();
    // Fails without a bus only, where no message is read.
    let _ = element.post_message(message);
}

/// Runs a callback of GObject, through which a panic would end the process. The panic becomes an
/// ERROR.
pub(super) fn guarded<T>(
    element: &super::QwenVL,
    place: &str,
    act: impl FnOnce() -> T,
) -> Option<T> {
    let result = panic::catch_unwind(AssertUnwindSafe(act));
    result
        .map_err(|panic| post(element, &panicked(place, &*panic)))
        .ok()
}

/// The error for a model that cannot be loaded.
pub(super) fn of_load(error: &LoadError) -> glib::Error {
    let text = error.to_string();
    match error {
        LoadError::NotFound(_) => glib::Error::new(gst::ResourceError::NotFound, &text),
        LoadError::Invalid(_) => glib::Error::new(gst::ResourceError::Read, &text),
        LoadError::Unavailable(_) | LoadError::Cancelled => {
            glib::Error::new(gst::ResourceError::Failed, &text)
        }
    }
}

/// The error for a panic caught in the part of the element called `place`.
pub(super) fn panicked(place: &str, panic: &(dyn Any + Send)) -> glib::Error {
    let text = format!("Panicked in {place}: {}", panic_text(panic));
    glib::Error::new(gst::LibraryError::Failed, &text)
}

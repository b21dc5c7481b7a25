//! Failures: one ERROR message a session, whatever goes wrong how often in whatever thread.

use std::any::Any;

use gst::prelude::*;

use super::session::Session;

/// Posts the error if it is the session's first, and makes everybody give up.
///
/// In this order: once the streaming thread gives up, upstream posts an error that says nothing,
/// and many applications read but the first.
pub(super) fn report(element: &super::QwenVL, session: &Session, error: gst::ErrorMessage) {
    if session.claim_failure() {
        let text = error.to_string();
        element.post_error_message(error);
        session.fail(&text);
    }
}

/// The error for a panic caught in the part of the element called `place`.
pub(super) fn panicked(place: &str, panic: &(dyn Any + Send)) -> gst::ErrorMessage {
    gst::error_msg!(
        gst::LibraryError::Failed,
        ("Panicked in {place}: {}", panic_text(panic))
    )
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

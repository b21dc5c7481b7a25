//! The hand-over between the threads, run by `loom` through every order in which they can take
//! their turns, up to a number of preemptions. A thread that nothing wakes is a deadlock, which
//! loom reports.
//!
//! What is checked is `session.rs` itself, compiled a second time with loom's locks for those of
//! `sync`; the text stream's part is checked in `text::model_check`.

#[path = "../monitor.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
pub(super) mod monitor;
mod scenarios;
#[path = "../session.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
mod session;
pub(super) mod sync;

use super::{sample, stats, text};

/// Runs `model` in every order with at most `preemptions` threads taken off the core.
pub(super) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    gst::init().unwrap();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        sync::time_is_over_after(usize::MAX);
        model();
    });
}

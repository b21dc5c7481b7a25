//! Checks the hand-over between the threads with `loom`, in every order of their steps up to a
//! number of preemptions. A thread that is never woken is a deadlock, which loom reports.
//!
//! The code under test is `session.rs` itself, compiled a second time with loom's locks in the
//! place of `sync`. `text::model_check` and `hold::model_check` do the same for their `stream.rs`.

#[path = "../monitor.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
pub(super) mod monitor;
mod scenarios;
#[path = "../session.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "with other locks")]
mod session;
pub(super) mod sync;

use super::{sample, stats, text};

/// Runs `model` in every order of its threads' steps with at most `preemptions` preemptions.
pub(super) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    gst::init().unwrap();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        sync::time_is_over_after(usize::MAX);
        model();
    });
}

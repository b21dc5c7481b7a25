//! Tests of the element from outside, a module for each subject. One program, so that the libraries
//! are linked once; cargo-nextest runs every test in a process of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

mod attach;
mod colour;
mod documented;
mod extreme_properties;
mod extreme_times;
mod failures;
mod inspect;
mod invariant;
mod json;
mod logs;
mod memory;
mod messages;
mod meta;
mod negotiation;
mod overload;
mod pass_through;
mod pool;
mod properties;
mod readable;
mod reasoning;
mod requests;
mod rtsp_faults;
mod scripts;
mod shown;
mod signal;
mod states;
mod stream;
mod text;
mod text_pad;
mod time;

// These need the engine and the demo model.
#[cfg(feature = "local")]
mod bad_models;
#[cfg(feature = "local")]
mod cookbook;
#[cfg(feature = "local")]
mod demo_model;
#[cfg(feature = "local")]
mod footage;
#[cfg(feature = "local")]
mod rtsp;
#[cfg(feature = "local")]
mod sharing;
#[cfg(feature = "local")]
mod silent_hub;

// These need GStreamer 1.24, and are there when it is: scripts/newer-gstreamer runs them.
#[cfg(feature = "analytics")]
mod analytics;
#[cfg(feature = "analytics")]
mod unixfd;

//! Tests of the element from outside, a module for each subject. One program, so that the libraries
//! are linked once; cargo-nextest runs every test in a process of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

mod attach;
mod bad_models;
mod colour;
mod cookbook;
mod demo_model;
mod documented;
mod extreme_properties;
mod extreme_times;
mod failures;
mod footage;
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
mod rtsp;
mod rtsp_faults;
mod scripts;
mod sharing;
mod shown;
mod signal;
mod states;
mod stream;
mod text;
mod text_pad;
mod time;

// These need GStreamer 1.24, and are there when it is: scripts/newer-gstreamer runs them.
#[cfg(feature = "analytics")]
mod analytics;
#[cfg(feature = "analytics")]
mod unixfd;

//! Pipelines with the real demo model.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gst::prelude::*;
use gstqwenvl::testing::{ModelOptions, load_options};
use qwen3_vl_core::load::{Loaded, Progress};

use super::{Messages, Run, loader};

pub const DESCRIBE: &str = "Describe the traffic.";

/// Loads a model for one element alone.
pub fn load(
    options: &ModelOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Loaded {
    qwen3_vl::load::load(&load_options(options).unwrap(), progress, cancel)
}

/// A pipeline that decodes a file into `qwenvl name=q` with an engine of its own.
pub fn file(path: &Path, properties: &str) -> Run {
    let line = format!("filesrc name=file ! decodebin ! qwenvl name=q {properties} ! fakesink");
    let run = Run::new(&line, loader(load));
    let source = run.pipeline.by_name("file").unwrap();
    source.set_property("location", path.to_str().unwrap());
    run
}

/// The texts of all descriptions; fails on errors and dropped windows.
pub fn texts(messages: &Messages) -> Vec<String> {
    assert!(messages.errors.is_empty(), "{:?}", messages.errors);
    assert_eq!(messages.dropped(), [""; 0], "dropped windows");
    let all = messages.descriptions();
    all.iter().map(|s| s.get("text").unwrap()).collect()
}

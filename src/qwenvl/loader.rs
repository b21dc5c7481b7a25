//! Loads the model in a thread of its own, with PROGRESS messages.
//!
//! It begins at READY→PAUSED, because `model` may still change in READY. The thread is never
//! joined: a download may notice late that it was cancelled, and a state change must not wait for
//! it. The result goes to the session that started the load, which may have ended by then.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gst::glib;
use gst::prelude::*;
use qwen3_vl_core::load::{LoadError, Progress};

use super::failure;
use super::imp::CAT;
use super::session::Session;
use crate::engines::{LoadFn, ModelOptions};

const CODE: &str = "load-model";

/// A load under way; dropping it cancels.
pub(super) struct Loader {
    cancel: Arc<AtomicBool>,
}

impl Loader {
    /// Starts to load.
    pub(super) fn start(
        element: &super::QwenVL,
        session: Arc<Session>,
        options: ModelOptions,
        load: LoadFn,
    ) -> std::io::Result<Self> {
        let cancel = Arc::new(AtomicBool::new(false));
        let task = Task {
            element: element.downgrade(),
            session,
            cancel: cancel.clone(),
        };
        thread::Builder::new()
            .name("qwenvl-load".into())
            .spawn(move || task.run(&options, &load))?;
        Ok(Self { cancel })
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

struct Task {
    element: glib::WeakRef<super::QwenVL>,
    session: Arc<Session>,
    cancel: Arc<AtomicBool>,
}

impl Task {
    fn run(&self, options: &ModelOptions, load: &LoadFn) {
        self.post(gst::ProgressType::Start, "Loading the model", 0);
        let mut last: Option<Progress> = None;
        let mut progress = |mut progress: Progress| {
            // A progress bar must not go back where loading follows the download.
            let before = last.as_ref().map_or(0, |last| last.percent);
            progress.percent = progress.percent.clamp(before, 100);
            if last.as_ref() != Some(&progress) {
                let text = format!("{}: {} %", progress.what, progress.percent);
                self.post(gst::ProgressType::Continue, &text, progress.percent);
                last = Some(progress);
            }
        };
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            load(options, &mut progress, &self.cancel)
        }));
        let cancelled = self.cancel.load(Ordering::Relaxed);
        let error = match result {
            Ok(Ok(_)) | Ok(Err(LoadError::Cancelled)) if cancelled => {
                self.post(gst::ProgressType::Canceled, "Loading was cancelled", 0);
                return;
            }
            Ok(Ok(backend)) => {
                let model = backend.model();
                let rounded = model.quantization.as_ref();
                let rounded = rounded.map_or(String::new(), |text| format!(" ({text})"));
                let compute = model.compute.map(|compute| format!(", compute={compute}"));
                let compute = compute.unwrap_or_default();
                let text = format!(
                    "Loaded {}{rounded} on {}{compute}",
                    model.name, model.runs_on
                );
                self.session.ready(backend);
                self.post(gst::ProgressType::Complete, &text, 100);
                static WARNED: AtomicBool = AtomicBool::new(false);
                if options.is_demo()
                    && let Some(element) = self.element.upgrade()
                    // Once a process, not once for each of eight cameras.
                    && !WARNED.swap(true, Ordering::Relaxed)
                {
                    gst::element_warning!(
                        element,
                        gst::ResourceError::Settings,
                        ("The demo model knows synthetic traffic scenes only"),
                        ["Set the property model to a folder or a hub id"]
                    );
                }
                return;
            }
            Ok(Err(error)) => failure::of_load(&error),
            Err(panic) => failure::panicked("the loader", &*panic),
        };
        self.post(gst::ProgressType::Error, "The model could not be loaded", 0);
        if let Some(element) = self.element.upgrade() {
            failure::report(&element, &self.session, &error);
        }
    }

    fn post(&self, kind: gst::ProgressType, text: &str, percent: u32) {
        let Some(element) = self.element.upgrade() else {
            return;
        };
        match kind {
            gst::ProgressType::Continue => gst::debug!(CAT, obj = element, "{text}"),
            _ => gst::info!(CAT, obj = element, "{text}"),
        }
        let message = gst::message::Progress::builder(kind, CODE, text)
            .src(&element)
            // GStreamer gives every progress message this field, and 0 in it.
            .other_field("percent", percent.min(100) as i32)
            .build();
        // Fails without a bus only, where no message is read.
        let _ = element.post_message(message);
    }
}

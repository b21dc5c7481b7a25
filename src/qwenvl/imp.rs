//! The GObject: pads, states, and the parts of a run.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::chain::Stream;
use super::failure;
use super::hold::{HeldBuffers, pad as hold};
use super::hooks::Hooks;
use super::loader::Loader;
use super::outlets::Outlets;
use super::session::Session;
use super::settings::{Settings, SettingsError};
use super::text::{Phase, Text, pad as text};
use super::worker::{Ids, Worker};
use crate::engines::{self, Unusable};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "qwenvl",
        gst::DebugColorFlags::empty(),
        Some("Qwen3-VL video describer"),
    )
});

pub struct QwenVL {
    pub(super) sinkpad: gst::Pad,
    pub(super) srcpad: gst::Pad,
    pub(super) textpad: Mutex<Option<gst::Pad>>,
    pub(super) text: Arc<Text>,
    pub(super) hold: Arc<HeldBuffers>,
    /// Replaced as a whole: the streaming thread compares the pointer to see a change.
    pub(super) settings: Mutex<Arc<Settings>>,
    pub(super) stream: Mutex<Stream>,
    /// Number of upstream's buffers that the worker holds.
    pub(super) sampled_buffers: Arc<AtomicUsize>,
    running: Mutex<Option<Running>>,
    hooks: Mutex<Hooks>,
    /// Numbers of the next window and request; they go on over all runs.
    ids: Arc<Mutex<Ids>>,
}

/// One run, from READY→PAUSED to PAUSED→READY.
struct Running {
    session: Arc<Session>,
    hooks: Hooks,
    outlets: Outlets,
    /// The worker is never joined, because it may compute.
    worker: thread::ThreadId,
    _loader: Loader,
}

/// How long a state change waits for the worker, which may compute or free an engine.
const STOP_TIMEOUT: Duration = Duration::from_millis(700);

/// Reports the end of the worker when dropped, also after a panic.
struct Gone(Arc<Session>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone();
    }
}

/// Locks a mutex. A poisoned one is used: none of these is half changed where code may panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QwenVL {
    pub(super) fn set_hooks(&self, hooks: Hooks) {
        *lock(&self.hooks) = hooks;
    }

    /// The session of this run, if the element runs.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        lock(&self.running).as_ref().map(|r| r.session.clone())
    }

    /// Whether this is the worker's thread, which is then in a handler of the application.
    pub(super) fn is_worker(&self) -> bool {
        let running = lock(&self.running);
        let worker = running.as_ref().map(|running| running.worker);
        worker == Some(thread::current().id())
    }

    pub(super) fn session_and_hooks(&self) -> Option<(Arc<Session>, Hooks)> {
        let running = lock(&self.running);
        running
            .as_ref()
            .map(|r| (r.session.clone(), r.hooks.clone()))
    }

    fn start(&self) -> Result<(), glib::Error> {
        let settings = lock(&self.settings).clone();
        let bad = |error: SettingsError| {
            glib::Error::new(gst::LibraryError::Settings, &error.to_string())
        };
        settings.rules().map_err(bad)?;
        let options = settings.model_options().map_err(bad)?;
        // A bad model fails the state change itself: gst-launch-1.0 may miss a later ERROR.
        engines::check(&options).map_err(|error| match error {
            Unusable::Setting(text) => glib::Error::new(gst::LibraryError::Settings, &text),
            Unusable::Model(error) => failure::of_load(&error),
        })?;
        let hooks = lock(&self.hooks).clone();
        let session = Arc::new(Session::default());
        *lock(&self.stream) = Stream::default();

        let no_thread = |error: std::io::Error| {
            let text = format!("Could not start a thread: {error}");
            glib::Error::new(gst::ResourceError::Failed, &text)
        };
        let outlets = Outlets::new(self.text.clone(), self.hold.clone());
        let worker = Worker::new(
            self.obj().clone(),
            session.clone(),
            &outlets,
            hooks.clone(),
            self.ids.clone(),
        );
        let gone = Gone(session.clone());
        let worker = thread::Builder::new()
            .name("qwenvl-worker".into())
            .spawn(move || {
                // Dropped after the worker and all that it holds.
                let _gone = gone;
                qwen3_vl_core::lower_priority();
                worker.run();
            })
            .map_err(no_thread)?;
        let loader = Loader::start(&self.obj(), session.clone(), options, hooks.load.clone());
        let loader = match loader {
            Ok(loader) => loader,
            Err(error) => {
                session.stop();
                return Err(no_thread(error));
            }
        };
        *lock(&self.running) = Some(Running {
            session,
            hooks,
            outlets,
            worker: worker.thread().id(),
            _loader: loader,
        });
        Ok(())
    }

    fn set(&self, value: &glib::Value, pspec: &glib::ParamSpec) {
        let name = pspec.name();
        let running = lock(&self.running).is_some();
        if running && !pspec.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING) {
            return self.warn(&format!(
                "{name} stays as it was: it can be set in NULL and READY only"
            ));
        }
        let (before, after, remark) = {
            let mut settings = lock(&self.settings);
            let before = settings.clone();
            let remark = super::properties::set(Arc::make_mut(&mut settings), name, value);
            (before, settings.clone(), remark.err())
        };
        if let Some(remark) = remark {
            self.warn(&remark.to_string());
        }
        if hold::longest_hold(&before) != hold::longest_hold(&after) {
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            // Fails without a bus only, where no message is read.
            let _ = self.obj().post_message(message);
        }
    }

    fn get(&self, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            super::properties::STATS => {
                let session = self.session();
                let stats = session.as_ref().map(|session| session.stats());
                let engine = session.map(|session| session.engine_use());
                let (stats, engine) = (stats.unwrap_or_default(), engine.unwrap_or_default());
                stats.structure(self.hold.len(), engine).to_value()
            }
            name => super::properties::get(&lock(&self.settings), name)
                .unwrap_or_else(|| pspec.default_value().clone()),
        }
    }

    /// Posts a WARNING about a property.
    fn warn(&self, text: &str) {
        gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
    }

    /// Posts the error if it is the first since READY, and ends the session.
    pub(super) fn fail(&self, error: &glib::Error) {
        if let Some(session) = self.session() {
            failure::report(&self.obj(), &session, error);
        }
    }

    /// Wakes all waiting threads, so that the pads can be deactivated.
    fn interrupt(&self) {
        if let Some(session) = self.session() {
            session.stop();
        }
    }

    fn stop(&self) {
        self.interrupt();
        let Some(running) = lock(&self.running).take() else {
            return;
        };
        if !running.session.wait_gone(STOP_TIMEOUT) {
            gst::info!(CAT, imp = self, "The worker is at work and ends by itself");
        }
        running.outlets.close();
        *lock(&self.stream) = Stream::default();
    }
}

#[glib::object_subclass]
impl ObjectSubclass for QwenVL {
    const NAME: &'static str = "GstQwenVL";
    type Type = super::QwenVL;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let flags = gst::PadFlags::PROXY_CAPS
            | gst::PadFlags::PROXY_ALLOCATION
            | gst::PadFlags::PROXY_SCHEDULING;
        let builder = |name, direction| match class.pad_template(name) {
            Some(template) => gst::Pad::builder_from_template(&template),
            None => gst::Pad::builder(direction).name(name),
        };
        let sinkpad = builder("sink", gst::PadDirection::Sink)
            .chain_function(|pad, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.chain(pad, buffer),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_query(pad, query))
            })
            .iterate_internal_links_function(|_, parent| {
                Self::catch_panic_pad_function(
                    parent,
                    || gst::Iterator::from_vec(Vec::new()),
                    |imp| gst::Iterator::from_vec(vec![imp.srcpad.clone()]),
                )
            })
            .flags(flags)
            .build();
        let srcpad = Self::new_src_pad(builder("src", gst::PadDirection::Src), flags);
        Self {
            sinkpad,
            srcpad,
            textpad: Mutex::default(),
            text: Arc::default(),
            hold: Arc::default(),
            settings: Mutex::default(),
            stream: Mutex::default(),
            sampled_buffers: Arc::default(),
            running: Mutex::default(),
            hooks: Mutex::default(),
            ids: Arc::default(),
        }
    }
}

impl ObjectImpl for QwenVL {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(super::properties::specs);
        &PROPERTIES
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        super::signals::all()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        failure::guarded(&self.obj(), "a property's setter", || {
            self.set(value, pspec);
        });
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let value = failure::guarded(&self.obj(), "a property's getter", || self.get(pspec));
        value.unwrap_or_else(|| pspec.default_value().clone())
    }

    fn constructed(&self) {
        self.parent_constructed();
        let element = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            if let Err(error) = element.add_pad(pad) {
                gst::error!(CAT, imp = self, "{error}");
            }
        }
    }
}

impl GstObjectImpl for QwenVL {}

impl ElementImpl for QwenVL {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Qwen3-VL video describer",
                "Filter/Analyzer/Video",
                "Describes the video that passes through it with Qwen3-VL, in the process. Every \
                 window of a few seconds ends in an element message qwenvl/description or \
                 qwenvl/dropped; descriptions also come as signal, as QwenVLDescriptionMeta on \
                 buffers and as timed text on the request pad text",
                env!("CARGO_PKG_REPOSITORY"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let video = super::memory::template_caps();
            let always = gst::PadPresence::Always;
            let source = gst::PadDirection::Src;
            [
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &video),
                gst::PadTemplate::new("src", source, always, &video),
                gst::PadTemplate::new(text::NAME, source, gst::PadPresence::Request, &text::caps()),
            ]
            .into_iter()
            .filter_map(Result::ok)
            .collect()
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let pad = Self::new_text_pad(template);
        // The lock ends here: a log function of the application may do anything.
        let taken = *lock(&self.textpad).get_or_insert_with(|| pad.clone()) != pad;
        if taken {
            gst::warning!(CAT, imp = self, "There is a text pad already");
            return None;
        }
        if let Err(error) = self.obj().add_pad(&pad) {
            gst::error!(CAT, imp = self, "{error}");
            *lock(&self.textpad) = None;
            return None;
        }
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let ours = lock(&self.textpad).take_if(|text| text == pad);
        if ours.is_some() {
            self.release_text(pad);
        }
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        gst::debug!(CAT, imp = self, "{transition:?}");
        match transition {
            gst::StateChange::ReadyToPaused => {
                self.text.set_phase(Phase::Preroll);
                self.start().map_err(|error| {
                    failure::post(&self.obj(), &error);
                    gst::StateChangeError
                })?;
            }
            // The worker would wait for itself.
            gst::StateChange::PausedToReady if self.is_worker() => {
                self.warn(
                    "The state cannot be changed in a handler of the element's messages and \
                     signals: do it in another thread",
                );
                return Err(gst::StateChangeError);
            }
            gst::StateChange::PausedToReady => self.interrupt(),
            gst::StateChange::PausedToPlaying => self.text.set_phase(Phase::Playing),
            gst::StateChange::PlayingToPaused => self.text.set_phase(Phase::Paused),
            _ => (),
        }
        let result = self.parent_change_state(transition);
        match transition {
            gst::StateChange::PausedToReady => self.stop(),
            gst::StateChange::ReadyToPaused if result.is_err() => self.stop(),
            _ => (),
        }
        result
    }
}

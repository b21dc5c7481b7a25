//! The source pad and, with `attach=window`, its task.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;

use super::{Item, StreamPosition};
use crate::qwenvl::imp::{CAT, QwenVL, lock};
use crate::qwenvl::settings::{Attach, Settings};
use crate::qwenvl::time::{self, clock_time};

/// By how much a frame may leave after its deadline, because threads do not run at once.
const SLACK: gst::ClockTime = gst::ClockTime::from_mseconds(50);

/// The longest time that a frame is held: from the arrival of a window's first frame until the wait
/// for the window's answer ends.
pub(in crate::qwenvl) fn longest_hold(settings: &Settings) -> gst::ClockTime {
    let wait = settings.window_duration;
    clock_time(wait.saturating_add(settings.attach_timeout))
}

impl QwenVL {
    /// The pad, not yet active.
    pub(in crate::qwenvl) fn new_src_pad(
        builder: gst::PadBuilder<gst::Pad>,
        flags: gst::PadFlags,
    ) -> gst::Pad {
        builder
            .activatemode_function(|pad, parent, _, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic")),
                    |imp| imp.activate_src(pad, active),
                )
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_query(pad, query))
            })
            .flags(flags)
            .build()
    }

    fn activate_src(&self, pad: &gst::Pad, active: bool) -> Result<(), gst::LoggableError> {
        if !active {
            self.hold.stop();
            return pad.stop_task().map_err(|_| {
                gst::loggable_error!(CAT, "The task of the source pad does not stop")
            });
        }
        if lock(&self.settings).attach != Attach::Window {
            return Ok(());
        }
        self.hold.start();
        self.start_src(pad)
            .map_err(|_| gst::loggable_error!(CAT, "The task of the source pad does not start"))
    }

    fn start_src(&self, pad: &gst::Pad) -> Result<(), gst::glib::BoolError> {
        self.start_task(pad, "the source pad", |this, pad| match this.hold.next() {
            Some((item, descriptions)) => this.push_item(pad, item, descriptions),
            None => drop(pad.pause_task()),
        })
    }

    /// Pushes an entry of the hold queue, in the source pad's task.
    fn push_item(&self, pad: &gst::Pad, item: Item, descriptions: Vec<gst::Structure>) {
        match item {
            Item::Event(event) => {
                pad.push_event(event);
            }
            Item::Buffer(mut buffer, position) => {
                self.attach(&mut buffer, descriptions);
                if let Err(error) = self.push(buffer, position) {
                    gst::debug!(CAT, obj = pad, "Downstream says {error}");
                    self.hold.refused(error);
                }
            }
        }
    }

    /// Holds a frame until it may leave.
    pub(in crate::qwenvl) fn hold(
        &self,
        buffer: gst::Buffer,
        at: Option<StreamPosition>,
        live: bool,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = lock(&self.settings).clone();
        let longest = Duration::from(longest_hold(&settings));
        // A live frame leaves within the latency that the LATENCY query reports.
        let deadline = live.then(|| Instant::now().checked_add(longest)).flatten();
        // One window leaves at the pace of the sink while the next one comes in.
        let window = Duration::from_nanos(settings.window_duration);
        let mut limit = window.saturating_mul(2);
        if live {
            limit = limit.saturating_add(longest);
        }
        let position = lock(&self.stream).position;
        self.hold
            .push(Item::Buffer(buffer, position), at, deadline, limit)
    }

    /// Puts an event behind the held frames. `false` if downstream refuses it.
    pub(in crate::qwenvl) fn hold_event(&self, event: gst::Event) -> bool {
        let eos = event.type_() == gst::EventType::Eos;
        let Err(error) = self.hold.event(event) else {
            return true;
        };
        // Nothing follows EOS, so no later push would report the error.
        if eos && ![gst::FlowError::Flushing, gst::FlowError::Eos].contains(&error) {
            self.fail(&gst::glib::Error::new(
                gst::StreamError::Failed,
                &format!("Downstream takes no video: {error}"),
            ));
        }
        false
    }

    /// Begins a flush of the source pad.
    pub(in crate::qwenvl) fn hold_flush_start(&self, event: &gst::Event) {
        self.hold.flush_start();
        self.srcpad.push_event(event.clone());
        if self.hold.active() {
            // Waits for the task to pause: it must push nothing from before the flush after this.
            let _ = self.srcpad.pause_task();
        }
    }

    /// Ends a flush of the source pad.
    pub(in crate::qwenvl) fn hold_flush_stop(&self, event: &gst::Event) {
        self.srcpad.push_event(event.clone());
        self.hold.flush_stop();
        if self.hold.active() && self.start_src(&self.srcpad).is_err() {
            gst::warning!(
                CAT,
                imp = self,
                "The source pad's task does not start again"
            );
        }
    }

    /// The latency that the element adds to live video.
    pub(in crate::qwenvl) fn latency(&self, settings: &Settings) -> gst::ClockTime {
        match settings.attach {
            Attach::Next => gst::ClockTime::ZERO,
            Attach::Window => longest_hold(settings).saturating_add(SLACK),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let done = gst::Pad::query_default(pad, Some(&*self.obj()), query);
        if let gst::QueryViewMut::Latency(query) = query.view_mut()
            && done
        {
            let (live, min, max) = time::of_latency(query);
            let settings = lock(&self.settings).clone();
            if let (true, Some(min)) = (live, min) {
                // Held buffers are downstream's buffering too, so the maximum grows as much.
                let own = self.latency(&settings);
                query.set(
                    live,
                    min.saturating_add(own),
                    max.map(|max| max.saturating_add(own)),
                );
            }
        }
        done
    }
}

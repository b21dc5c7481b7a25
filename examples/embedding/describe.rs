//! Prints what `qwenvl` says about a video, from its bus messages or, with `--signal`, from its
//! signal. The same program in Python and C lies next to it. GStreamer finds the plugin by
//! `GST_PLUGIN_PATH`; only the type [`Description`] comes from its crate.
//!
//! ```bash
//! cargo run --release --example describe -- [--signal] FILE-or-URI [MODEL]
//! ```
#![allow(clippy::print_stdout, reason = "lines on stdout are its purpose")]

use std::io::{self, Write};

use anyhow::{Context, bail};
use gst::glib;
use gst::prelude::*;
use gstqwenvl::message::{DESCRIPTION, Description};

const USAGE: &str = "usage: describe [--signal] FILE-or-URI [MODEL]";

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let by_signal = arguments.first().is_some_and(|first| first == "--signal");
    arguments.drain(..usize::from(by_signal));
    let (video, model) = match arguments.as_slice() {
        [help] if help == "--help" => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return Ok(());
        }
        [video] => (video, "demo"),
        [video, model] => (video, model.as_str()),
        _ => bail!(USAGE),
    };
    gst::init()?;
    let pipeline = gst::parse::launch("uridecodebin name=video ! qwenvl name=describe ! fakesink")?
        .downcast::<gst::Pipeline>()
        .ok()
        .context("not a pipeline")?;
    let source = pipeline.by_name("video").context("no source")?;
    let qwenvl = pipeline.by_name("describe").context("no qwenvl")?;
    source.set_property("uri", uri(video)?);
    qwenvl.set_property("model", model);
    if by_signal {
        // Comes in a thread of the element, which waits until this returns.
        qwenvl.connect("description", false, |values| {
            let structure = values.get(1).map(|value| value.get::<gst::Structure>());
            if let Some(Ok(structure)) = structure
                && let Ok(description) = Description::try_from(structure.as_ref())
            {
                // An error means that the reader has gone; a panic here would end the program.
                let _ = print(&description);
            }
            None
        });
    }

    let bus = pipeline.bus().context("no bus")?;
    // If this fails, the bus has the ERROR.
    let _ = pipeline.set_state(gst::State::Playing);
    let end = watch(&bus, !by_signal);
    pipeline.set_state(gst::State::Null)?;
    end
}

/// Reads the bus to the end of the stream or the first error.
fn watch(bus: &gst::Bus, by_message: bool) -> anyhow::Result<()> {
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => bail!("{}", error.error()),
            gst::MessageView::Element(element) if by_message => {
                let structure = element.structure().filter(|s| s.has_name(DESCRIPTION));
                if let Some(structure) = structure
                    && print(&Description::try_from(structure)?).is_err()
                {
                    // The reader has gone.
                    break;
                }
            }
            _ => (),
        }
    }
    Ok(())
}

fn print(description: &Description) -> io::Result<()> {
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    writeln!(
        io::stdout(),
        "{:.1} - {:.1} s: {}",
        seconds(description.window.start_running_time),
        seconds(description.window.end_running_time),
        description.text
    )
}

fn uri(video: &str) -> anyhow::Result<glib::GString> {
    if video.contains("://") {
        return Ok(video.into());
    }
    let path = std::path::absolute(video)?;
    Ok(glib::filename_to_uri(path, None)?)
}

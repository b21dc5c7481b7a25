//! Serves an H.264 file (MP4) over RTSP on the loopback, in real time and from its start to every
//! client. Prints the URL and runs until it is killed.
//!
//! ```bash
//! cargo run --release --example rtsp-server -- media/film.mp4
//! ```
#![allow(clippy::print_stdout, reason = "the URL is the program's output")]

use std::io::{self, Write};

use anyhow::{Context, bail};
use gst::glib;
use gst_rtsp_server::prelude::*;

const USAGE: &str = "usage: rtsp-server FILE.mp4";

fn main() -> anyhow::Result<()> {
    let file = match std::env::args().nth(1) {
        Some(help) if help == "--help" => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return Ok(());
        }
        Some(file) => file,
        None => bail!(USAGE),
    };
    gst::init()?;
    let server = gst_rtsp_server::RTSPServer::new();
    mount(&server, &file)?;
    let _source = server.attach(None)?;
    writeln!(
        io::stdout(),
        "rtsp://127.0.0.1:{}/video",
        server.bound_port()
    )?;
    glib::MainLoop::new(None, false).run();
    Ok(())
}

/// Mounts `file` at `/video`, on any free port of the loopback.
fn mount(server: &gst_rtsp_server::RTSPServer, file: &str) -> anyhow::Result<()> {
    std::fs::metadata(file).with_context(|| format!("cannot read {file}"))?;
    server.set_address("127.0.0.1");
    server.set_service("0");
    let factory = gst_rtsp_server::RTSPMediaFactory::new();
    let file = file.replace('\\', "\\\\").replace('"', "\\\"");
    factory.set_launch(&format!(
        "( filesrc location=\"{file}\" ! qtdemux ! h264parse ! \
         rtph264pay name=pay0 pt=96 config-interval=-1 )"
    ));
    let mounts = server.mount_points().context("a server without mounts")?;
    mounts.add_factory("/video", factory);
    Ok(())
}

//! Makes the messages of `qwenvl` readable: reads the output of `gst-launch-1.0 -m` and prints a
//! line for every description and every dropped window. Errors, warnings and progress pass through.
//! Fails if nothing was described.
//!
//! ```bash
//! gst-launch-1.0 -m filesrc location=media/film.mp4 ! decodebin ! qwenvl ! fakesink |
//!     cargo run --release --example readable
//! ```
#![allow(clippy::print_stdout, reason = "lines on stdout are its purpose")]

use std::io::BufRead;
use std::process::ExitCode;
use std::str::FromStr;

const PASS: [&str; 3] = ["ERROR", "WARNING", "Progress:"];

fn main() -> anyhow::Result<ExitCode> {
    gst::init()?;
    let mut described = 0_u64;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(structure) = structure(&line) {
            described += u64::from(structure.name() == "qwenvl/description");
            println!("{}", sentence(&structure));
        } else if PASS.iter().any(|start| line.starts_with(start)) {
            println!("{line}");
        }
    }
    Ok(match described {
        0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The structure in `Got message #7 from element "q" (element): qwenvl/…;`, if that is the line.
fn structure(line: &str) -> Option<gst::Structure> {
    let (_, text) = line.split_once("(element): ")?;
    let structure = gst::Structure::from_str(text).ok()?;
    ["qwenvl/description", "qwenvl/dropped"]
        .contains(&structure.name().as_str())
        .then_some(structure)
}

fn sentence(s: &gst::Structure) -> String {
    let start = nanoseconds(s, "start-running-time").map_or_else(|| "?".into(), clock);
    let end = nanoseconds(s, "end-running-time").map_or_else(|| "?".into(), clock);
    let text = |name| s.get::<String>(name).unwrap_or_default();
    if s.name() == "qwenvl/dropped" {
        let (reason, message) = (text("reason"), text("message"));
        return format!("{start} – {end}  not described: {reason} {message}")
            .trim_end()
            .to_owned();
    }
    let took = nanoseconds(s, "last-token-time").unwrap_or(0) as f64 / 1e9;
    format!(
        "{start} – {end}  {}  (answered {took:.2} s after its last frame)",
        text("text")
    )
}

fn nanoseconds(s: &gst::Structure, name: &str) -> Option<u64> {
    s.get(name).ok()
}

/// Minutes, seconds and tenths.
fn clock(nanoseconds: u64) -> String {
    let tenths = (nanoseconds + 50_000_000) / 100_000_000;
    format!(
        "{:02}:{:02}.{}",
        tenths / 600,
        tenths / 10 % 60,
        tenths % 10
    )
}

//! Makes the messages of `qwenvl` readable: reads the output of `gst-launch-1.0 -m` and prints a
//! line for every description and every dropped window. Fails if nothing was described.
//!
//! ```bash
//! gst-launch-1.0 -m filesrc location=media/film.mp4 ! decodebin ! qwenvl ! fakesink |
//!     cargo run --release --example readable -- --json | jq .text
//! ```
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program for shells"
)]

use std::io::{self, BufRead, ErrorKind, Write};
use std::process::ExitCode;
use std::str::FromStr;

use gst::glib;

const HELP: &str = "\
gst-launch-1.0 -m … 2>&1 | readable [--json]

Prints a line for every description and every dropped window of qwenvl, as soon as it is there.

  --json   a JSON object a line, as docs/messages.md describes it; all else goes to stderr
  --help   this text

Errors, warnings and progress pass through. Ends with 1 if nothing was described.";

/// Beginnings of lines that are copied.
const PASS: [&str; 3] = ["ERROR", "WARNING", "Progress:"];

fn main() -> ExitCode {
    let mut as_json = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => as_json = true,
            "--help" | "-h" => {
                let _ = writeln!(io::stdout(), "{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("readable: {other} is no option\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    match read(io::stdin().lock(), io::stdout().lock(), as_json) {
        Ok(0) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        // The reader has ended, as in `readable | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("readable: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for each message, and counts the descriptions.
fn read(mut input: impl BufRead, mut output: impl Write, as_json: bool) -> io::Result<u64> {
    gst::init().map_err(io::Error::other)?;
    let mut described = 0;
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if let Some(structure) = structure(text) {
            described += u64::from(structure.name() == "qwenvl/description");
            match as_json {
                true => writeln!(output, "{}", string(&structure, "json-message"))?,
                false => writeln!(output, "{}", sentence(&structure))?,
            }
        } else if PASS.iter().any(|start| text.starts_with(start)) {
            match as_json {
                true => eprintln!("{text}"),
                false => writeln!(output, "{text}")?,
            }
        }
        output.flush()?;
        line.clear();
    }
    Ok(described)
}

/// The structure in a line such as `Got message #7 from element "q" (element): qwenvl/…;`.
fn structure(line: &str) -> Option<gst::Structure> {
    let (_, text) = line.split_once("(element): ")?;
    let structure = gst::Structure::from_str(text).ok()?;
    ["qwenvl/description", "qwenvl/dropped"]
        .contains(&structure.name().as_str())
        .then_some(structure)
}

/// Stream, window, and its description or reason.
fn sentence(s: &gst::Structure) -> String {
    let start = nanoseconds(s, "start-running-time").map_or_else(|| "?".into(), clock);
    let end = nanoseconds(s, "end-running-time").map_or_else(|| "?".into(), clock);
    let utc = nanoseconds(s, "utc").and_then(date).unwrap_or_default();
    let window = format!("{}  {utc}{start} – {end}", line(&string(s, "stream-id")));
    if s.name() == "qwenvl/dropped" {
        let (reason, message) = (string(s, "reason"), line(&string(s, "message")));
        let text = format!("{window}  not described: {reason} {message}");
        return text.trim_end().to_owned();
    }
    let mark = match string(s, "finish-reason").as_str() {
        "stop" => String::new(),
        "length" => " […] (cut off at max-tokens)".into(),
        "repetition" => " […] (it repeats itself)".into(),
        other => format!(" […] ({other})"),
    };
    let took = nanoseconds(s, "last-token-time").unwrap_or(0) as f64 / 1e9;
    format!(
        "{window}  {}{mark}  (answered {took:.2} s after its last frame)",
        line(&string(s, "text"))
    )
}

fn string(s: &gst::Structure, name: &str) -> String {
    s.get(name).unwrap_or_default()
}

fn nanoseconds(s: &gst::Structure, name: &str) -> Option<u64> {
    s.get(name).ok()
}

/// A text in one line, without control characters for the terminal.
fn line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Date and time of nanoseconds since 1970.
fn date(utc: u64) -> Option<String> {
    let seconds = i64::try_from(utc / 1_000_000_000).ok()?;
    let date = glib::DateTime::from_unix_utc(seconds).ok()?;
    let text = date.format("%Y-%m-%dT%H:%M:%S").ok()?;
    Some(format!("{text}.{:03}Z  ", utc / 1_000_000 % 1000))
}

/// Minutes, seconds and tenths.
fn clock(nanoseconds: u64) -> String {
    let tenths = nanoseconds.saturating_add(50_000_000) / 100_000_000;
    format!(
        "{:02}:{:02}.{}",
        tenths / 600,
        tenths / 10 % 60,
        tenths % 10
    )
}

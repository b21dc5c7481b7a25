//! The program `readable`, which cargo builds next to the tests.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// An answer with characters that are special to shells, GStreamer's structures and terminals.
const TEXT: &str =
    "She said \"stop; go\\\" (string)x, NULL\r\n\tüber 🚦 \u{1}\u{1b}[2J \u{2028} {a} <b> [c]";

fn readable(arguments: &[&str]) -> Child {
    let tests = std::env::current_exe().unwrap();
    let release = tests.parent().unwrap().parent().unwrap();
    let program: PathBuf = release.join("examples/readable");
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The program's output for these lines.
fn read(arguments: &[&str], lines: &[u8]) -> Output {
    let mut child = readable(arguments);
    child.stdin.take().unwrap().write_all(lines).unwrap();
    child.wait_with_output().unwrap()
}

fn line(structure: &gst::Structure) -> String {
    format!("Got message #7 from element \"q\" (element): {structure}\n")
}

fn description(text: &str, finish_reason: &str) -> gst::Structure {
    gst::init().unwrap();
    let json = serde_json::json!({"stream-id": "gate 3", "text": text});
    gst::Structure::builder("qwenvl/description")
        .field("stream-id", "gate 3")
        .field("start-running-time", 3_599_950_000_000_u64)
        .field("end-running-time", 3_604_000_000_000_u64)
        .field("frame-pts", gst::Array::new([1_u64, 2]))
        .field("text", text)
        .field("finish-reason", finish_reason)
        .field("last-token-time", 1_234_000_000_u64)
        .field("json-message", json.to_string())
        .build()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn json_is_what_the_message_holds() {
    let described = description(TEXT, "stop");
    let dropped = gst::Structure::builder("qwenvl/dropped")
        .field("reason", "overload")
        .field("json-message", "{\"reason\":\"overload\"}")
        .build();
    let token = gst::Structure::builder("qwenvl/token")
        .field("json-message", "{}")
        .build();
    let lines = [
        "Setting pipeline to PLAYING ...\n".to_owned(),
        line(&described),
        line(&token),
        "WARNING: from element q: careful\n".to_owned(),
        line(&dropped),
    ];
    let output = read(&["--json"], lines.concat().as_bytes());
    assert!(output.status.success());
    let said: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let want = [
        serde_json::json!({"stream-id": "gate 3", "text": TEXT}),
        serde_json::json!({"reason": "overload"}),
    ];
    assert_eq!(said, want);
    let rest = text(&output.stderr);
    assert_eq!(rest, "WARNING: from element q: careful\n");
}

#[test]
fn a_line_for_people() {
    let mut with_utc = description("Short.", "length");
    with_utc.set("utc", 1_704_067_200_123_456_789_u64);
    let lines = [
        line(&description(TEXT, "stop")),
        line(&with_utc),
        line(&description("Four Four", "repetition")),
    ];
    let output = read(&[], lines.concat().as_bytes());
    assert!(output.status.success());
    let said: Vec<&str> = text(&output.stdout).lines().collect();
    let window = "gate 3  60:00.0 – 60:04.0";
    let took = "(answered 1.23 s after its last frame)";
    // Neither lines nor commands to the terminal are left.
    let plain = "She said \"stop; go\\\" (string)x, NULL über 🚦 [2J {a} <b> [c]";
    let want = [
        format!("{window}  {plain}  {took}"),
        format!(
            "gate 3  2024-01-01T00:00:00.123Z  60:00.0 – 60:04.0  Short. […] \
             (cut off at max-tokens)  {took}"
        ),
        format!("{window}  Four Four […] (it repeats itself)  {took}"),
    ];
    assert_eq!(said, want);
}

/// As in `readable | head -1`.
#[test]
fn a_reader_that_goes_ends_it_quietly() {
    for arguments in [&[][..], &["--json"]] {
        let mut child = readable(arguments);
        let mut input = child.stdin.take().unwrap();
        let one = line(&description("One.", "stop"));
        input.write_all(one.as_bytes()).unwrap();
        // It is there at once, although more may come.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        assert!(said.contains("One."), "{said}");
        drop(output);
        // It ends at the next line; later writes fail.
        while input.write_all(one.as_bytes()).is_ok() {}
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn how_it_ends() {
    let code = |arguments: &[&str], lines: &[u8]| read(arguments, lines).status.code();
    assert_eq!(code(&[], b"nothing\n"), Some(1));
    // A line that is no UTF-8 ends nothing.
    let mut lines = b"ERROR: caf\xe9\n".to_vec();
    lines.extend(line(&description("One.", "stop")).bytes());
    let output = read(&[], &lines);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("ERROR: caf\u{fffd}\ngate 3"));
    let help = read(&["--help"], b"");
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--json"));
    assert_eq!(read(&["--yaml"], b"").status.code(), Some(2));
}

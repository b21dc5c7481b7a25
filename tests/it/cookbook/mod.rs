//! Runs every command of docs/cookbook.md and README.md as a reader does: in a shell, by
//! `gst-launch-1.0`, with the plugin as a file, and checks its output ([`products`]).
//! [`substitutes`] replaces what a test machine does not have.

mod products;
mod servers;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;

use self::products::Made;
use self::servers::{Broker, Webhook};
use crate::common::rtsp::Server;
use crate::common::{self, media, schema};

const PAGE: &str = include_str!("../../../docs/cookbook.md");
const README: &str = include_str!("../../../README.md");

/// File in place of a window on the screen: see [`products`].
const SCREEN: &str = "screen";

/// Commands run side by side: most of them wait for a camera.
const AT_ONCE: usize = 4;

/// Parts of the commands, and their replacements.
fn substitutes(camera: &str, broker: Option<u16>, webhook: u16) -> Vec<(&'static str, String)> {
    let text = String::from;
    let source = "videotestsrc is-live=true pattern=black num-buffers=360 ! \
                  video/x-raw,width=320,height=240,framerate=30/1";
    let broker = broker.map(|port| ("-h broker", format!("-h 127.0.0.1 -p {port}")));
    let others = [
        ("rtsp://camera/stream", text(camera)),
        ("rtsp://gate/stream", text(camera)),
        ("rtsp://$camera/stream", text(camera)),
        (
            "v4l2src device=/dev/video0 ! image/jpeg,",
            format!("{source} ! jpegenc ! image/jpeg,"),
        ),
        ("image/jpeg,width=1280,height=720", text("image/jpeg")),
        ("v4l2src device=/dev/video0", text(source)),
        ("v4l2src", text(source)),
        (
            "autovideosink",
            format!(
                "videoconvert ! videoscale ! videorate ! \
                 video/x-raw,format=GRAY8,width=640,height=480,pixel-aspect-ratio=1/1,\
                 framerate=1/1 ! filesink location={SCREEN}.grey"
            ),
        ),
        ("Qwen/Qwen3-VL-2B-Instruct", text("demo")),
        (
            "/models/Qwen3-VL-4B-Instruct",
            root().join("models/demo").display().to_string(),
        ),
        ("while true", text("for turn in 1 2")),
        ("sleep 5", text("sleep 1")),
        ("http://server", format!("http://127.0.0.1:{webhook}")),
    ];
    broker.into_iter().chain(others).collect()
}

/// The needs of a command, by which the tests divide them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Broker,
    Webhook,
    Rtsp,
    Webcam,
    File,
}

fn group(command: &str) -> Group {
    match command {
        _ if command.contains("-h broker") => Group::Broker,
        _ if command.contains("http://server") => Group::Webhook,
        _ if command.contains("rtsp://") => Group::Rtsp,
        _ if command.contains("v4l2src") => Group::Webcam,
        _ => Group::File,
    }
}

#[test]
fn every_substitute_is_used() {
    let commands = all_commands();
    assert!(commands.len() >= 35, "{commands:#?}");
    for (original, _) in substitutes("", Some(0), 0) {
        let used = commands.iter().any(|command| command.contains(original));
        assert!(used, "{original} does not occur");
    }
}

#[test]
fn files() {
    cook_all(Group::File, &substitutes("", None, 0));
}

#[test]
fn webcams() {
    cook_all(Group::Webcam, &substitutes("", None, 0));
}

#[test]
fn rtsp_cameras() {
    common::init();
    // Two windows, and a partial one at the end.
    let server = Server::short(100);
    cook_all(Group::Rtsp, &substitutes(&server.url("rtsp"), None, 0));
}

#[test]
fn a_webhook() {
    let webhook = Webhook::new();
    cook_all(Group::Webhook, &substitutes("", None, webhook.port));
    film_in_json(&webhook.bodies.lock().unwrap());
}

#[test]
#[allow(clippy::print_stderr, reason = "says what was not run")]
fn mqtt() {
    let Some(broker) = Broker::new() else {
        eprintln!("mosquitto is not installed: its command is NOT run");
        return;
    };
    cook_all(Group::Broker, &substitutes("", Some(broker.port), 0));
    film_in_json(&broker.messages());
}

fn all_commands() -> Vec<String> {
    let mut commands = commands(PAGE);
    commands.extend(launches(README));
    commands
}

/// Runs the commands of a group, some of them side by side.
fn cook_all(wanted: Group, substitutes: &[(&str, String)]) {
    common::init();
    let mut commands = all_commands();
    commands.retain(|command| group(command) == wanted);
    assert!(!commands.is_empty(), "{wanted:?}");
    let kitchen = Kitchen::new();
    let queue = Mutex::new(commands.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(command) = queue.lock().unwrap().next() else {
                        return;
                    };
                    if let Err(why) = kitchen.cook(command, substitutes) {
                        let failure = format!("{command}\n{why}");
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// One message for each scene, whole.
fn film_in_json(messages: &[String]) {
    let schema = include_str!("../../../docs/messages.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    assert_eq!(messages.len(), media::rows("film.json").len());
    for (i, message) in messages.iter().enumerate() {
        let json: serde_json::Value = serde_json::from_str(message).unwrap();
        schema::check(&schema, &json);
        assert_eq!(json["window-id"], i);
    }
}

/// The commands by gst-launch-1.0 among others.
fn launches(page: &str) -> Vec<String> {
    let mut blocks = page.split("```sh\n").skip(1);
    let blocks = blocks
        .by_ref()
        .map(|rest| rest.split("```").next().unwrap());
    let whole = blocks.map(|block| block.replace("\\\n", ""));
    let lines = whole.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    lines
        .filter(|line| line.starts_with("gst-launch-1.0 "))
        .collect()
}

/// All commands in the page's code: a command is a line, with those that it is continued on, or a
/// loop up to its `wait`.
fn commands(page: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut inside, mut continued, mut looping) = (false, false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            assert!(!continued && !looping, "unfinished: {line}");
            inside = !inside;
            assert!(!inside || line == "```sh", "not run: {line}");
        } else if inside {
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part.to_owned(), true),
                None if looping => (format!("{line}\n"), false),
                None => (line.to_owned(), false),
            };
            match commands.last_mut() {
                Some(command) if continued || looping => *command += &part,
                _ => {
                    looping = line.starts_with("for ");
                    let known = looping || line.starts_with("gst-launch-1.0 ");
                    assert!(known, "not run: {line}");
                    commands.push(part);
                    if looping {
                        commands.last_mut().unwrap().push('\n');
                    }
                }
            }
            looping &= line != "wait";
            continued = more;
        }
    }
    commands
}

/// The folder in which the commands run.
struct Kitchen(tempfile::TempDir);

impl Kitchen {
    fn new() -> Self {
        let kitchen = Self(tempfile::tempdir().unwrap());
        // Built with the library that this test is linked to, next to the test. Alone in its
        // folder, because GStreamer looks at every library there.
        let tests = std::env::current_exe().unwrap();
        let plugin = tests.with_file_name("libgstqwenvl.so");
        let readable = tests.parent().unwrap().with_file_name("examples/readable");
        fs::create_dir(kitchen.0.path().join("bin")).unwrap();
        symlink(readable, kitchen.0.path().join("bin/readable")).unwrap();
        fs::create_dir(kitchen.plugins()).unwrap();
        fs::copy(plugin, kitchen.plugins().join("libgstqwenvl.so")).unwrap();
        // Fills the registry, once for all.
        let inspected = kitchen.shell(Path::new("/"), "gst-inspect-1.0 qwenvl");
        assert!(inspected.status.success(), "{inspected:?}");
        kitchen
    }

    fn plugins(&self) -> PathBuf {
        self.0.path().join("plugins")
    }

    fn shell(&self, folder: &Path, command: &str) -> Output {
        Command::new("timeout")
            .args(["60", "bash", "-euo", "pipefail", "-c", command])
            .current_dir(folder)
            .env("GST_PLUGIN_PATH", self.plugins())
            .env(
                "PATH",
                format!("{}:{}", self.0.path().join("bin").display(), env!("PATH")),
            )
            .env("GST_REGISTRY", self.0.path().join("registry.bin"))
            .output()
            .unwrap()
    }

    /// Runs a command. It must succeed, every `qwenvl` in it must have ended a window, and its
    /// output must be right.
    fn cook(&self, original: &str, substitutes: &[(&str, String)]) -> Result<(), String> {
        let elements = original.split(' ').filter(|word| *word == "qwenvl").count();
        let mut command = original.to_owned();
        for (original, substitute) in substitutes {
            command = command.replace(original, substitute);
        }
        let folder = tempfile::tempdir_in(self.0.path()).unwrap();
        symlink(root().join("media"), folder.path().join("media")).unwrap();
        let output = self.shell(folder.path(), &command);
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("ERROR") {
            let end: Vec<&str> = said
                .lines()
                .filter(|line| !line.contains("(tag)"))
                .collect();
            let end = &end[end.len().saturating_sub(20)..];
            let short = |line: &&str| line.chars().take(200).collect::<String>();
            let end: Vec<String> = end.iter().map(short).collect();
            return Err(format!("{}\n{}", output.status, end.join("\n")));
        }
        let made = Made {
            command: original,
            folder: folder.path(),
            said: &said,
        };
        for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() {
                let name = file.file_name().into_string().unwrap();
                made.check(&name).map_err(|why| format!("{name}: {why}"))?;
            }
        }
        // The output of a program that reads the messages is in its files, or at a server.
        let streams = ended(&said);
        if !command.contains("readable") && command.contains(" -m ") && streams.len() != elements {
            return Err(format!("{elements} elements, and windows of {streams:?}"));
        }
        made.messages()
    }
}

/// The streams of which a window has ended.
fn ended(said: &str) -> BTreeSet<&str> {
    said.lines()
        .filter(|line| line.contains("qwenvl/description,") || line.contains("qwenvl/dropped,"))
        .filter_map(|line| line.split("stream-id=(string)").nth(1)?.split(',').next())
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

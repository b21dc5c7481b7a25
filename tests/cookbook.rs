//! Runs every command of docs/cookbook.md as its reader would: in a shell, by `gst-launch-1.0`, with
//! the plugin as a file. [`substitutes`] says what stands for what no machine here has.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;

use common::rtsp::Server;

const PAGE: &str = include_str!("../docs/cookbook.md");

/// Commands run side by side: most of them wait for a camera.
const AT_ONCE: usize = 4;

/// What is in the commands, and what is run in its place.
fn substitutes(url: &str) -> [(&'static str, String); 6] {
    let text = String::from;
    [
        ("rtsp://camera/stream", text(url)),
        ("rtsp://gate/stream", text(url)),
        (
            "v4l2src device=/dev/video0",
            text("videotestsrc is-live=true num-buffers=150"),
        ),
        ("autovideosink", text("fakesink")),
        ("Qwen/Qwen3-VL-2B-Instruct", text("demo")),
        (
            "/models/Qwen3-VL-4B-Instruct",
            root().join("models/demo").display().to_string(),
        ),
    ]
}

#[test]
fn every_command_describes() {
    common::init();
    // A window, and one that the end cuts short.
    let server = Server::short(60);
    let substitutes = substitutes(&server.url("rtsp"));
    let commands = commands(PAGE);
    assert!(commands.len() >= 20, "{commands:#?}");
    for (original, _) in &substitutes {
        let used = commands.iter().any(|command| command.contains(original));
        assert!(used, "{original} does not occur");
    }

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
                    if let Err(why) = kitchen.cook(command, &substitutes) {
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

/// All commands in the page's code: a command is a line, with those that it is continued on.
fn commands(page: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            assert!(!continued, "unfinished: {line}");
            inside = !inside;
            assert!(!inside || line == "```sh", "not run: {line}");
        } else if inside {
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, false),
            };
            match commands.last_mut() {
                Some(command) if continued => *command += part,
                _ => {
                    assert!(line.starts_with("gst-launch-1.0 "), "not run: {line}");
                    commands.push(part.to_owned());
                }
            }
            continued = more;
        }
    }
    commands
}

/// Where the commands are run.
struct Kitchen(tempfile::TempDir);

impl Kitchen {
    fn new() -> Self {
        let kitchen = Self(tempfile::tempdir().unwrap());
        // Built with the library that this test is linked to, next to the test. Alone in its folder,
        // because GStreamer looks at every library there.
        let tests = std::env::current_exe().unwrap();
        let plugin = tests.with_file_name("libgstqwenvl.so");
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
            .env("GST_REGISTRY", self.0.path().join("registry.bin"))
            .output()
            .unwrap()
    }

    /// Runs a command. It must end well, and every `qwenvl` in it must have ended a window.
    fn cook(&self, command: &str, substitutes: &[(&str, String)]) -> Result<(), String> {
        let elements = command.split(' ').filter(|word| *word == "qwenvl").count();
        let mut command = command.to_owned();
        for (original, substitute) in substitutes {
            command = command.replace(original, substitute);
        }
        let folder = tempfile::tempdir_in(self.0.path()).unwrap();
        symlink(root().join("media"), folder.path().join("media")).unwrap();
        let output = self.shell(folder.path(), &command);

        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            let content = match file.file_type().unwrap().is_file() {
                true => fs::read(file.path()).unwrap(),
                false => continue,
            };
            if content.is_empty() {
                return Err(format!("{:?} is empty", file.file_name()));
            }
            if file.path().extension().is_some_and(|e| e == "txt") {
                said.push_str(&String::from_utf8(content).unwrap());
            }
        }
        let said = said + &String::from_utf8_lossy(&output.stderr);
        let streams = ended(&said);
        if !output.status.success() || said.contains("ERROR") {
            let end: Vec<&str> = said
                .lines()
                .filter(|line| !line.contains("(tag)"))
                .collect();
            let end = &end[end.len().saturating_sub(20)..];
            Err(format!("{}\n{}", output.status, end.join("\n")))
        } else if elements == 0 || streams.len() != elements {
            Err(format!("{elements} elements, and windows of {streams:?}"))
        } else {
            Ok(())
        }
    }
}

/// The streams that a window has ended of.
fn ended(said: &str) -> BTreeSet<&str> {
    said.lines()
        .filter(|line| line.contains("qwenvl/description,") || line.contains("qwenvl/dropped,"))
        .filter_map(|line| line.split("stream-id=(string)").nth(1)?.split(',').next())
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

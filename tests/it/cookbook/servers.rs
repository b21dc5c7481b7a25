//! Servers for the commands: a webhook, and a broker if one is installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Keeps the bodies of all requests that are JSON by their header.
pub struct Webhook {
    pub port: u16,
    pub bodies: Arc<Mutex<Vec<String>>>,
}

impl Webhook {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let kept = bodies.clone();
        // Ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let body = answer(stream.unwrap());
                kept.lock().unwrap().extend(body);
            }
        });
        Self { port, bodies }
    }
}

fn answer(stream: TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut json) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        json |= line == "content-type: application/json";
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    reader.into_inner().write_all(answer).ok()?;
    json.then(|| String::from_utf8(body).unwrap())
}

/// mosquitto, with a client that prints what comes.
pub struct Broker {
    pub port: u16,
    processes: [Child; 2],
    /// The client's output.
    output: BufReader<ChildStdout>,
}

impl Broker {
    /// `None` if mosquitto is not installed; `scripts/test` installs it.
    pub fn new() -> Option<Self> {
        // If another process takes the port first, the client below finds no broker.
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut broker = Command::new("/usr/sbin/mosquitto");
        let broker = broker.args(["-p", &port.to_string()]).stderr(Stdio::null());
        let broker = broker.spawn().ok()?;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        // By lines, so that it is known when it listens.
        let mut client = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-p",
                &port.to_string(),
                "-t",
                "qwenvl/#",
                "-C",
                "10",
                "-W",
                "120",
                "-d",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(client.stdout.take().unwrap());
        let mut this = Self {
            port,
            processes: [broker, client],
            output,
        };
        this.until("Subscribed");
        Some(this)
    }

    /// Reads the client's output up to a line with this word, or to its end.
    fn until(&mut self, word: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in self.output.by_ref().lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.starts_with(word)) {
                break;
            }
        }
        lines
    }

    /// The messages, once there are ten of them.
    pub fn messages(mut self) -> Vec<String> {
        let lines = self.until("nothing that it says");
        lines
            .into_iter()
            .filter(|line| line.starts_with('{'))
            .collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

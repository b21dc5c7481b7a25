//! A model hub on the loopback: the part of Hugging Face's protocol that downloads use.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

pub const ID: &str = "owner/model";

/// What the hub holds and how it behaves.
#[derive(Clone, Default)]
pub struct State {
    /// The commit that `main` stands for.
    pub commit: String,
    /// Names and contents of the files. Those named `*.safetensors` are redirected, as large files
    /// are on the hub.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Who does not show it gets 401.
    pub token: Option<String>,
    /// Close the connection after this many bytes of a large file.
    pub cut: Option<usize>,
    /// Fall silent after this many bytes of a large file, while it is set.
    pub hold: Option<usize>,
    /// Never answer.
    pub silent: bool,
    /// Requests so far: path, and the range if there was one.
    pub log: Vec<String>,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            commit: "a".repeat(40),
            files,
            ..State::default()
        }));
        let server = Self {
            endpoint: endpoint.clone(),
            state: state.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, endpoint) = (state.clone(), endpoint.clone());
                // A client that leaves is no error of the server.
                thread::spawn(move || drop(answer(stream, &state, &endpoint)));
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Requests since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, endpoint: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let range = headers.get("range").map(String::as_str);
    let now = {
        let mut state = state.lock().unwrap();
        state.log.push(
            format!("{path} {}", range.unwrap_or_default())
                .trim()
                .into(),
        );
        state.clone()
    };
    while state.lock().unwrap().silent {
        thread::sleep(Duration::from_millis(20));
    }
    let mut reply = Reply { stream, state };
    if let Some(name) = path.strip_prefix("/cdn/") {
        return reply.file(&now, name, range, true, "");
    }
    let authorised = now
        .token
        .as_ref()
        .is_none_or(|token| headers.get("authorization") == Some(&format!("Bearer {token}")));
    if !authorised {
        return reply.status("401 Unauthorized");
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if revision != "main" && revision != now.commit {
            return reply.status("404 Not Found");
        }
        let siblings: Vec<_> = now.files.keys().map(|n| json!({"rfilename": n})).collect();
        let body = json!({"sha": now.commit, "siblings": siblings}).to_string();
        return reply.send(
            "200 OK",
            "content-type: application/json\r\n",
            body.as_bytes(),
        );
    }
    let name = path
        .strip_prefix(&format!("/{ID}/resolve/{}/", now.commit))
        .filter(|name| now.files.contains_key(*name));
    let Some(name) = name else {
        return reply.status("404 Not Found");
    };
    let known = format!("x-repo-commit: {}\r\n", now.commit);
    if name.ends_with(".safetensors") {
        let etag = etag(&now.files[name]);
        let head =
            format!("{known}x-linked-etag: \"{etag}\"\r\nlocation: {endpoint}/cdn/{name}\r\n");
        return reply.send("302 Found", &head, b"");
    }
    reply.file(&now, name, range, false, &known)
}

fn etag(content: &[u8]) -> String {
    Sha256::digest(content)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Reply<'a> {
    stream: TcpStream,
    state: &'a Mutex<State>,
}

impl Reply<'_> {
    fn status(&mut self, status: &str) -> std::io::Result<()> {
        self.send(status, "", b"")
    }

    fn send(&mut self, status: &str, head: &str, body: &[u8]) -> std::io::Result<()> {
        self.head(status, head, body.len())?;
        self.stream.write_all(body)
    }

    fn head(&mut self, status: &str, head: &str, length: usize) -> std::io::Result<()> {
        write!(
            self.stream,
            "HTTP/1.1 {status}\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n"
        )
    }

    /// `bytes=A-B` or `bytes=A-` of a file.
    fn file(
        &mut self,
        now: &State,
        name: &str,
        range: Option<&str>,
        large: bool,
        head: &str,
    ) -> std::io::Result<()> {
        let content = &now.files[name];
        let (from, to) = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split_once('-'))
            .unwrap_or(("0", ""));
        let from: usize = from.parse().unwrap();
        let to: usize = to.parse().map_or(content.len(), |to: usize| to + 1);
        let etag = etag(content);
        let head = format!(
            "{head}etag: \"{etag}\"\r\ncontent-range: bytes {from}-{}/{}\r\n",
            to.saturating_sub(1),
            content.len()
        );
        let body = &content[from..to];
        self.head("206 Partial Content", &head, body.len())?;
        let stop = |limit: Option<usize>| limit.filter(|_| large && body.len() > 1);
        let stop_at = stop(now.cut).or(stop(now.hold)).unwrap_or(body.len());
        let (sent, rest) = body.split_at(stop_at.min(body.len()));
        self.stream.write_all(sent)?;
        if stop(now.cut).is_some() {
            return Ok(());
        }
        while !rest.is_empty() && self.state.lock().unwrap().hold.is_some() {
            thread::sleep(Duration::from_millis(10));
        }
        self.stream.write_all(rest)
    }
}

//! A model hub on the loopback interface: the part of Hugging Face's protocol that downloads use.
//!
//! It can be made to misbehave: a [`Hook`] answers before the hub does.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

pub const ID: &str = "owner/model";

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Answers a request itself, or leaves it to the hub.
pub type Hook = Arc<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// The hub's content and behaviour.
#[derive(Clone, Default)]
pub struct State {
    /// The commit of `main`.
    pub commit: String,
    /// Names and contents of the files. Those named `*.safetensors` are redirected, as large files
    /// are on the hub.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Requests without this token get 401.
    pub token: Option<String>,
    /// Close the connection after this many bytes of a large file.
    pub cut: Option<usize>,
    /// Fall silent after this many bytes of a large file, while it is set.
    pub hold: Option<usize>,
    /// Never answer.
    pub silent: bool,
    /// Address of the server for large files, if it is another one.
    pub cdn: Option<String>,
    pub hook: Option<Hook>,
    /// Requests so far: path, and the range if there was one.
    pub log: Vec<String>,
    /// Requests so far, with headers.
    pub seen: Vec<Request>,
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
                // A client that disconnects is no error of the server.
                thread::spawn(move || drop(answer(stream, &state, &endpoint)));
            }
        });
        server
    }

    /// A hub whose hook comes first.
    pub fn hostile(
        files: BTreeMap<String, Vec<u8>>,
        hook: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let server = Self::start(files);
        server.state().hook = Some(Arc::new(hook));
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Requests since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Requests since the last call, with headers.
    pub fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().seen)
    }
}

/// Sends an answer with its length.
pub fn send(stream: &mut TcpStream, status: &str, head: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{head}content-length: {length}\r\n");
    raw(stream, &head, body);
}

/// Sends a head without a length, and a body.
pub fn raw(stream: &mut TcpStream, head: &str, body: &[u8]) {
    // A client that has disconnected is no error of the server.
    let _ = write!(stream, "{head}connection: close\r\n\r\n");
    let _ = stream.write_all(body);
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, endpoint: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_string);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let request = Request {
        method,
        path,
        headers,
    };
    let (path, range) = (&request.path, request.header("range"));
    let now = {
        let mut state = state.lock().unwrap();
        state.log.push(
            format!("{path} {}", range.unwrap_or_default())
                .trim()
                .into(),
        );
        state.seen.push(request.clone());
        state.clone()
    };
    while state.lock().unwrap().silent {
        thread::sleep(Duration::from_millis(20));
    }
    if now.hook.is_some_and(|hook| hook(&request, &mut stream)) {
        return Ok(());
    }
    let mut reply = Reply {
        stream,
        state,
        is_head: request.method == "HEAD",
    };
    if let Some(name) = path.strip_prefix("/cdn/") {
        return reply.file(name, range, true, "");
    }
    let authorised = now
        .token
        .as_ref()
        .is_none_or(|token| request.header("authorization") == Some(&format!("Bearer {token}")));
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
    if name.ends_with(".safetensors") || name.ends_with(".gguf") {
        let (etag, size) = (sha256(&now.files[name]), now.files[name].len());
        let cdn = now.cdn.as_deref().unwrap_or(endpoint);
        let head = format!(
            "{known}x-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\n\
             location: {cdn}/cdn/{name}\r\n"
        );
        return reply.send("302 Found", &head, b"");
    }
    reply.file(name, range, false, &known)
}

/// The etag of a large file.
pub fn sha256(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

struct Reply<'a> {
    stream: TcpStream,
    state: &'a Mutex<State>,
    is_head: bool,
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

    /// Sends a file, or the requested range of it: `bytes=A-B` or `bytes=A-`.
    fn file(
        &mut self,
        name: &str,
        range: Option<&str>,
        large: bool,
        head: &str,
    ) -> std::io::Result<()> {
        let now = self.state.lock().unwrap().clone();
        let content = &now.files[name];
        // As long as a git hash, so that it is not taken for a SHA-256.
        let etag = &sha256(content)[..40];
        let head = format!("{head}etag: \"{etag}\"\r\n");
        if self.is_head {
            return self.head("200 OK", &head, content.len());
        }
        let Some((from, to)) = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split_once('-'))
        else {
            return self.send("200 OK", &head, content);
        };
        let from: usize = from.parse().unwrap();
        let to: usize = to.parse().map_or(content.len(), |to: usize| to + 1);
        let head = format!(
            "{head}content-range: bytes {from}-{}/{}\r\n",
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

//! Downloads from a hub on the loopback interface, and checks the files written.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use qwen3_vl::hub::{Hub, Proxies};
use qwen3_vl_core::load::LoadError;

use super::hub_server::{ID, Request, Server, raw};

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
/// Longest wait: an event that has not come by then never comes.
pub const WATCHDOG: Duration = Duration::from_secs(30);

pub fn model() -> BTreeMap<String, Vec<u8>> {
    [
        (CONFIG, vec![b'1'; 1500]),
        ("tokenizer.json", vec![b'2'; 3000]),
        (WEIGHTS, (0..400_000u32).map(|i| (i % 251) as u8).collect()),
    ]
    .map(|(name, content)| (name.to_string(), content))
    .into()
}

/// A hub and a client that downloads from it.
pub struct Case {
    pub server: Server,
    pub hub: Hub,
    pub folder: tempfile::TempDir,
}

impl Case {
    pub fn new(server: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Deep, so that `../..` leads to a folder that `check` inspects.
        let cache = folder.path().join("a/b/c/cache");
        fs::create_dir_all(&cache).unwrap();
        let hub = Hub {
            endpoint: server.endpoint.clone(),
            cache,
            token: Some("hf_secret".into()),
            offline: false,
            stall_timeout: Duration::from_secs(5),
            proxies: Proxies::default(),
        };
        Self {
            server,
            hub,
            folder,
        }
    }

    pub fn hostile(
        hook: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::new(Server::hostile(model(), hook))
    }

    pub fn fetch(&self) -> Result<PathBuf, LoadError> {
        let never = AtomicBool::new(false);
        self.hub.fetch(ID, None, &mut |_| {}, &never)
    }

    /// The text of the error that the download must end with.
    pub fn refused(&self) -> String {
        let start = Instant::now();
        let error = self.fetch().expect_err("accepted").to_string();
        assert!(start.elapsed() < WATCHDOG, "it took {:?}", start.elapsed());
        assert!(!error.contains("hf_secret"), "{error}");
        assert!(error.len() < 600, "{} bytes of error", error.len());
        self.check();
        error
    }

    /// Checks that nothing was written around the cache, and that links stay in it.
    pub fn check(&self) {
        let cache = self.hub.cache.canonicalize().unwrap();
        let mut outside = Vec::new();
        let mut folders = vec![self.folder.path().canonicalize().unwrap()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_symlink() {
                    let target = folder.join(fs::read_link(&path).unwrap());
                    let target = target.canonicalize().unwrap();
                    assert!(target.starts_with(&cache), "{path:?} leads to {target:?}");
                } else if path.is_dir() {
                    folders.push(path);
                } else if !path.starts_with(&cache) {
                    outside.push(path);
                }
            }
        }
        assert!(outside.is_empty(), "written outside the cache: {outside:?}");
        for entry in fs::read_dir(&cache).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            assert!(
                ["models--owner--model", ".locks"].contains(&name),
                "{name} in the cache"
            );
        }
    }

    /// Bytes of all blobs, whole or not.
    pub fn blobs(&self) -> u64 {
        let folder = self.hub.cache.join("models--owner--model/blobs");
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }
}

/// Answers HEAD of one file with these values in place of the hub's.
pub fn about(
    file: &'static str,
    etag: String,
    size: String,
    commit: String,
) -> impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static {
    move |request, stream| {
        let asked = request.method == "HEAD" && request.path.ends_with(file);
        if asked {
            let head = format!(
                "HTTP/1.1 200 OK\r\nx-repo-commit: {commit}\r\netag: {etag}\r\n\
                 content-length: {size}\r\n"
            );
            raw(stream, &head, b"");
        }
        asked
    }
}

pub fn commit() -> String {
    "a".repeat(40)
}

/// Another server, which records its requests.
pub fn stranger() -> Server {
    Server::start(model())
}

/// Blocks until the other side closes the connection, which it must.
pub fn wait_for_the_end(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut rest = [0; 1000];
    while matches!(stream.read(&mut rest), Ok(n) if n > 0) {}
}

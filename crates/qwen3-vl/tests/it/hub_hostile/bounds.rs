//! Size, time and redirects are bounded.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::hub_case::*;
use crate::support::hub_server::{Request, Server, raw, send};

#[test]
fn redirects_are_few_and_lead_to_http_only() {
    for (kind, method) in [("/api/", "GET"), (CONFIG, "HEAD"), (CONFIG, "GET")] {
        let case = Case::hostile(move |request, stream| {
            let asked = request.path.contains(kind) && request.method == method;
            if asked {
                let head = format!("location: {}x\r\n", request.path);
                send(stream, "302 Found", &head, b"");
            }
            asked
        });
        assert!(case.refused().contains("redirects more than"));
        assert!(case.server.seen().len() < 10);
        for target in [
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
            "gopher://127.0.0.1/x",
            "",
            "http://",
            "http://me:pw@127.0.0.1/x",
            "http://127.0.0.1:99999/x",
            "//",
            &"x".repeat(20_000),
        ] {
            let head = format!("location: {target}\r\n");
            let case = Case::hostile(move |request, stream| {
                let asked = request.path.contains(kind) && request.method == method;
                if asked {
                    send(stream, "302 Found", &head, b"");
                }
                asked
            });
            case.refused();
            assert!(case.server.seen().len() < 16, "{target}");
        }
    }
}

/// Sends pieces until the other side closes the connection, or took more than it ever should.
fn endless(stream: &mut TcpStream, piece: &[u8], sent: &AtomicUsize) {
    let mut all = 0;
    while all < 2 * MOST && stream.write_all(piece).is_ok() {
        all += piece.len();
        sent.fetch_max(all, Ordering::SeqCst);
    }
}

/// More bytes than a hub can send for one of the test's small files, counting those in the system's
/// buffers.
const MOST: usize = 50_000_000;

static SPACES: [u8; 64 * 1024] = [b' '; 64 * 1024];

#[test]
fn a_body_ends_where_it_was_announced_to_end() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for name in [CONFIG, "tokenizer.json", WEIGHTS] {
        for chunked in [false, true] {
            let sent = Arc::new(AtomicUsize::new(0));
            let count = sent.clone();
            let case = Case::hostile(move |request, stream| {
                let file = request.path.ends_with(name) && !request.path.starts_with("/api");
                let asked = request.method == "GET" && file;
                if asked && chunked {
                    let head = format!("{ok}transfer-encoding: chunked\r\n");
                    raw(stream, &head, b"");
                    let piece = [b"10000\r\n", &SPACES[..], b"\r\n"].concat();
                    endless(stream, &piece, &count);
                } else if asked {
                    raw(stream, ok, b"");
                    endless(stream, &SPACES, &count);
                }
                asked
            });
            assert!(case.refused().contains("more than the"));
            assert!(case.blobs() < 500_000);
            assert!(sent.load(Ordering::SeqCst) < MOST, "it reads for ever");
        }
    }
    // The body is longer than announced, and its length says so.
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let case = Case::hostile(move |request, stream| {
        let asked = request.method == "GET" && request.path.ends_with(CONFIG);
        if asked {
            raw(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n",
                b"",
            );
            endless(stream, &SPACES, &count);
        }
        asked
    });
    assert!(case.refused().contains("99999999999"));
    assert_eq!(case.blobs(), 0);
    assert!(sent.load(Ordering::SeqCst) < MOST, "it reads for ever");
    // The description of a model.
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let case = Case::hostile(move |_, stream| {
        raw(stream, ok, b"{\"sha\": \"");
        endless(stream, &SPACES, &count);
        true
    });
    assert!(case.refused().contains("more than"));
    assert!(sent.load(Ordering::SeqCst) < MOST, "it reads for ever");
}

#[test]
fn no_file_is_larger_than_its_kind_may_be() {
    for (name, size) in [
        (CONFIG, "5000000"),
        (CONFIG, "18446744073709551615"),
        ("tokenizer.json", "1000000000"),
        (WEIGHTS, "999999999999999"),
        (WEIGHTS, "99999999999999999999999"),
        (WEIGHTS, "-1"),
        (WEIGHTS, "+5"),
        (WEIGHTS, "ten"),
    ] {
        let case = Case::hostile(move |request, stream| {
            let asked = request.method == "HEAD" && request.path.ends_with(name);
            if asked {
                let head = format!(
                    "x-repo-commit: {}\r\netag: \"e1\"\r\nx-linked-size: {size}\r\n",
                    commit()
                );
                send(stream, "200 OK", &head, b"");
            }
            asked
        });
        let error = case.refused();
        assert!(
            error.contains("more than the") || error.contains("size"),
            "{error}"
        );
        assert!(
            !case
                .server
                .seen()
                .iter()
                .any(|request| { request.method == "GET" && request.path.ends_with(name) })
        );
    }
}

#[test]
fn compressed_answers_are_refused() {
    // 10 KB, which gzip could expand to 10 MB of zeros. They are never unpacked, so any bytes do.
    for encoding in ["gzip", "br", "deflate", "zstd", "GZIP", "x"] {
        for (kind, method) in [("/api/", "GET"), (CONFIG, "HEAD"), (CONFIG, "GET")] {
            let case = Case::hostile(move |request, stream| {
                let asked = request.path.contains(kind) && request.method == method;
                if asked {
                    let head = format!("content-encoding: {encoding}\r\n");
                    send(stream, "200 OK", &head, &[0x1f; 10_000]);
                }
                asked
            });
            assert!(case.refused().contains("encoding"));
        }
    }
    let case = Case::new(Server::start(model()));
    case.fetch().unwrap();
    for request in case.server.seen() {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[test]
fn silence_is_bounded_wherever_it_falls() {
    for (kind, method) in [("/api/", "GET"), (CONFIG, "HEAD"), (CONFIG, "GET")] {
        // Silence at once, after half a header, after half a body.
        for say in [
            "",
            "HTTP/1.1 200 OK\r\ncontent-le",
            "HTTP/1.1 200 OK\r\ncontent-length: 1500\r\n\r\n11",
        ] {
            if method == "HEAD" && say.ends_with("11") {
                continue;
            }
            let mut case = Case::hostile(move |request, stream| {
                let asked = request.path.contains(kind) && request.method == method;
                if asked {
                    let _ = stream.write_all(say.as_bytes());
                    wait_for_the_end(stream);
                }
                asked
            });
            case.hub.stall_timeout = Duration::from_millis(300);
            let error = case.refused();
            assert!(error.contains("silent for 0.3 s"), "{kind} {say}: {error}");
        }
    }
}

#[test]
fn a_trickle_is_bounded_wherever_it_falls() {
    for (kind, method) in [("/api/", "GET"), (CONFIG, "HEAD"), (CONFIG, "GET")] {
        for head in [true, false] {
            if method == "HEAD" && !head {
                continue;
            }
            let mut case = Case::hostile(move |request, stream| {
                let asked = request.path.contains(kind) && request.method == method;
                if asked {
                    let start = "HTTP/1.1 200 OK\r\ncontent-length: 1500\r\n";
                    let _ = stream.write_all(start.as_bytes());
                    let _ = stream.write_all(if head { b"x: " } else { b"\r\n" });
                    while stream.write_all(b"1").is_ok() {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                asked
            });
            case.hub.stall_timeout = Duration::from_millis(500);
            let error = case.refused();
            assert!(
                error.contains("silent") || error.contains("less than 1024 bytes"),
                "{error}"
            );
        }
    }
}

/// Chunk extensions and trailers are bytes beside the body.
#[test]
fn a_trickle_beside_the_body_is_bounded_too() {
    let whole = format!("5dc\r\n{}\r\n0\r\n", "1".repeat(1500));
    for (start, drop) in [
        ("2;".to_string(), "x"),
        ("0\r\n".to_string(), "x: y\r\n"),
        (whole, "x: y\r\n"),
    ] {
        for kind in ["/api/", CONFIG, WEIGHTS] {
            let start = start.clone();
            let mut case = Case::hostile(move |request, stream| {
                let asked = request.path.contains(kind) && request.method == "GET";
                if asked {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let _ = write!(stream, "{head}{start}");
                    while stream.write_all(drop.as_bytes()).is_ok() {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
                asked
            });
            case.hub.stall_timeout = Duration::from_millis(500);
            let error = case.refused();
            assert!(error.contains("less than 1024 bytes"), "{error}");
        }
    }
}

#[test]
fn what_the_disk_cannot_hold_is_not_begun() {
    let shard = |i: usize| format!("model-{i}.safetensors");
    let mut files = model();
    files.remove(WEIGHTS);
    let names: BTreeMap<String, String> = (0..50).map(|i| (i.to_string(), shard(i))).collect();
    let index = serde_json::json!({"weight_map": names}).to_string();
    files.insert("model.safetensors.index.json".into(), index.into());
    for name in names.into_values() {
        files.insert(name, b"1".to_vec());
    }
    let server = Server::hostile(files, |request, stream| {
        let asked = request.method == "HEAD" && request.path.ends_with(".safetensors");
        if asked {
            // Each file may be that large, but no disk holds all of them.
            let (size, etag) = (255u64 << 30, request.path.len());
            let head = format!(
                "x-repo-commit: {}\r\netag: \"e{etag}\"\r\nx-linked-size: {size}\r\n",
                commit()
            );
            send(stream, "200 OK", &head, b"");
        }
        asked
    });
    let case = Case::new(server);
    let error = case.refused();
    assert!(error.contains("13690.2 GB are to come"), "{error}");
    let began =
        |request: &Request| request.method == "GET" && request.path.ends_with("safetensors");
    assert!(!case.server.seen().iter().any(began));
}

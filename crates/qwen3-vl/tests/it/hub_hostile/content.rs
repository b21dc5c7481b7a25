//! Only the announced content is kept.

use std::fs;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use qwen3_vl_core::load::LoadError;
use serde_json::json;

use crate::support::hub_case::*;
use crate::support::hub_server::{ID, Server, send, sha256};

#[test]
fn an_honest_hub_passes_the_checks_of_these_tests() {
    let case = Case::new(Server::start(model()));
    let folder = case.fetch().unwrap();
    for (name, content) in model() {
        assert!(fs::read(folder.join(&name)).unwrap() == content, "{name}");
    }
    case.check();
}

#[test]
fn ranges_that_were_not_asked_for_are_refused() {
    for range in [
        "bytes 5-1499/1500",
        "bytes 0-1499/3000",
        "bytes 1400-1499/1500",
        "bytes 18446744073709551615-0/1500",
        "bytes */1500",
        "lines 0-1499/1500",
        "x",
    ] {
        let head = format!("content-range: {range}\r\n");
        let case = Case::hostile(move |request, stream| {
            let asked = request.method == "GET" && request.path.ends_with(CONFIG);
            if asked {
                send(stream, "206 Partial Content", &head, &[b'1'; 1500]);
            }
            asked
        });
        case.refused();
        assert_eq!(case.blobs(), 0, "{range}");
    }
}

#[test]
fn large_files_must_have_their_hash() {
    let case = Case::new(Server::start(model()));
    let other = stranger();
    let mut wrong = model()[WEIGHTS].clone();
    wrong[77] ^= 1;
    other.state().files.insert(WEIGHTS.into(), wrong);
    case.server.state().cdn = Some(other.endpoint.clone());
    assert!(case.refused().contains("SHA-256"));
    // It is not kept, neither whole nor in part.
    let blob = sha256(&model()[WEIGHTS]);
    let blobs = case.hub.cache.join("models--owner--model/blobs");
    assert!(!blobs.join(&blob).exists());
    assert!(!blobs.join(format!("{blob}.incomplete")).exists());
    // Nor is a wrong incomplete file kept.
    fs::write(blobs.join(format!("{blob}.incomplete")), [9; 1000]).unwrap();
    case.server.state().cdn = None;
    assert!(case.refused().contains("SHA-256"));
    let folder = case.fetch().unwrap();
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == model()[WEIGHTS]);
}

#[test]
fn a_hub_that_begins_again_is_followed() {
    // The file is incomplete, but the server does not support ranges: all of it is sent again,
    // once.
    let case = Case::hostile(|request, stream| {
        let asked = request.method == "GET" && request.path.ends_with(CONFIG);
        if asked {
            send(stream, "200 OK", "", &[b'1'; 1500]);
        }
        asked
    });
    let blobs = case.hub.cache.join("models--owner--model/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let etag = &sha256(&model()[CONFIG])[..40];
    fs::write(blobs.join(format!("{etag}.incomplete")), [b'9'; 700]).unwrap();
    let folder = case.fetch().unwrap();
    assert!(fs::read(folder.join(CONFIG)).unwrap() == model()[CONFIG]);
}

#[test]
fn an_unusable_config_ends_it_before_the_weights() {
    let case = Case::new(Server::start(model()));
    let never = AtomicBool::new(false);
    let refuse = |config: &[u8]| {
        assert_eq!(config, [b'1'; 1500]);
        Err(LoadError::Invalid("not this one".into()))
    };
    let result = case
        .hub
        .fetch_checked(ID, None, refuse, &mut |_| {}, &never);
    assert_eq!(result.unwrap_err().to_string(), "not this one");
    let seen = case.server.seen();
    assert!(
        seen.iter()
            .all(|request| request.path.starts_with("/api/") || request.path.ends_with(CONFIG))
    );
    case.check();
}

/// JSON errors quote the input.
#[test]
fn an_error_is_short_whatever_the_hub_sends() {
    let long = format!("\u{1b}[31m{}", "x".repeat(4_000_000));
    let commit = commit();
    for info in [
        json!({"sha": commit, "siblings": long}),
        json!({"sha": commit, "siblings": [long]}),
        json!({"sha": long, "siblings": []}),
    ] {
        let info = info.to_string();
        let case = Case::hostile(move |request, stream| {
            let asked = request.path.starts_with("/api/");
            if asked {
                send(stream, "200 OK", "", info.as_bytes());
            }
            asked
        });
        assert!(!case.refused().contains('\u{1b}'));
    }
    for index in [
        json!({"weight_map": long}),
        json!({"weight_map": {"a": long}}),
    ] {
        let mut files = model();
        files.remove(WEIGHTS);
        files.insert(
            "model.safetensors.index.json".into(),
            index.to_string().into(),
        );
        let error = Case::new(Server::start(files)).refused();
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn answers_that_are_none_are_refused() {
    for (answer, status) in [
        (&b""[..], "200 OK"),
        (b"<html>log in first</html>", "200 OK"),
        (b"{\"sha\": 5}", "200 OK"),
        (b"[]", "200 OK"),
        (&[0xff; 100], "200 OK"),
        (b"", "204 No Content"),
        (b"", "304 Not Modified"),
        (b"", "418 I'm a teapot"),
        (b"", "302 Found"),
    ] {
        let case = Case::hostile(move |_, stream| {
            send(stream, status, "", answer);
            true
        });
        assert!(case.refused().contains("HF_ENDPOINT"));
    }
    // Deep nesting, and bytes that are not HTTP.
    let deep = "[".repeat(1_000_000);
    let case = Case::hostile(move |_, stream| {
        send(stream, "200 OK", "", deep.as_bytes());
        true
    });
    case.refused();
    let case = Case::hostile(|_, stream| {
        let _ = stream.write_all(&[0x16; 5000]);
        true
    });
    assert!(case.refused().contains("Check HF_ENDPOINT"));
    // Headers without end.
    let case = Case::hostile(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x-filler: 0123456789\r\n").is_ok() {}
        true
    });
    case.refused();
}

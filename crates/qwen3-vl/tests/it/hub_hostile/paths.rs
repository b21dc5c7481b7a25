//! No text from a hub becomes a path.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::hub_case::*;
use crate::support::hub_server::{ID, Server, send};

#[test]
fn etags_never_become_paths() {
    let absolute = tempfile::tempdir().unwrap();
    let planted = absolute.path().join("planted");
    for file in [CONFIG, "tokenizer.json", WEIGHTS] {
        for etag in [
            "../../x",
            "\"../../x\"",
            "W/\"../../../../x\"",
            "..",
            ".",
            "",
            "\"\"",
            "a/b",
            "a\\b",
            "x.incomplete",
            "%2e%2e%2fx",
            &"e".repeat(5000),
            planted.to_str().unwrap(),
        ] {
            let hook = about(file, etag.into(), "10".into(), commit());
            let error = Case::hostile(hook).refused();
            assert!(error.contains("ETag"), "{etag}: {error}");
        }
        // The etag of the linked file is preferred, and is checked too.
        let case = Case::hostile(move |request, stream| {
            let asked = request.method == "HEAD" && request.path.ends_with(file);
            if asked {
                let head = format!(
                    "x-repo-commit: {}\r\netag: \"fine\"\r\nx-linked-etag: \"../../x\"\r\n\
                     x-linked-size: 10\r\n",
                    commit()
                );
                send(stream, "200 OK", &head, b"");
            }
            asked
        });
        assert!(case.refused().contains("ETag"));
    }
    assert!(!planted.exists());
}

#[test]
fn a_second_answer_about_the_same_file_is_checked_too() {
    // The first HEAD is valid, but the file cannot be fetched; the next HEAD is not valid.
    let asked = AtomicUsize::new(0);
    let case = Case::hostile(move |request, stream| {
        if request.method == "GET" && request.path.ends_with(CONFIG) {
            // Headers of the GET answer name nothing.
            let head = "etag: \"../../x\"\r\nx-linked-etag: \"../../x\"\r\n\
                        x-repo-commit: ../../x\r\ncontent-range: bytes 0-0/1500\r\n";
            send(stream, "206 Partial Content", head, b"1");
            return true;
        }
        let again = request.method == "HEAD" && asked.fetch_add(1, Ordering::Relaxed) > 0;
        if again {
            let head = format!("x-repo-commit: {}\r\netag: \"../../x\"\r\n", commit());
            send(stream, "200 OK", &head, b"");
        }
        again
    });
    case.refused();
    assert!(case.refused().contains("ETag"));
}

#[test]
fn commits_never_become_paths() {
    for bad in [
        "../../../../x",
        "/tmp/x",
        "",
        "main",
        "..",
        &"b".repeat(40),
        &"A".repeat(40),
        &"a".repeat(4000),
    ] {
        // The commit of a file.
        for file in [CONFIG, WEIGHTS] {
            let hook = about(file, "\"e1\"".into(), "10".into(), bad.into());
            let error = Case::hostile(hook).refused();
            assert!(error.contains("commit"), "{bad}: {error}");
        }
        // The commit of the model.
        if bad.starts_with('b') {
            continue;
        }
        let case = Case::new(Server::start(model()));
        case.server.state().commit = bad.into();
        let error = case.refused();
        assert!(error.contains("is no commit"), "{bad}: {error}");
    }
    // Another commit than the requested one.
    let case = Case::hostile(|request, stream| {
        let info = json!({"sha": commit(), "siblings": []}).to_string();
        send(stream, "200 OK", "", info.as_bytes());
        request.path.starts_with("/api/")
    });
    let never = AtomicBool::new(false);
    let asked = "b".repeat(40);
    let error = case.hub.fetch(ID, Some(&asked), &mut |_| {}, &never);
    assert!(error.unwrap_err().to_string().contains("instead"));
    case.check();
}

#[test]
fn what_others_say_about_a_file_does_not_count() {
    // The hub redirects without metadata; the other server sends all of it.
    let other = Server::hostile(
        model(),
        about(CONFIG, "\"e1\"".into(), "1500".into(), commit()),
    );
    let target = other.endpoint.clone();
    let case = Case::hostile(move |request, stream| {
        let asked = request.method == "HEAD" && request.path.ends_with(CONFIG);
        if asked {
            let head = format!("location: {target}{}\r\n", request.path);
            send(stream, "302 Found", &head, b"");
        }
        asked
    });
    assert!(case.refused().contains("no commit"));
    assert_eq!(other.seen().len(), 1);
}

#[test]
fn names_of_files_never_become_paths() {
    // Names that are not needed are ignored, whatever they are.
    let mut files = model();
    for name in ["../../x", "/etc/x", "a/../../x", "..", "\\\\host\\x"] {
        files.insert(name.into(), b"1".to_vec());
    }
    let case = Case::new(Server::start(files));
    let folder = case.fetch().unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    case.check();
    // Names in the index.
    for shard in [
        "../../../x.safetensors",
        "/tmp/x.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        ".safetensors",
        "x.safetensors?a=.safetensors",
        "x\n.safetensors",
        &format!("{}.safetensors", "x".repeat(100_000)),
    ] {
        let mut files = model();
        files.remove(WEIGHTS);
        files.insert(shard.into(), b"1".to_vec());
        let index = json!({"weight_map": {"a": shard}}).to_string();
        files.insert("model.safetensors.index.json".into(), index.into());
        let error = Case::new(Server::start(files)).refused();
        assert!(error.contains("not a shard"), "{error}");
    }
}

#[test]
fn a_cache_that_leads_elsewhere_is_not_followed() {
    let case = Case::new(Server::start(model()));
    let refs = case.hub.cache.join("models--owner--model/refs");
    fs::create_dir_all(&refs).unwrap();
    let elsewhere = case.folder.path().join("a/elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for (name, _) in model() {
        std::os::unix::fs::symlink("/dev/null", elsewhere.join(name)).unwrap();
    }
    fs::write(refs.join("main"), "../../../../elsewhere").unwrap();
    let folder = case.fetch().unwrap();
    assert!(folder.ends_with(format!("snapshots/{}", commit())));
}

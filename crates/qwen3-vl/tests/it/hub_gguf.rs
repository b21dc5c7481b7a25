//! GGUF files of a hub: the one that is named, its other parts and its vision tower, and nothing
//! else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use qwen3_vl::hub::Hub;
use qwen3_vl_core::load::{LoadError, Progress};

use crate::support::hub_case::Case;
use crate::support::hub_server::{ID, Server};

const FILES: [&str; 9] = [
    "README.md",
    "config.json",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "q-Q4_K_M.gguf",
    "q-Q8_0.gguf",
    "UD/q-00001-of-00002.gguf",
    "UD/q-00002-of-00002.gguf",
    "a/b/deep.gguf",
];

fn content(name: &str) -> Vec<u8> {
    name.as_bytes().repeat(1000)
}

fn files(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let all = names.iter().map(|name| (name.to_string(), content(name)));
    all.collect()
}

type Found = Result<(PathBuf, PathBuf), LoadError>;

fn fetch(hub: &Hub, file: &str, mmproj: Option<&str>, said: &mut Vec<String>) -> Found {
    let mut say = |progress: Progress| said.push(progress.what);
    let never = AtomicBool::new(false);
    hub.fetch_gguf(ID, file, mmproj.map(Path::new), None, &mut say, &never)
}

fn assert_is(path: &Path, name: &str) {
    assert!(path.ends_with(name), "{path:?} is not {name}");
    assert!(fs::read(path).unwrap() == content(name), "{name}");
}

/// Files that the hub was asked for.
fn asked(server: &Server) -> Vec<String> {
    let requests = server.requests();
    let names = requests.iter().filter_map(|line| {
        let (_, name) = line.split_once(&format!("/resolve/{}/", "a".repeat(40)))?;
        Some(name.split(' ').next()?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn one_model_and_its_vision_tower_come() {
    let case = Case::new(Server::start(files(&FILES)));
    let mut said = Vec::new();
    let (text, vision) = fetch(&case.hub, "q-Q4_K_M.gguf", None, &mut said).unwrap();
    assert_is(&text, "q-Q4_K_M.gguf");
    assert_is(&vision, "mmproj-F16.gguf");
    assert_eq!(asked(&case.server), ["mmproj-F16.gguf", "q-Q4_K_M.gguf"]);
    assert!(
        said.iter()
            .any(|what| what.starts_with("downloading 2 files")),
        "{said:?}"
    );
    case.check();

    // Once.
    let again = fetch(&case.hub, "q-Q4_K_M.gguf", None, &mut said).unwrap();
    assert_eq!(again, (text.clone(), vision.clone()));
    assert!(asked(&case.server).is_empty());
    let offline = Hub {
        offline: true,
        ..case.hub.clone()
    };
    let again = fetch(&offline, "q-Q4_K_M.gguf", None, &mut said).unwrap();
    assert_eq!(again, (text, vision));
    assert!(fetch(&offline, "q-Q8_0.gguf", None, &mut said).is_err());
    // The vision tower is there for another model of the repository too.
    fetch(&case.hub, "q-Q8_0.gguf", None, &mut said).unwrap();
    assert_eq!(asked(&case.server), ["q-Q8_0.gguf"]);
    // One that is named.
    let named = Some("mmproj-BF16.gguf");
    let (_, vision) = fetch(&case.hub, "q-Q8_0.gguf", named, &mut said).unwrap();
    assert_is(&vision, "mmproj-BF16.gguf");
}

#[test]
fn parts_come_together_and_folders_stay_inside_the_cache() {
    let case = Case::new(Server::start(files(&FILES)));
    let said = &mut Vec::new();
    let (text, vision) = fetch(&case.hub, FILES[6], None, said).unwrap();
    assert_is(&text, FILES[6]);
    assert_is(&text.with_file_name("q-00002-of-00002.gguf"), FILES[7]);
    assert_is(&vision, "mmproj-F16.gguf");
    let (text, vision) = fetch(&case.hub, FILES[8], None, said).unwrap();
    assert_is(&text, FILES[8]);
    assert_is(&vision, "mmproj-F16.gguf");
    case.check();
    // A part that is gone comes again.
    let part = text.ancestors().nth(3).unwrap().join(FILES[7]);
    fs::remove_file(&part).unwrap();
    fetch(&case.hub, FILES[6], None, said).unwrap();
    assert_is(&part, FILES[7]);
}

#[test]
fn what_is_missing_is_named_before_anything_comes() {
    let refused = |names: &[&str], file: &str, mmproj: Option<&str>, words: &[&str]| {
        let case = Case::new(Server::start(files(names)));
        let error = fetch(&case.hub, file, mmproj, &mut Vec::new()).unwrap_err();
        let error = error.to_string();
        for word in words {
            assert!(error.contains(word), "{error} lacks {word:?}");
        }
        assert!(asked(&case.server).is_empty());
        case.check();
    };
    refused(&FILES, "q-Q5_K_M.gguf", None, &["no file", "q-Q5_K_M.gguf"]);
    refused(&FILES[..7], FILES[6], None, &["no file", "00002-of-00002"]);
    refused(&FILES[4..], FILES[4], None, &["mmproj"]);
    refused(
        &FILES,
        FILES[4],
        Some("mmproj-F32.gguf"),
        &["mmproj-F32.gguf"],
    );
    let two = ["q.gguf", "mmproj-2B-F16.gguf", "mmproj-4B-F16.gguf"];
    refused(&two, two[0], None, &[two[1], two[2]]);
    refused(&FILES, FILES[7], None, &["first part"]);
    refused(&FILES, "../../q.gguf", None, &["not the path"]);
    refused(&FILES, FILES[4], Some("../mmproj.gguf"), &["not the path"]);
}

/// Names of a hub that lead elsewhere are not chosen.
#[test]
fn names_of_vision_towers_never_become_paths() {
    for name in [
        "../mmproj-F16.gguf",
        "../../../../mmproj-F16.gguf",
        "/tmp/mmproj-F16.gguf",
        "a/../../mmproj-F16.gguf",
        ".mmproj-F16.gguf",
        "mmproj-F16.gguf?x=.gguf",
        "mmproj\\..\\F16.gguf",
    ] {
        let case = Case::new(Server::start(files(&["q.gguf", name])));
        let error = fetch(&case.hub, "q.gguf", None, &mut Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("mmproj*.gguf"),
            "{name}: {error}"
        );
        assert!(asked(&case.server).is_empty());
        case.check();
    }
}

//! Downloads from a hub on the loopback interface.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use crate::support::hub_server::{ID, Request, Server, send};
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::hub::{Hub, Proxies};
use qwen3_vl::load::{self, LoadOptions, ModelSource, check_config};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::load::{LoadError, Progress};
use serde_json::json;

const WEIGHTS: &str = "model.safetensors";
/// Large enough to arrive in many pieces.
const BYTES: usize = 3_000_000;

fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|i| ((i * 7 + seed) % 251) as u8).collect()
}

/// Files of a model, and some that are not needed.
fn model() -> BTreeMap<String, Vec<u8>> {
    [
        ("config.json", content(100, 1)),
        ("tokenizer.json", content(5000, 2)),
        ("preprocessor_config.json", content(50, 3)),
        (WEIGHTS, content(BYTES, 4)),
        ("README.md", content(10, 5)),
        ("pytorch_model.bin", content(10, 6)),
    ]
    .map(|(name, content)| (name.to_string(), content))
    .into()
}

fn sharded(map: serde_json::Value) -> BTreeMap<String, Vec<u8>> {
    let mut files = model();
    files.remove(WEIGHTS);
    for (seed, name) in ["model-1.safetensors", "model-2.safetensors"]
        .iter()
        .enumerate()
    {
        files.insert(name.to_string(), content(9000, seed));
    }
    let index = json!({"metadata": {"total_size": 18000}, "weight_map": map});
    let name = "model.safetensors.index.json".to_string();
    files.insert(name, index.to_string().into_bytes());
    files
}

struct Client {
    hub: Hub,
    cache: tempfile::TempDir,
}

impl Client {
    fn of(server: &Server) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub {
            endpoint: server.endpoint.clone(),
            cache: cache.path().to_owned(),
            token: None,
            offline: false,
            stall_timeout: Duration::from_secs(30),
            proxies: Proxies::default(),
        };
        Self { hub, cache }
    }

    fn fetch(&self, revision: Option<&str>) -> Result<PathBuf, LoadError> {
        let never = AtomicBool::new(false);
        self.hub.fetch(ID, revision, &mut |_| {}, &never)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn same(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for name in names(folder) {
        assert!(
            fs::read(folder.join(&name)).unwrap() == files[&name],
            "{name}"
        );
    }
}

#[test]
fn brings_what_is_needed_and_asks_for_it_once() {
    let server = Server::start(model());
    let client = Client::of(&server);
    let mut steps: Vec<Progress> = Vec::new();
    let never = AtomicBool::new(false);
    let folder = client
        .hub
        .fetch(ID, None, &mut |step| steps.push(step), &never)
        .unwrap();
    assert_eq!(
        names(&folder),
        [
            "config.json",
            WEIGHTS,
            "preprocessor_config.json",
            "tokenizer.json"
        ]
    );
    same(&folder, &model());
    let last = steps.last().unwrap();
    assert_eq!(last.what, format!("downloading {WEIGHTS}: 3.0 of 3.0 MB"));
    assert_eq!(last.percent, 100);

    server.requests();
    assert_eq!(client.fetch(None).unwrap(), folder);
    assert_eq!(
        server.requests(),
        [format!("/api/models/{ID}/revision/main")]
    );

    // A commit never changes, so there is no request.
    let commit = server.state().commit.clone();
    assert_eq!(client.fetch(Some(&commit)).unwrap(), folder);
    assert!(server.requests().is_empty());
}

#[test]
fn brings_the_shards_of_an_index() {
    let files = sharded(json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    let server = Server::start(files.clone());
    let client = Client::of(&server);
    let folder = client.fetch(None).unwrap();
    assert!(folder.join("model-1.safetensors").exists());
    assert!(folder.join("model-2.safetensors").exists());
    same(&folder, &files);

    // Without one shard the cache is not complete.
    fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    server.state().silent = true;
    let offline = Hub {
        offline: true,
        ..client.hub.clone()
    };
    let never = AtomicBool::new(false);
    assert!(offline.fetch(ID, None, &mut |_| {}, &never).is_err());
}

/// As in transformers, the index is ignored as a leftover; it names a missing file.
#[test]
fn a_single_file_goes_before_an_index() {
    let mut files = sharded(json!({"a": "model-3.safetensors"}));
    files.insert(WEIGHTS.into(), content(BYTES, 4));
    let server = Server::start(files);
    let client = Client::of(&server);
    let folder = client.fetch(None).unwrap();
    assert!(folder.join(WEIGHTS).is_file());
    assert!(!server.requests().iter().any(|line| line.contains("model-")));

    // Other tools leave the index beside it.
    fs::write(
        folder.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "model-3.safetensors"}}"#,
    )
    .unwrap();
    assert_eq!(client.fetch(None).unwrap(), folder);
    let offline = Hub {
        offline: true,
        ..client.hub.clone()
    };
    let never = AtomicBool::new(false);
    assert_eq!(
        offline.fetch(ID, None, &mut |_| {}, &never).unwrap(),
        folder
    );
}

#[test]
fn refuses_an_index_that_leads_elsewhere() {
    for (shard, says) in [
        ("../../../stolen.safetensors", "not a shard"),
        ("model-3.safetensors", "lacks"),
    ] {
        let server = Server::start(sharded(json!({"a": shard})));
        let error = Client::of(&server).fetch(None).unwrap_err();
        assert!(
            matches!(&error, LoadError::Invalid(text) if text.contains(says)),
            "{error}"
        );
    }
}

#[test]
fn says_what_is_missing() {
    for (missing, says) in [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        (WEIGHTS, "no safetensors"),
    ] {
        let mut files = model();
        files.remove(missing);
        let error = Client::of(&Server::start(files)).fetch(None).unwrap_err();
        assert!(
            matches!(&error, LoadError::Invalid(text) if text.contains(says)),
            "{error}"
        );
    }
}

#[test]
fn models_of_other_kinds_are_recognised() {
    for (names, says) in [
        (&["q4.gguf", "mmproj.gguf"][..], "GGUF"),
        (
            &["adapter_config.json", "adapter_model.safetensors"],
            "LoRA",
        ),
        (
            &["config.json", "vocab.json", "merges.txt"],
            "AutoTokenizer",
        ),
        (
            &["config.json", "tokenizer.json", "pytorch_model.bin"],
            "PyTorch",
        ),
        (
            &["config.json", "tokenizer.json", "onnx/model.onnx"],
            "ONNX",
        ),
        (&["README.md"], "not a checkpoint"),
    ] {
        let files = names.iter().map(|name| (name.to_string(), Vec::new()));
        let server = Server::start(files.collect());
        let error = Client::of(&server).fetch(None).unwrap_err();
        assert!(
            matches!(&error, LoadError::Invalid(text) if text.contains(says)),
            "{error}"
        );
        // It was recognised before any file was requested.
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_model_that_cannot_be_loaded_is_refused_before_its_weights_come() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/config.json");
    let demo: serde_json::Value = serde_json::from_slice(&fs::read(demo).unwrap()).unwrap();
    let with = |part: &str, field: &str, value: serde_json::Value| {
        let mut config = demo.clone();
        match part {
            "" => config[field] = value,
            part => config[part][field] = value,
        }
        config.to_string().into_bytes()
    };
    let fetch = |config: Vec<u8>| {
        let mut files = model();
        files.insert("config.json".into(), config);
        let server = Server::start(files);
        let client = Client::of(&server);
        let never = AtomicBool::new(false);
        let result = client
            .hub
            .fetch_checked(ID, None, check_config, &mut |_| {}, &never);
        let large = |line: &String| line.contains("safetensors") || line.contains("tokenizer");
        (result, server.requests().iter().any(large))
    };
    assert!(fetch(demo.to_string().into_bytes()).0.is_ok());
    for config in [
        with("", "model_type", json!("qwen3_moe")),
        with("text_config", "hidden_act", json!("gelu")),
        with("", "model_type", json!("llava")),
        b"not JSON".to_vec(),
    ] {
        let (result, weights_came) = fetch(config);
        assert!(matches!(result, Err(LoadError::Invalid(_))), "{result:?}");
        assert!(!weights_came);
    }
}

const CHILD: &str = "QWEN3_VL_TEST_CHILD";

/// A whole load, with the hub from the environment.
#[test]
fn a_load_looks_at_the_configuration_before_the_weights_come() {
    let mut files = model();
    files.insert("config.json".into(), br#"{"model_type": "llava"}"#.to_vec());
    let server = Server::start(files);
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hub::one_load", "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = server.requests();
    assert!(requests.iter().any(|line| line.contains("config.json")));
    let large = |line: &String| line.contains("safetensors") || line.contains("tokenizer");
    assert!(!requests.iter().any(large), "{requests:?}");
}

/// Runs in a child process of the test before this one. On its own it does nothing.
#[test]
fn one_load() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let options = LoadOptions {
        mmproj: None,
        source: ModelSource::Hub {
            id: ID.into(),
            revision: None,
        },
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: None,
        kv_memory: None,
    };
    let loaded = load::load(&options, &mut |_| (), &AtomicBool::new(false));
    let error = loaded.err().unwrap();
    assert!(matches!(&error, LoadError::Invalid(text) if text.contains("LLaVA")));
}

#[test]
fn a_model_or_revision_that_is_not_there() {
    let server = Server::start(model());
    let client = Client::of(&server);
    let error = client.fetch(Some("v2")).unwrap_err();
    assert!(
        matches!(&error, LoadError::NotFound(text) if text.contains(ID) && text.contains("v2")),
        "{error}"
    );
    let never = AtomicBool::new(false);
    let error = client.hub.fetch("nobody/none", None, &mut |_| {}, &never);
    assert!(matches!(error, Err(LoadError::NotFound(text)) if text.contains("nobody/none")));
}

#[test]
fn a_gated_model_wants_a_token() {
    let server = Server::start(model());
    server.state().token = Some("secret".into());
    let mut client = Client::of(&server);
    let error = client.fetch(None).unwrap_err();
    assert!(
        matches!(&error, LoadError::NotFound(text) if text.contains("set HF_TOKEN")),
        "{error}"
    );
    client.hub.token = Some("wrong".into());
    let error = client.fetch(None).unwrap_err();
    assert!(error.to_string().contains("does not allow"), "{error}");
    client.hub.token = Some("secret".into());
    same(&client.fetch(None).unwrap(), &model());
}

/// First bytes of the requested ranges of the weights.
fn weight_ranges(server: &Server) -> Vec<usize> {
    server
        .requests()
        .iter()
        .filter_map(|line| line.strip_prefix(&format!("/cdn/{WEIGHTS} bytes=")))
        .map(|range| range.trim_end_matches('-').parse().unwrap())
        .collect()
}

#[test]
fn a_cancelled_download_goes_on_later() {
    let server = Server::start(model());
    server.state().hold = Some(BYTES / 2);
    let client = Client::of(&server);
    let cancel = AtomicBool::new(false);
    // The hub falls silent after half of the file; the test is that `fetch` returns at all.
    let result = client.hub.fetch(
        ID,
        None,
        &mut |step| {
            if step.what == format!("downloading {WEIGHTS}: 1.5 of 3.0 MB") {
                assert_eq!(step.percent, 50);
                cancel.store(true, Ordering::Relaxed);
            }
        },
        &cancel,
    );
    assert!(matches!(result, Err(LoadError::Cancelled)));
    assert_eq!(weight_ranges(&server), [0]);

    server.state().hold = None;
    same(&client.fetch(None).unwrap(), &model());
    let again = weight_ranges(&server);
    assert_eq!(again, [BYTES / 2]);
}

#[test]
fn a_download_that_was_cut_short_goes_on_later() {
    let server = Server::start(model());
    server.state().cut = Some(BYTES / 3);
    let client = Client::of(&server);
    let error = client.fetch(None).unwrap_err();
    assert!(
        matches!(&error, LoadError::Invalid(text) if text.contains("try again") || text.contains("Try again")),
        "{error:?}"
    );
    server.state().cut = None;
    server.requests();
    same(&client.fetch(None).unwrap(), &model());
    assert_eq!(weight_ranges(&server), [BYTES / 3]);
}

/// A checkpoint of two files of weights.
fn two_shards() -> BTreeMap<String, Vec<u8>> {
    sharded(json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}))
}

fn asks_for(request: &Request, file: &str) -> bool {
    request.method == "GET" && request.path == format!("/cdn/{file}")
}

#[test]
fn files_of_weights_come_together() {
    let both = Barrier::new(2);
    let server = Server::hostile(two_shards(), move |request, _| {
        // Each is sent when the other has been asked for too.
        if ["model-1.safetensors", "model-2.safetensors"]
            .iter()
            .any(|file| asks_for(request, file))
        {
            both.wait();
        }
        false
    });
    let client = Client::of(&server);
    let mut said = Vec::new();
    let never = AtomicBool::new(false);
    let mut report = |step: Progress| said.push(step.what);
    let folder = client.hub.fetch(ID, None, &mut report, &never).unwrap();
    same(&folder, &two_shards());
    assert_eq!(said.last().unwrap(), "downloading 2 files: 23.2 of 23.2 kB");
}

#[test]
fn a_file_that_fails_ends_the_others() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (asked, is_asked) = (Mutex::new(asked), Mutex::new(is_asked));
    let server = Server::hostile(two_shards(), move |request, stream| {
        if asks_for(request, "model-2.safetensors") {
            asked.lock().unwrap().send(()).unwrap();
            // Silent until the client goes.
            let _ = stream.read(&mut [0]);
            return true;
        }
        let fails = asks_for(request, "model-1.safetensors");
        if fails {
            is_asked.lock().unwrap().recv().unwrap();
            send(stream, "404 Not Found", "", b"");
        }
        fails
    });
    let mut client = Client::of(&server);
    // The silence itself must not be what ends it.
    client.hub.stall_timeout = Duration::from_secs(3600);
    let error = client.fetch(None).unwrap_err().to_string();
    assert!(error.contains("model-1.safetensors"), "{error}");
}

#[test]
fn a_new_commit_brings_only_what_changed() {
    let server = Server::start(model());
    let client = Client::of(&server);
    let old = client.fetch(None).unwrap();
    {
        let mut state = server.state();
        state.commit = "b".repeat(40);
        state.files.insert("config.json".into(), content(120, 9));
    }
    server.requests();
    let new = client.fetch(None).unwrap();
    assert_ne!(new, old);
    assert_eq!(weight_ranges(&server), [0; 0]);
    same(&new, &server.state().files.clone());
    same(&old, &model());
}

#[test]
fn without_a_network_the_cache_serves() {
    let server = Server::start(model());
    let mut client = Client::of(&server);
    let nowhere = "http://127.0.0.1:9".to_string();

    client.hub.offline = true;
    let error = client.fetch(None).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    client.hub.offline = false;
    client.hub.endpoint = nowhere.clone();
    let error = client.fetch(None).unwrap_err();
    assert!(
        matches!(&error, LoadError::NotFound(text) if text.contains("cannot be reached")),
        "{error}"
    );

    client.hub.endpoint = server.endpoint.clone();
    let folder = client.fetch(None).unwrap();
    client.hub.endpoint = nowhere;
    assert_eq!(client.fetch(None).unwrap(), folder);
    // The cache also serves if the hub breaks off or is out of order.
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"sha\"",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
    ] {
        let broken = Server::hostile(model(), |_, stream| {
            stream.write_all(answer.as_bytes()).unwrap();
            true
        });
        client.hub.endpoint = broken.endpoint.clone();
        assert_eq!(client.fetch(None).unwrap(), folder);
    }
    client.hub.offline = true;
    assert_eq!(client.fetch(None).unwrap(), folder);
    assert!(folder.starts_with(client.cache.path()));
}

#[test]
fn a_cache_that_cannot_be_written_is_not_called_full() {
    let server = Server::start(model());
    let mut client = Client::of(&server);
    let file = client.cache.path().join("file");
    fs::write(&file, "").unwrap();
    client.hub.cache = file;
    let error = client.fetch(None).unwrap_err().to_string();
    assert!(error.contains("Set HF_HUB_CACHE to a folder"), "{error}");
}

#[test]
fn a_silent_hub_is_given_up() {
    let server = Server::start(model());
    server.state().silent = true;
    let mut client = Client::of(&server);
    client.hub.stall_timeout = Duration::from_millis(200);
    let error = client.fetch(None).unwrap_err();
    assert!(error.to_string().contains("silent"), "{error}");
}

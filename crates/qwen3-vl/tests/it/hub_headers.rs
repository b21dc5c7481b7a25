//! Headers of large files are looked at before the files come: what cannot be loaded is refused then,
//! by name, and leaves nothing large in the cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::GgmlDType;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource, load};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::KvMemory;
use qwen3_vl_testing::gguf::{Converted, convert};
use serde_json::{Value, json};

use crate::support::demo;
use crate::support::hub_server::{ID, Server, send};

/// What is appended to a small model to make it a large one.
const PADDING: usize = 9 << 20;
/// Most bytes that a look at the headers of a demo model takes.
const HEADERS: u64 = 4 << 20;

const CHILD: &str = "QWEN3_VL_TEST_HEADERS";
const WEIGHTS: &str = "model.safetensors";
const TEXT: &str = "q-Q8_0.gguf";
const VISION: &str = "mmproj-F16.gguf";

type Files = BTreeMap<String, Vec<u8>>;

/// The demo model, whose weights are large by a tensor that it has no place for.
fn checkpoint(change: impl FnOnce(&mut Files, &mut Value)) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(demo::demo().path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.insert(name, fs::read(entry.path()).unwrap());
    }
    let weights = files.remove(WEIGHTS).unwrap();
    let (length, rest) = weights.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let padding = [data.len(), data.len() + PADDING];
    header["padding"] = json!({"dtype": "U8", "shape": [PADDING], "data_offsets": padding});
    change(&mut files, &mut header);
    let header = header.to_string();
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header.as_bytes());
    weights.extend(data);
    weights.resize(weights.len() + PADDING, 0);
    files.insert(WEIGHTS.into(), weights);
    files
}

/// The demo model in GGUF, with nothing behind the tensors of the language model.
fn gguf(change: impl FnOnce(&mut Converted)) -> Files {
    let mut both = convert(demo::demo().path(), &|_, _| GgmlDType::F32).unwrap();
    change(&mut both);
    let mut text = both.text.bytes();
    text.resize(text.len() + PADDING, 0);
    [(TEXT, text), (VISION, both.vision.bytes())]
        .map(|(name, content)| (name.to_owned(), content))
        .into()
}

/// What a load of the server's model says, in a process with an empty cache, whose blobs are
/// counted: `ok`, or its error.
fn loaded(server: &Server, what: &str) -> (String, u64) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hub_headers::child", "--nocapture"])
        .env_clear()
        .env(CHILD, what)
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HOME", home.path())
        .output()
        .unwrap();
    let result = fs::read_to_string(home.path().join("result"));
    let result = result.unwrap_or_else(|_| panic!("{output:?}"));
    let blobs = home.path().join("hub/models--owner--model/blobs");
    (result, bytes(&blobs))
}

fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// Runs in a process of its own. By itself it does nothing.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (id, revision) = (ID.to_owned(), None);
    let source = match what.contains("gguf") {
        true => ModelSource::HubGguf {
            id,
            file: TEXT.into(),
            revision,
        },
        false => ModelSource::Hub { id, revision },
    };
    let options = LoadOptions {
        source,
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: match what.contains("rounded") {
            true => QuantizeAtLoad::Q8_0,
            false => QuantizeAtLoad::None,
        },
        compute: None,
        kv_memory: what.contains("huge").then_some(KvMemory::Bytes(1 << 60)),
    };
    let loaded = load(&options, &mut |_| (), &AtomicBool::new(false));
    let result = loaded.map_or_else(|error| error.to_string(), |_| "ok".into());
    let home = std::env::var("HF_HOME").unwrap();
    fs::write(Path::new(&home).join("result"), result).unwrap();
}

/// That a load is refused with these words, after no more than headers came.
fn assert_refused(files: Files, what: &str, words: &[&str]) {
    let server = Server::start(files);
    let (result, blobs) = loaded(&server, what);
    for word in words {
        assert!(result.contains(word), "{result} lacks {word:?}");
    }
    assert!(blobs < 100_000, "{blobs} bytes are in the cache");
    let mut asked = 0;
    for request in server.seen() {
        if request.method == "GET" && request.path.starts_with("/cdn/") {
            let range = request.header("range").unwrap();
            let (first, last) = range
                .strip_prefix("bytes=")
                .unwrap()
                .split_once('-')
                .unwrap();
            let number = |text: &str| text.parse::<u64>().expect("it asks for the rest");
            asked += number(last) + 1 - number(first);
        }
    }
    assert!(asked <= HEADERS, "{asked} bytes were asked for");
}

#[test]
fn types_that_are_not_known_are_refused_before_the_weights_come() {
    let name = "model.language_model.layers.3.mlp.up_proj.weight";
    let files = checkpoint(|_, header| header[name]["dtype"] = "I16".into());
    assert_refused(files, "checkpoint", &[name, "has type I16"]);
    let files = checkpoint(|_, header| {
        let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
        header["another"] = tensor;
    });
    assert_refused(files, "checkpoint", &[name, "missing"]);
}

#[test]
fn quantize_config_json_is_read_before_the_weights_come() {
    let with = |json: &'static str| {
        checkpoint(move |files, _| {
            files.insert("quantize_config.json".into(), json.into());
        })
    };
    let three = with(r#"{"bits": 3, "group_size": 128, "desc_act": false}"#);
    assert_refused(three, "checkpoint", &["quantize_config.json", "3"]);
    let four = with(r#"{"bits": 4, "group_size": 128, "desc_act": false}"#);
    assert_refused(four, "checkpoint rounded", &["quantised already"]);
}

#[test]
fn what_does_not_fit_is_refused_before_the_weights_come() {
    let words = ["owner/model", "does not fit", "a smaller kv-memory"];
    assert_refused(checkpoint(|_, _| ()), "checkpoint huge", &words);
    assert_refused(gguf(|_| ()), "gguf huge", &words);
}

#[test]
fn gguf_headers_are_read_before_the_bulk_comes() {
    let iq = gguf(|both| both.text.tensors[3].kind = 16);
    assert_refused(iq, "gguf", &[TEXT, "IQ2_XXS (1)"]);
    let other = gguf(|both| both.text.set("general.architecture", "qwen2vl"));
    assert_refused(other, "gguf", &[TEXT, "\"qwen2vl\"", "only Qwen3-VL"]);
    let bare = gguf(|both| both.text.keys.retain(|(key, _)| !key.contains("tokenizer")));
    assert_refused(bare, "gguf", &["tokenizer.ggml"]);
    let vision = gguf(|both| both.vision.set("general.architecture", "qwen3vl"));
    assert_refused(vision, "gguf", &[VISION, "mmproj"]);
    let missing = gguf(|both| both.text.tensors[3].name = "else".into());
    assert_refused(missing, "gguf", &["missing"]);
}

/// What can be loaded comes whole, also from a hub that knows no ranges.
#[test]
fn a_model_that_passes_is_loaded() {
    for (files, what, large) in [
        (checkpoint(|_, _| ()), "checkpoint", WEIGHTS),
        (gguf(|_| ()), "gguf", TEXT),
    ] {
        let server = Server::start(files.clone());
        let (result, blobs) = loaded(&server, what);
        assert_eq!(result, "ok");
        assert!(blobs > PADDING as u64);
        let parts = server.requests();
        let parts = parts
            .iter()
            .filter(|line| line.starts_with(&format!("/cdn/{large} ")));
        let (whole, looks): (Vec<_>, Vec<_>) = parts.partition(|line| line.ends_with("=0-"));
        assert!(
            whole.len() == 1 && !looks.is_empty(),
            "{whole:?} and {looks:?}"
        );

        let content = files.clone();
        let server = Server::hostile(files, move |request, stream| {
            let name = request.path.strip_prefix("/cdn/");
            let name = name.filter(|_| request.method == "GET");
            name.inspect(|name| send(stream, "200 OK", "", &content[*name]))
                .is_some()
        });
        assert_eq!(loaded(&server, what).0, "ok");
    }
}

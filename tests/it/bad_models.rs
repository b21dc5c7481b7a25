//! Models that cannot be loaded, with the real loader: one clear error, which comes first.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use gst::prelude::*;
use gstqwenvl::testing::Hooks;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Run, WATCHDOG};

/// An endless stream: only the ERROR ends it.
const VIDEO: &str = "videotestsrc ! video/x-raw,width=64,height=64,framerate=10/1";

/// Panics of the element's and the engine's threads.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("qwen")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            default(info);
        }));
    });
}

/// A copy of the demo model.
fn demo() -> TempDir {
    let copy = TempDir::new().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    for entry in fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// The demo model with other weights, made of the bytes of the good ones.
fn weights(change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let copy = demo();
    let path = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    copy
}

/// The demo model with another `config.json`.
fn config(change: impl FnOnce(&mut Value)) -> TempDir {
    let copy = demo();
    let path = copy.path().join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
    copy
}

/// Plays a video. Returns the one ERROR, which must contain all these words.
fn error_with(video: &str, properties: &str, words: &[&str]) -> gst::glib::Error {
    count_panics();
    let line = format!("{video} ! qwenvl name=q {properties} ! fakesink");
    let messages = Run::new(&line, Hooks::default()).finish();
    assert_eq!(messages.errors.len(), 1, "{properties}: {messages:?}");
    let error = messages.errors[0].0.clone();
    for word in words {
        assert!(error.message().contains(word), "{error} lacks {word:?}");
    }
    assert!(messages.ids().is_empty() || messages.descriptions().is_empty());
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    error
}

fn folder_property(path: &Path) -> String {
    format!("model=\"{}\"", path.display())
}

/// The files are there but cannot be used.
fn unusable(model: &TempDir, words: &[&str]) {
    let error = error_with(VIDEO, &folder_property(model.path()), words);
    assert!(error.matches(gst::ResourceError::Read), "{error:?}");
}

#[test]
fn no_folder() {
    let words = ["there is no folder /no/such/folder", "hub id"];
    let error = error_with(VIDEO, "model=/no/such/folder", &words);
    assert!(error.matches(gst::ResourceError::NotFound), "{error:?}");
}

#[test]
fn missing_files() {
    for (name, remedy) in [
        (
            "config.json",
            "not a checkpoint as Hugging Face lays it out",
        ),
        ("tokenizer.json", ""),
        ("model.safetensors", "the folder must hold"),
    ] {
        let model = demo();
        fs::remove_file(model.path().join(name)).unwrap();
        let place = model.path().display().to_string();
        unusable(&model, &[name, &place, remedy]);
    }
    let model = demo();
    for name in [
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    ] {
        fs::remove_file(model.path().join(name)).unwrap();
    }
    unusable(&model, &["preprocessor_config.json", "is missing"]);
}

#[test]
fn damaged_weights() {
    let words = ["model.safetensors is damaged", "fetch it again"];
    for part in [2, 3, 1000] {
        let cut = weights(|bytes| bytes.truncate(bytes.len() * (part - 1) / part));
        unusable(&cut, &words);
    }
    // Inside the header, inside its length, and nothing at all.
    for length in [1000, 5, 0] {
        unusable(&weights(|bytes| bytes.truncate(length)), &words);
    }
    unusable(&weights(|bytes| bytes.push(0)), &words);
}

#[test]
fn garbage_instead_of_a_header() {
    let words = ["model.safetensors is damaged"];
    unusable(&weights(|bytes| bytes[8..1000].fill(b'#')), &words);
    unusable(&weights(|bytes| bytes[..8].fill(0xff)), &words);
    unusable(&weights(|bytes| bytes.fill(0)), &words);
    let page = b"<!DOCTYPE html><html><body>404: not found</body></html>";
    unusable(&weights(|bytes| *bytes = page.to_vec()), &words);
}

#[test]
fn a_tensor_is_missing() {
    const NAME: &[u8] = b"model.language_model.norm.weight";
    let model = weights(|bytes| {
        let at = bytes.windows(NAME.len()).position(|w| w == NAME).unwrap();
        bytes[at + NAME.len() - 1] = b'T';
    });
    unusable(&model, &["model.language_model.norm.weight is missing"]);
}

/// A missing field has transformers' default, which does not fit the demo's weights.
#[test]
fn the_configuration_lacks_a_field() {
    for (part, field, words) in [
        (
            "text_config",
            "hidden_size",
            ["out_hidden_size", "hidden_size"],
        ),
        ("text_config", "intermediate_size", ["mlp", "22016"]),
        (
            "text_config",
            "num_key_value_heads",
            ["num_attention_heads", "num_key_value_heads"],
        ),
        ("text_config", "head_dim", ["mrope_section", "head_dim"]),
        ("vision_config", "depth", ["visual.blocks.4", "is missing"]),
        ("", "vision_config", ["out_hidden_size", "hidden_size"]),
        (
            "",
            "video_token_id",
            ["video_token_id = 151656", "vocab_size = 512"],
        ),
        ("", "model_type", ["no model_type", "qwen3_vl"]),
    ] {
        let model = config(|config| {
            let part = match part {
                "" => config,
                part => &mut config[part],
            };
            part.as_object_mut().unwrap().remove(field).unwrap();
        });
        unusable(&model, &words);
    }
}

#[test]
fn the_configuration_is_no_configuration() {
    let model = demo();
    fs::write(model.path().join("config.json"), "{\"model_type\": ").unwrap();
    unusable(&model, &["config.json", "EOF"]);
    let other = config(|config| config["model_type"] = json!("llama"));
    unusable(&other, &["model_type", "llama", "qwen3_vl"]);
    let zero = config(|config| config["text_config"]["num_attention_heads"] = json!(0));
    unusable(&zero, &["config.json", "num_attention_heads"]);
}

#[test]
fn the_configuration_is_not_that_of_the_weights() {
    for (part, field, value, words) in [
        (
            "text_config",
            "intermediate_size",
            400,
            ["mlp", "[384, 128]", "[400, 128]"],
        ),
        (
            "text_config",
            "vocab_size",
            600,
            ["embed_tokens", "[512, 128]", "[600, 128]"],
        ),
        (
            "vision_config",
            "intermediate_size",
            100,
            ["visual.blocks.0", "[384]", "[100]"],
        ),
        (
            "text_config",
            "num_hidden_layers",
            5,
            ["layers.4", "is missing", "configuration"],
        ),
    ] {
        let model = config(|config| config[part][field] = json!(value));
        unusable(&model, &words);
    }
}

#[test]
fn experts_that_the_file_lacks() {
    let model = config(|config| {
        config["model_type"] = json!("qwen3_vl_moe");
        config["text_config"]["num_experts"] = json!(128);
        config["text_config"]["num_experts_per_tok"] = json!(8);
        config["text_config"]["moe_intermediate_size"] = json!(768);
    });
    unusable(&model, &["mlp.experts.0.gate_proj", "is missing"]);
}

#[test]
fn a_broken_tokenizer() {
    for content in [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "{\"model\": {\"type\": \"BPE\"}}",
    ] {
        let model = demo();
        fs::write(model.path().join("tokenizer.json"), content).unwrap();
        unusable(&model, &["tokenizer.json"]);
    }
    let model = demo();
    let path = model.path().join("tokenizer.json");
    let other = fs::read_to_string(&path).unwrap();
    fs::write(&path, other.replace("<|vision_start|>", "<|vision_begin|>")).unwrap();
    unusable(&model, &["tokenizer.json", "<|vision_start|>"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_build_does_not_have() {
    let words = ["device cuda:0 cannot be used", "device=cpu"];
    let error = error_with(VIDEO, "device=cuda:0", &words);
    assert!(error.matches(gst::ResourceError::Failed), "{error:?}");
}

#[test]
fn a_device_that_does_not_exist() {
    let words = ["unknown device \"nonsense\"", "cpu"];
    let error = error_with(VIDEO, "device=nonsense", &words);
    assert!(error.matches(gst::LibraryError::Settings), "{error:?}");
}

/// `gst-launch-1.0` of GStreamer 1.22 does not see an error that comes before its loop runs.
#[test]
fn a_mistyped_model_fails_the_state_change() {
    let folder = TempDir::new().unwrap();
    let pipe = demo();
    fs::remove_file(pipe.path().join("config.json")).unwrap();
    let made = Command::new("mkfifo")
        .arg(pipe.path().join("config.json"))
        .status();
    assert!(made.unwrap().success());
    let weights = demo();
    fs::remove_file(weights.path().join("model.safetensors")).unwrap();
    let other = config(|config| config["model_type"] = json!("qwen2_5_vl"));
    for (path, word) in [
        (Path::new("/no/such/folder"), "there is no folder"),
        (folder.path(), "has no config.json"),
        (pipe.path(), "not a file"),
        (weights.path(), "model.safetensors"),
        (other.path(), "Qwen2.5-VL"),
    ] {
        let line = format!(
            "{VIDEO} ! qwenvl name=q {} ! fakesink",
            folder_property(path)
        );
        let run = Run::new(&line, Hooks::default());
        assert!(run.set_state(gst::State::Paused).is_err(), "{path:?}");
        let bus = run.pipeline.bus().unwrap();
        let error = bus.pop_filtered(&[gst::MessageType::Error]).expect(word);
        assert_eq!(error.src().unwrap().name(), "q");
        let gst::MessageView::Error(error) = error.view() else {
            unreachable!("filtered")
        };
        assert!(error.error().message().contains(word), "{error:?}");
        run.set_state(gst::State::Null).unwrap();
        // Another model, and it plays.
        run.element.set_property("model", "demo");
        assert!(run.set_state(gst::State::Paused).is_ok());
        run.set_state(gst::State::Null).unwrap();
    }
}

/// `gst-launch-1.0` shows the first ERROR and ends, so it must not be upstream's general "Internal
/// data stream error".
#[test]
fn the_own_error_comes_before_upstreams() {
    // A fault that the check of the folder does not find.
    let model = weights(|bytes| bytes.truncate(bytes.len() / 2));
    let model = folder_property(model.path());
    for (video, overload) in [
        (VIDEO, "auto"),
        (VIDEO, "drop-newest"),
        (
            "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=100/1",
            "auto",
        ),
    ] {
        for _ in 0..10 {
            let line = format!(
                "{video} ! qwenvl name=q {model} overload={overload} ! \
                 fakesink async=false"
            );
            // A sink that waits for its preroll when the error comes may never play.
            let run = Run::new(&line, Hooks::default());
            run.set_state(gst::State::Playing).unwrap();
            let bus = run.pipeline.bus().unwrap();
            let from = |which: &str| {
                let wait = gst::ClockTime::try_from(WATCHDOG).unwrap();
                let error = bus.timed_pop_filtered(wait, &[gst::MessageType::Error]);
                error.expect(which).src().unwrap().name()
            };
            assert_eq!(from("the own error"), "q");
            // Upstream's error does come, so this test can fail.
            assert!(from("upstream's error").starts_with("videotestsrc"));
            run.set_state(gst::State::Null).unwrap();
        }
    }
}

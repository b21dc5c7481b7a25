//! Folders that are not checkpoints are recognised at once, whatever they contain.

use crate::support::demo;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use qwen3_vl::load;
use qwen3_vl_core::load::{LoadError, Progress};
use qwen3_vl_core::request::SamplingParams;
use serde_json::json;
use tempfile::TempDir;

/// All files that a load reads.
const FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "model.safetensors",
];

/// Fails the test if `work` does not end.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    let wait = Duration::from_secs(30);
    result
        .recv_timeout(wait)
        .unwrap_or_else(|_| panic!("{what} hangs"))
}

/// The demo model without a file.
fn without(name: &str) -> TempDir {
    let copy = demo::demo();
    fs::remove_file(copy.path().join(name)).unwrap();
    copy
}

#[test]
fn the_demo_model_passes() {
    let copy = demo::demo();
    load::check(&demo::options(copy.path())).unwrap();
    demo::load(copy.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_folders_in_the_place_of_files() {
    for name in FILES {
        let place = |kind: &str, make: &dyn Fn(&Path)| {
            let copy = without(name);
            make(&copy.path().join(name));
            let what = format!("{kind} as {name}");
            in_time(&what, move || {
                let words = [name, "not a file"];
                demo::refused_at_once(copy.path(), &words)
            });
        };
        let mkfifo =
            |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        place("a pipe", &mkfifo);
        for device in ["/dev/zero", "/dev/random", "/dev/null"] {
            let link = |path: &Path| std::os::unix::fs::symlink(device, path).unwrap();
            place(device, &link);
        }
        let copy = without(name);
        fs::create_dir(copy.path().join(name)).unwrap();
        demo::refused_at_once(copy.path(), &[name, "folder, not a file"]);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_an_index_or_a_shard() {
    let copy = without("model.safetensors");
    let index = copy.path().join("model.safetensors.index.json");
    let shard = copy.path().join("model-00001-of-00001.safetensors");
    fs::write(
        &index,
        json!({"weight_map": {"x": shard.file_name().unwrap().to_str()}}).to_string(),
    )
    .unwrap();
    Command::new("mkfifo").arg(&shard).status().unwrap();
    let path = copy.path().to_owned();
    in_time("a shard", move || {
        demo::refused_at_once(&path, &["model-00001", "not a file"])
    });
    fs::remove_file(&index).unwrap();
    Command::new("mkfifo").arg(&index).status().unwrap();
    let path = copy.path().to_owned();
    in_time("an index", move || {
        demo::refused_at_once(&path, &["index.json", "not a file"])
    });
}

#[test]
fn files_without_end() {
    for name in FILES {
        let copy = demo::demo();
        let file = File::options()
            .write(true)
            .open(copy.path().join(name))
            .unwrap();
        file.set_len(1 << 42).unwrap();
        match name {
            "model.safetensors" => demo::refused(copy.path(), &[name, "damaged"]),
            "tokenizer.json" => demo::refused(copy.path(), &[name, "more than"]),
            _ => demo::refused_at_once(copy.path(), &[name, "more than"]),
        };
    }
}

/// Contents that a broken copy or another program leaves.
#[test]
fn files_that_are_no_json() {
    for name in FILES.into_iter().filter(|name| name.ends_with(".json")) {
        for content in [
            &b""[..],
            b"{",
            b"[1,",
            b"\xef\xbb\xbf{}",
            b"{\0\"\0a\0",
            b"<html>",
        ] {
            let copy = demo::demo();
            fs::write(copy.path().join(name), content).unwrap();
            demo::refused(copy.path(), &[name, "is no JSON", "fetch or save it again"]);
        }
    }
}

#[cfg(unix)]
#[test]
fn links_to_nothing() {
    for name in FILES {
        let copy = without(name);
        std::os::unix::fs::symlink("/no/such/file", copy.path().join(name)).unwrap();
        demo::refused_at_once(copy.path(), &[name]);
    }
}

#[test]
fn pointers_of_git_lfs() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4144840\n";
    for name in FILES {
        let copy = demo::demo();
        fs::write(copy.path().join(name), pointer).unwrap();
        demo::refused_at_once(copy.path(), &[name, "Git LFS pointer", "git lfs pull"]);
    }
    let copy = without("model.safetensors");
    fs::write(copy.path().join("model.safetensors.index.json"), pointer).unwrap();
    demo::refused_at_once(copy.path(), &["index.json", "Git LFS pointer"]);
}

/// A folder of empty files of these names.
fn folder_of(names: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in names {
        let path = folder.path().join(name);
        match name.strip_suffix('/') {
            Some(_) => fs::create_dir(path).unwrap(),
            None => fs::write(path, "").unwrap(),
        }
    }
    folder
}

/// The demo model with these files instead of its weights.
fn with_weights(names: &[&str]) -> TempDir {
    let copy = without("model.safetensors");
    for name in names {
        fs::write(copy.path().join(name), "x").unwrap();
    }
    copy
}

#[test]
fn folders_of_other_kinds_are_recognised() {
    let adapter = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ];
    demo::refused_at_once(folder_of(&adapter).path(), &["LoRA", "merge"]);
    demo::refused_at_once(with_weights(&adapter[..2]).path(), &["LoRA", "merge"]);
    // What is no GGUF in spite of its name, alone or beside a config.json; and a vision tower
    // alone.
    demo::refused_at_once(folder_of(&["model-Q4_K_M.gguf"]).path(), &["GGUF"]);
    demo::refused_at_once(with_weights(&["model-Q4_K_M.gguf"]).path(), &["GGUF"]);
    demo::refused_at_once(folder_of(&["mmproj-F16.gguf"]).path(), &["GGUF"]);
    demo::refused_at_once(
        with_weights(&["pytorch_model.bin"]).path(),
        &["PyTorch", "safetensors"],
    );
    for name in ["consolidated.00.pth", "weights.bin"] {
        demo::refused_at_once(with_weights(&[name]).path(), &["PyTorch", "safetensors"]);
    }
    let parts = [
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin",
    ];
    demo::refused_at_once(with_weights(&parts).path(), &["PyTorch", "safetensors"]);
    demo::refused_at_once(with_weights(&["model.onnx"]).path(), &["ONNX"]);
    demo::refused_at_once(folder_of(&["onnx/", "tokenizer.json"]).path(), &["ONNX"]);
    demo::refused_at_once(
        folder_of(&[]).path(),
        &["has no config.json", "Hugging Face"],
    );
    demo::refused_at_once(
        with_weights(&[]).path(),
        &["model.safetensors", "the folder must hold"],
    );
    let copy = without("tokenizer.json");
    for name in ["vocab.json", "merges.txt"] {
        fs::write(copy.path().join(name), "{}").unwrap();
    }
    demo::refused_at_once(
        copy.path(),
        &["tokenizer.json", "vocab.json", "save_pretrained"],
    );
}

/// Model types and quantization methods in `config.json` are checked before missing files.
#[test]
fn other_models_and_quantised_ones_are_recognised() {
    let with_config = |config: serde_json::Value| {
        let folder = folder_of(&["model.safetensors"]);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        folder
    };
    let qwen = with_config(json!({"model_type": "qwen2_5_vl", "hidden_size": 2048}));
    demo::refused_at_once(qwen.path(), &["Qwen2.5-VL", "Qwen/Qwen3-VL-2B-Instruct"]);
    let llava = with_config(json!({"model_type": "llava", "text_config": {"model_type": "llama"}}));
    demo::refused_at_once(llava.path(), &["LLaVA", "only Qwen3-VL"]);
    let aqlm = json!({"model_type": "qwen3_vl", "quantization_config": {"quant_method": "aqlm"}});
    demo::refused_at_once(with_config(aqlm).path(), &["aqlm", "property quantization"]);
}

#[test]
fn paths_that_are_no_folder() {
    let copy = demo::demo();
    let weights = copy.path().join("model.safetensors");
    demo::refused_at_once(&weights, &["is a file", "config.json"]);
    let gguf = copy.path().join("model.gguf");
    fs::write(&gguf, "GGUF").unwrap();
    demo::refused_at_once(&gguf, &["model.gguf", "damaged"]);
    let missing = copy.path().join("gone");
    demo::refused_at_once(&missing, &["there is no folder", "hub id"]);
    let error = load::check(&demo::options(&missing)).unwrap_err();
    assert!(matches!(error, LoadError::NotFound(_)));
    // A path longer than any system allows, with line breaks.
    let long = Path::new("/x").join("y\n".repeat(1_000_000));
    let error = load::check(&demo::options(&long)).unwrap_err().to_string();
    assert!(
        error.len() < 3000 && !error.contains('\n'),
        "{} bytes",
        error.len()
    );
}

/// transformers 5 saves one file for both processors.
#[test]
fn a_checkpoint_with_processor_config_alone() {
    let copy = demo::demo();
    for name in ["preprocessor_config.json", "video_preprocessor_config.json"] {
        fs::remove_file(copy.path().join(name)).unwrap();
    }
    let model = demo::load(copy.path()).unwrap();
    assert_eq!(model.model().video_pixels, (16384, 294_912));
    assert_eq!(model.model().image_pixels, (4096, 24576));
    assert!(!model.model().video_pixels_per_frame);
}

#[test]
fn what_a_checkpoint_says_of_decoding() {
    let of = |json: serde_json::Value| {
        let copy = demo::with("generation_config.json", |config| *config = json);
        let backend = demo::load(copy.path()).unwrap();
        (backend.model().sampling, backend.model().own_sampling)
    };
    // The demo model decodes greedily.
    let greedy = of(json!({"do_sample": false, "temperature": 0.6, "top_k": 9})).0;
    assert_eq!((greedy.temperature, greedy.presence_penalty), (0.0, 0.0));
    let (all, own) = of(json!({"temperature": 0.7, "top_p": 0.8, "top_k": 20}));
    let named = SamplingParams {
        temperature: 0.7,
        top_p: 0.8,
        top_k: 20,
        ..SamplingParams::default()
    };
    assert_eq!(own, named);
    assert_eq!(all.presence_penalty, 1.5);
    let (all, own) = of(json!({}));
    assert_eq!(
        (all.temperature, all.top_k, all.presence_penalty),
        (0.7, 20, 1.5)
    );
    assert_eq!(own, SamplingParams::default());
}

/// The prompt has turns, so the end of a turn always ends the answer; otherwise the answer would go
/// on with the next turn.
#[test]
fn the_end_of_the_turn_ends_an_answer_whatever_the_checkpoint_says() {
    let stop = |ids: serde_json::Value| {
        let copy = demo::with("generation_config.json", |config| {
            config["eos_token_id"] = ids
        });
        let options = demo::options(copy.path());
        let loaded = load::load_runner(&options, &mut |_| (), &AtomicBool::new(false));
        loaded.unwrap().1.parts.stop
    };
    let (end_of_text, end_of_turn) = (504, 506);
    assert_eq!(
        stop(json!([end_of_turn, end_of_text])),
        [end_of_turn, end_of_text]
    );
    assert_eq!(stop(json!(end_of_text)), [end_of_text, end_of_turn]);
    assert_eq!(stop(json!([7])), [7, end_of_turn]);
    assert_eq!(stop(json!(end_of_turn)), [end_of_turn]);
    assert_eq!(stop(json!(null)), [end_of_turn, end_of_text]);
    assert_eq!(stop(json!([])), [end_of_turn, end_of_text]);
}

#[test]
fn it_is_said_which_settings_are_not_applied() {
    let model = demo::with("generation_config.json", |config| {
        config["no_repeat_ngram_size"] = 3.into();
    });
    let mut said = Vec::new();
    let progress = &mut |progress: Progress| said.push(progress.what);
    let options = demo::options(model.path());
    load::load(&options, progress, &AtomicBool::new(false)).unwrap();
    assert!(
        said.iter()
            .any(|what| what.contains("sets no_repeat_ngram_size, which is not")),
        "{said:?}"
    );
}

//! Configurations out of keys.

use std::fs;
use std::path::Path;

use qwen3_vl::config::{Config, GenerationConfig, PixelRange, Processors};
use qwen3_vl_testing::gguf::{Converted, Value};

use super::{assert_words, demo, open};
use crate::support::demo::json;

fn config(files: &Converted) -> Result<Config, String> {
    Config::from_gguf(&open(files)?).map_err(|e| e.to_string())
}

fn generation(files: &Converted) -> GenerationConfig {
    GenerationConfig::from_gguf(&open(files).unwrap()).unwrap()
}

#[test]
fn the_configuration_is_that_of_config_json() {
    let folder = crate::support::demo::demo();
    let own = json(folder.path(), "config.json").to_string();
    let own = Config::from_json(own.as_bytes()).unwrap();
    let found = config(&demo()).unwrap();
    assert_eq!(format!("{found:?}"), format!("{own:?}"));
}

/// The seeds of the fuzz target pass everything.
#[test]
fn the_smallest_files_pass() {
    let files = qwen3_vl_testing::gguf::tiny();
    let found = config(&files).unwrap();
    assert_eq!(found.vision_config.deepstack_visual_indexes, [1]);
    let model = open(&files).unwrap();
    let tokenizer = qwen3_vl::tokenizer::Tokenizer::from_gguf(&model).unwrap();
    assert_eq!(tokenizer.encode("ab ba").unwrap(), [2, 3, 1, 0]);
    for (name, file) in [("text", &files.text), ("vision", &files.vision)] {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf");
        let seed = fs::read(seed.join(name)).unwrap();
        assert!(seed == file.bytes(), "fuzz/seeds/gguf/{name} is another");
    }
}

#[test]
fn what_the_file_may_leave_out() {
    let mut files = demo();
    let same = config(&files).unwrap();
    for key in [
        "qwen3vl.attention.value_length",
        "qwen3vl.n_deepstack_layers",
        "qwen3vl.attention.key_length",
    ] {
        files.text.remove(key);
    }
    for key in [
        "clip.use_gelu",
        "clip.vision.spatial_merge_size",
        "clip.vision.image_size",
    ] {
        files.vision.remove(key);
    }
    let found = config(&files).unwrap();
    assert_eq!(format!("{found:?}"), format!("{same:?}"));
}

#[test]
fn keys_that_are_missing_or_contradict_others_are_named() {
    let text = |words: &[&str], change: &dyn Fn(&mut Converted)| {
        let mut files = demo();
        change(&mut files);
        let error = config(&files).expect_err(&format!("passed in spite of {words:?}"));
        assert_words(&error, words);
    };
    for key in [
        "qwen3vl.block_count",
        "qwen3vl.context_length",
        "qwen3vl.embedding_length",
        "qwen3vl.feed_forward_length",
        "qwen3vl.attention.head_count",
        "qwen3vl.attention.layer_norm_rms_epsilon",
        "qwen3vl.rope.freq_base",
        "qwen3vl.rope.dimension_sections",
        "tokenizer.ggml.tokens",
        "general.architecture",
    ] {
        text(&[key], &|files| files.text.remove(key));
        text(&[key], &|files| files.text.set(key, Value::Bool(true)));
    }
    for key in [
        "clip.projector_type",
        "clip.vision.block_count",
        "clip.vision.embedding_length",
        "clip.vision.feed_forward_length",
        "clip.vision.attention.head_count",
        "clip.vision.patch_size",
        "clip.vision.projection_dim",
        "clip.vision.is_deepstack_layers",
    ] {
        text(&[key], &|files| files.vision.remove(key));
        text(&[key], &|files| files.vision.set(key, Value::F32(1.0)));
    }
    text(&["\"llama\"", "only Qwen3-VL"], &|files| {
        files.text.set("general.architecture", "llama");
    });
    text(&["\"qwen3vl\"", "mmproj"], &|files| {
        files.vision.set("general.architecture", "qwen3vl");
    });
    text(&["\"qwen2.5vl_merger\"", "qwen3vl_merger"], &|files| {
        files.vision.set("clip.projector_type", "qwen2.5vl_merger");
    });
    text(&["is_deepstack_layers", "5 blocks"], &|files| {
        let flags = Value::Array(7, vec![Value::Bool(false); 5]);
        files.vision.set("clip.vision.is_deepstack_layers", flags);
    });
    text(&["another model", "DeepStack layers 2, not 3"], &|files| {
        let layers = Value::U32(3);
        files.text.set("qwen3vl.n_deepstack_layers", layers);
    });
    text(&["another model", "width of vision tokens 256"], &|files| {
        files
            .vision
            .set("clip.vision.projection_dim", Value::U32(256));
    });
    text(&["tokens has 512 tokens", "511 rows"], &|files| {
        let tensors = files.text.tensors.iter_mut();
        for tensor in tensors.filter(|tensor| tensor.name == "token_embd.weight") {
            tensor.shape[0] = 511;
        }
    });
    text(&["no tensor token_embd.weight"], &|files| {
        let tensors = &mut files.text.tensors;
        tensors.retain(|tensor| tensor.name != "token_embd.weight");
    });
    text(&["256 rows", "image_size"], &|files| {
        files.vision.set("clip.vision.image_size", Value::U32(512));
    });
    text(&["rope.scaling.type", "\"yarn\""], &|files| {
        files.text.set("qwen3vl.rope.scaling.type", "yarn");
    });
    text(&["attention.value_length"], &|files| {
        let width = Value::U32(64);
        files.text.set("qwen3vl.attention.value_length", width);
    });
    text(&["rope.dimension_sections"], &|files| {
        let sections = Value::Array(5, vec![Value::I32(8); 4]);
        files.text.set("qwen3vl.rope.dimension_sections", sections);
    });
    // What the checks of the JSON files find.
    text(&["mrope_section", "head_dim"], &|files| {
        let sections = Value::Array(5, vec![Value::I32(8); 3]);
        files.text.set("qwen3vl.rope.dimension_sections", sections);
    });
    text(&["num_key_value_heads"], &|files| {
        let heads = Value::U32(3);
        files.text.set("qwen3vl.attention.head_count_kv", heads);
    });
    text(&["<|video_pad|>"], &|files| {
        for (key, value) in &mut files.text.keys {
            if let (Value::Array(_, tokens), "tokenizer.ggml.tokens") = (value, key.as_str()) {
                tokens[511] = "<|other|>".into();
            }
        }
    });
}

#[test]
fn decoding_is_that_of_the_file_or_of_the_official_checkpoints() {
    let mut files = demo();
    let found = generation(&files);
    assert_eq!(found.eos_token_id, [506, 504]);
    let sampling = |c: &GenerationConfig| (c.temperature, c.top_p, c.top_k, c.repetition_penalty);
    let (temperature, top_p) = (Some(0.7), Some(0.8));
    assert_eq!(sampling(&found), (temperature, top_p, Some(20), None));
    assert!(found.not_applied.is_empty());

    files.text.set(
        "tokenizer.chat_template",
        r"x '<|im_start|>assistant\n<think>\n' }}",
    );
    let thinking = generation(&files);
    assert_eq!(sampling(&thinking), (Some(1.0), Some(0.95), Some(20), None));

    for (key, value) in [
        ("general.sampling.temp", Value::F32(0.3)),
        ("general.sampling.top_p", Value::F32(0.85)),
        ("general.sampling.top_k", Value::I32(40)),
        ("general.sampling.min_p", Value::F32(0.05)),
        ("general.sampling.penalty_repeat", Value::F32(1.1)),
    ] {
        files.text.set(key, value);
    }
    let own = generation(&files);
    let expected = (Some(0.3), Some(0.85), Some(40), Some(1.1));
    assert_eq!(sampling(&own), expected);
    assert_eq!(own.not_applied, ["min_p"]);

    files.text.remove("tokenizer.ggml.eos_token_id");
    assert_eq!(generation(&files).eos_token_id, [504]);
    files.text.set("general.sampling.temp", "hot");
    let error = GenerationConfig::from_gguf(&open(&files).unwrap()).unwrap_err();
    assert_words(&error.to_string(), &["general.sampling.temp"]);
}

#[test]
fn pixels_are_those_of_the_official_checkpoints_where_the_file_says_nothing() {
    let mut files = demo();
    let vision = config(&files).unwrap().vision_config;
    let read = |files: &Converted| Processors::from_gguf(&open(files).unwrap(), &vision);
    let found = read(&files).unwrap();
    let range = |shortest_edge, longest_edge| PixelRange {
        shortest_edge,
        longest_edge,
    };
    assert_eq!(found.image.size, range(65_536, 16_777_216));
    assert_eq!(found.video.size, range(4096, 25_165_824));
    assert!(found.image.per_frame && !found.video.per_frame);
    for config in [&found.image, &found.video] {
        assert_eq!((config.image_mean, config.image_std), ([0.5; 3], [0.5; 3]));
    }
    let channels = |values: [f32; 3]| Value::Array(6, values.map(Value::F32).to_vec());
    files
        .vision
        .set("clip.vision.image_mean", channels([0.1, 0.2, 0.3]));
    files
        .vision
        .set("clip.vision.image_min_pixels", Value::U32(1024));
    files
        .vision
        .set("clip.vision.image_max_pixels", Value::U32(4096));
    let found = read(&files).unwrap();
    assert_eq!(found.video.image_mean, [0.1, 0.2, 0.3]);
    assert_eq!(found.image.size, range(1024, 4096));
    files
        .vision
        .set("clip.vision.image_std", channels([0.0; 3]));
    let error = read(&files).unwrap_err().to_string();
    assert_words(&error, &["image_std", "more than 0"]);
}

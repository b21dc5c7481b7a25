//! Processor settings from every mix of files that a checkpoint may have, compared with
//! `AutoProcessor` of transformers 5.17 on the same files (`tools/reference/processors.py`).

use std::fs;
use std::path::Path;

use qwen3_vl::config::{
    Config, ConfigError, PreprocessorConfig, ProcessorFiles, Processors, VisionConfig,
};
use qwen3_vl_core::frames::{Budget, Size};
use qwen3_vl_testing::data_dir;
use serde_json::{Value, json};

const FACTOR: u32 = 32;

fn vision() -> VisionConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/config.json");
    Config::from_json(&fs::read(path).unwrap())
        .unwrap()
        .vision_config
}

fn read(files: &Value) -> Result<Processors, ConfigError> {
    let bytes = |name: &str| files.get(name).map(|file| file.to_string().into_bytes());
    let processor = bytes("processor_config.json");
    let image = bytes("preprocessor_config.json");
    let video = bytes("video_preprocessor_config.json");
    let files = ProcessorFiles {
        processor: processor.as_deref(),
        image: image.as_deref(),
        video: video.as_deref(),
    };
    Processors::from_files(files, &vision())
}

/// Patches in time, height and width.
fn grid(config: &PreprocessorConfig, frames: u32, size: Size) -> [u32; 3] {
    let (min_pixels, max_pixels) = (config.size.shortest_edge, config.size.longest_edge);
    let budget = match config.per_frame {
        true => Budget::HfImage {
            min_pixels,
            max_pixels,
        },
        false => Budget::HfVideo {
            min_pixels,
            max_pixels,
            cap_per_frame: false,
        },
    };
    let resized = budget.size(frames, size, FACTOR, 2).unwrap();
    [frames.div_ceil(2), resized.height / 16, resized.width / 16]
}

fn assert_equals(
    name: &str,
    config: &PreprocessorConfig,
    frames: u32,
    table: &Value,
    sizes: &Value,
) {
    let floats = |field: &str| -> Vec<f32> {
        let values = table[field].as_array().unwrap();
        values.iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    assert_eq!(config.image_mean.as_slice(), floats("image_mean"), "{name}");
    assert_eq!(config.image_std.as_slice(), floats("image_std"), "{name}");
    let sizes: Vec<[u32; 2]> = serde_json::from_value(sizes.clone()).unwrap();
    let grids: Vec<[u32; 3]> = serde_json::from_value(table["grids"].clone()).unwrap();
    for ([height, width], expected) in sizes.into_iter().zip(grids) {
        let found = grid(config, frames, Size { width, height });
        assert_eq!(found, expected, "{name}: {width}x{height}");
    }
}

#[test]
fn files_mean_what_they_mean_to_transformers() {
    let path = data_dir().join("tables/processors.json");
    let table: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let frames = table["frames"].as_u64().unwrap() as u32;
    let cases = table["cases"].as_object().unwrap();
    assert!(cases.len() > 25);
    for (name, case) in cases {
        let (found, expected) = (read(&case["files"]), &case["result"]);
        match (found, expected.get("error")) {
            (Ok(found), None) => {
                let sizes = &table["sizes"];
                assert_equals(name, &found.image, 1, &expected["image"], sizes);
                assert_equals(name, &found.video, frames, &expected["video"], sizes);
            }
            (Err(_), Some(_)) => (),
            (found, _) => panic!("{name}: {found:?}, not {expected}"),
        }
    }
}

fn released() -> Value {
    json!({
        "preprocessor_config.json": {
            "size": {"shortest_edge": 65536, "longest_edge": 16777216},
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        "video_preprocessor_config.json": {
            "size": {"shortest_edge": 4096, "longest_edge": 25165824},
        },
    })
}

/// `Qwen2VLImageProcessor` and `Qwen3VLVideoProcessor` of transformers 5.17 accept them.
#[test]
fn numbers_may_be_floats_and_lists_of_one() {
    let with = |range: [Value; 2], half: Value| {
        let [least, most] = range;
        json!({
            "preprocessor_config.json": {
                "min_pixels": least, "max_pixels": most, "image_mean": half, "image_std": half,
            },
            "video_preprocessor_config.json": {
                "size": {"shortest_edge": least, "longest_edge": most},
                "image_mean": half, "image_std": half,
            },
        })
    };
    let plain = with([json!(4096), json!(131_072)], json!([0.5, 0.5, 0.5]));
    let plain = read(&plain).unwrap();
    assert_eq!(plain.video.size.longest_edge, 131_072);
    let floats = with([json!(4096.0), json!(1.31072e5)], json!([0.5]));
    assert_eq!(read(&floats).unwrap(), plain);
    for bad in [
        json!(4096.5),
        json!(-4096.0),
        json!(0.0),
        json!(1e30),
        json!("4096"),
    ] {
        let error = read(&with([bad, json!(131_072)], json!(0.5))).unwrap_err();
        assert!(
            error.to_string().contains("not a number of pixels"),
            "{error}"
        );
    }
    let none = with([json!(4096), json!(131_072)], json!([]));
    assert!(
        read(&none)
            .unwrap_err()
            .to_string()
            .contains("three numbers")
    );
}

/// Steps of transformers that are not supported are refused, because ignoring them would silently
/// change answers.
#[test]
fn other_steps_are_refused() {
    for file in ["preprocessor_config.json", "video_preprocessor_config.json"] {
        for (field, bad) in [
            ("do_resize", json!(false)),
            ("do_rescale", json!(false)),
            ("do_normalize", json!(false)),
            ("do_normalize", json!("yes")),
            ("resample", json!(2)),
            ("rescale_factor", json!(1.0)),
            ("patch_size", json!(14)),
            ("merge_size", json!(1)),
            ("temporal_patch_size", json!(1)),
            ("image_std", json!([0.5, 0.0, 0.5])),
            ("image_std", json!(0)),
            ("image_std", json!([0.5, 1e-40, 0.5])),
            ("image_std", json!([0.5, -0.5, 0.5])),
            ("image_mean", json!([0.5, 0.5])),
            ("image_mean", json!([0.5, 1e39, 0.5])),
            ("image_mean", json!(["0.5", 0.5, 0.5])),
            ("size", json!([448, 448])),
            ("size", json!({"shortest_edge": -1, "longest_edge": 10})),
            ("size", json!({"shortest_edge": 1.5, "longest_edge": 10})),
            ("size", json!({"shortest_edge": 1e30, "longest_edge": 10})),
            ("size", json!({"shortest_edge": 20, "longest_edge": 10})),
            ("image_processor_type", json!("CLIPImageProcessor")),
            (
                "video_processor_type",
                json!("LlavaOnevisionVideoProcessor"),
            ),
        ] {
            if field == "image_processor_type" && file.starts_with("video") {
                continue;
            }
            if field == "video_processor_type" && !file.starts_with("video") {
                continue;
            }
            let mut files = released();
            files[file][field] = bad.clone();
            let error = read(&files).expect_err(field).to_string();
            assert!(
                error.starts_with(file) && error.contains(field),
                "{bad}: {error}"
            );
        }
    }
    assert!(read(&released()).is_ok());
}

#[test]
fn what_is_missing_or_no_object_is_named() {
    let error = read(&json!({})).unwrap_err().to_string();
    assert!(
        error.starts_with("preprocessor_config.json: it is missing"),
        "{error}"
    );
    let parts = json!({"processor_config.json": {"image_processor": [1]}});
    let error = read(&parts).unwrap_err().to_string();
    assert!(
        error.contains("image_processor is a list of 1 values"),
        "{error}"
    );
    let text = json!({"preprocessor_config.json": "x".repeat(10_000_000)});
    assert!(read(&text).unwrap_err().to_string().len() < 1000);
}

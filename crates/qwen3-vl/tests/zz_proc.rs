//! What is done to pixels, by every mix of files that a checkpoint may have, beside what
//! `AutoProcessor` of transformers 5.17 makes of the same files (`tools/reference/processors.py`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use qwen3_vl::config::{
    Config, ConfigError, PreprocessorConfig, ProcessorFiles, Processors, VisionConfig,
};
use qwen3_vl::frames::{Budget, Size};
use qwen3_vl::testing::data_dir;
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
    if config.image_mean.as_slice() != floats("image_mean") {
        println!("MEAN {name} {:?}", config.image_mean)
    }
    if config.image_std.as_slice() != floats("image_std") {
        println!("STD {name} {:?}", config.image_std)
    }
    let sizes: Vec<[u32; 2]> = serde_json::from_value(sizes.clone()).unwrap();
    let grids: Vec<[u32; 3]> = serde_json::from_value(table["grids"].clone()).unwrap();
    for ([height, width], expected) in sizes.into_iter().zip(grids) {
        let found = grid(config, frames, Size { width, height });
        if found != expected {
            println!("GRID {name} {width}x{height} {found:?} {expected:?}")
        }
    }
}

#[test]
fn files_mean_what_they_mean_to_transformers() {
    let path = std::path::PathBuf::from("/tmp/wb/pcases.json");
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
            (found, _) => println!("MISMATCH {name}: {found:?}, not {expected}"),
        }
    }
}

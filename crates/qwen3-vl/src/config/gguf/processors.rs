//! `preprocessor_config.json` and `video_preprocessor_config.json`.

use serde_json::{Value, json};

use super::decimal;
use crate::weights::gguf::{GgufError, Metadata};

/// Least and most pixels of the official checkpoints, of an image and of a video.
const IMAGE: [u64; 2] = [65_536, 16_777_216];
const VIDEO: [u64; 2] = [4096, 25_165_824];

/// The configurations of images and of videos.
pub(super) fn configs(file: &Metadata) -> Result<[Value; 2], GgufError> {
    let channels = |key: &str| {
        let values = file.numbers(key)?;
        let values = values.unwrap_or_else(|| vec![0.5; 3]);
        Ok(values.into_iter().map(decimal).collect::<Vec<f64>>())
    };
    let common = json!({
        "image_mean": channels("clip.vision.image_mean")?,
        "image_std": channels("clip.vision.image_std")?,
    });
    let least = file.integer("clip.vision.image_min_pixels")?;
    let most = file.integer("clip.vision.image_max_pixels")?;
    let of_image = [least.unwrap_or(IMAGE[0]), most.unwrap_or(IMAGE[1])];
    let kind = |name: &str, class: &str, [least, most]: [u64; 2]| {
        let mut config = common.clone();
        config[name] = json!(class);
        config["size"] = json!({"shortest_edge": least, "longest_edge": most});
        config
    };
    Ok([
        kind("image_processor_type", "Qwen2VLImageProcessor", of_image),
        kind("video_processor_type", "Qwen3VLVideoProcessor", VIDEO),
    ])
}

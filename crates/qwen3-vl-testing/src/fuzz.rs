//! The fuzz targets (`fuzz/`, docs/fuzzing.md). Each reads bytes as a file of a checkpoint, and
//! panics if a promise does not hold.

mod hub;
mod quantization;
mod thoughts;
mod weights;

use std::sync::LazyLock;

pub use hub::hub;
pub use quantization::quantization;
pub use thoughts::{reasoning, template};
pub use weights::weights;

use super::gguf::tiny;
use qwen3_vl::config::{Config, GenerationConfig, PixelRange, ProcessorFiles, Processors};
use qwen3_vl::tokenizer::Tokenizer;
use qwen3_vl::weights::gguf::{Gguf, GgufModel};
use qwen3_vl::weights::{Target, Weights};
use qwen3_vl_core::frames::{Budget, Size};

/// Reads `config.json`. The products of an accepted one's dimensions must not overflow.
///
/// # Panics
///
/// If a promise does not hold.
pub fn config(bytes: &[u8]) {
    match Config::from_json(bytes) {
        Ok(config) => check_config(&config),
        Err(error) => check_text(&error.to_string()),
    }
}

fn check_config(config: &Config) {
    let (text, vision) = (&config.text_config, &config.vision_config);
    let head = text.num_attention_heads.checked_mul(text.head_dim);
    let merged = vision.spatial_merge_size.checked_pow(2);
    let merged = merged.and_then(|merge| merge.checked_mul(vision.hidden_size));
    let side = vision.patch_size.checked_mul(vision.spatial_merge_size);
    for product in [head, merged, side, Some(vision.patch_len())] {
        assert!(product.is_some_and(|product| u32::try_from(product).is_ok()));
    }
    assert_eq!(text.rope.section.iter().sum::<usize>() * 2, text.head_dim);
    assert!(text.num_attention_heads % text.num_key_value_heads == 0);
    assert!((vision.hidden_size / vision.num_heads).is_multiple_of(4));
    assert_eq!(
        vision.position_side().pow(2),
        vision.num_position_embeddings
    );
    let (experts, chosen) = (text.num_experts, text.num_experts_per_tok);
    assert!(experts == 0 || (experts <= 4096 && (1..=experts).contains(&chosen)));
    for layer in [0, 1, text.num_hidden_layers - 1] {
        assert!(!text.is_sparse(layer) || experts > 0);
    }
    let taps = &vision.deepstack_visual_indexes;
    assert!(taps.iter().all(|tap| *tap < vision.depth));
    assert!(text.rope.theta > 0.0 && vision.rope_theta > 0.0);
    for id in [
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    ] {
        assert!((id as usize) < text.vocab_size);
    }
    let factor = side.map(|side| Budget::qwen_vl_utils(side as u32));
    let Some(Budget::QwenVlUtils {
        min_pixels: least,
        max_pixels: most,
        total_pixels: total,
    }) = factor
    else {
        unreachable!("the side was checked above")
    };
    assert!(0 < least && least <= most && most <= total);
}

/// Reads `generation_config.json`.
///
/// # Panics
///
/// If a promise does not hold.
pub fn generation(bytes: &[u8]) {
    match GenerationConfig::from_json(bytes) {
        Ok(config) => assert!(config.temperature.is_none_or(|t| t >= 0.0)),
        Err(error) => check_text(&error.to_string()),
    }
}

/// Reads the files of the processors. A 0 byte separates them; no bytes stand for no file.
///
/// # Panics
///
/// If a promise does not hold.
pub fn processors(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0);
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let files = ProcessorFiles {
        processor: part(),
        image: part(),
        video: part(),
    };
    let minimal = br#"{"model_type": "qwen3_vl", "vision_config": {"out_hidden_size": 4096}}"#;
    let Ok(config) = Config::from_json(minimal) else {
        unreachable!("it has what is needed")
    };
    match Processors::from_files(files, &config.vision_config) {
        Ok(read) => check_processors(read),
        Err(error) => check_text(&error.to_string()),
    }
}

fn check_processors(read: Processors) {
    for config in [read.image, read.video] {
        assert!(config.size.shortest_edge > 0);
        assert!(config.size.shortest_edge <= config.size.longest_edge);
        let channels = std::iter::zip(config.image_mean, config.image_std);
        for value in channels.map(|(mean, std)| (1.0 - mean) / std) {
            assert!(value.is_finite());
        }
        check_budgets(config.size);
    }
}

/// Frames of odd sizes get sides that are multiples of 32, or an error.
fn check_budgets(
    PixelRange {
        shortest_edge: min_pixels,
        longest_edge: max_pixels,
    }: PixelRange,
) {
    let of_video = |cap_per_frame| Budget::HfVideo {
        min_pixels,
        max_pixels,
        cap_per_frame,
    };
    let of_image = Budget::HfImage {
        min_pixels,
        max_pixels,
    };
    let sides = [1, 33, 720, u32::MAX];
    let sizes = sides.map(|width| sides.map(|height| Size { width, height }));
    for source in sizes.into_iter().flatten() {
        for budget in [of_image, of_video(false), of_video(true)] {
            for frames in [2, 768, u32::MAX] {
                match budget.size(frames, source, 32, 2) {
                    Ok(size) => {
                        assert!(size.width > 0 && size.width.is_multiple_of(32));
                        assert!(size.height > 0 && size.height.is_multiple_of(32));
                    }
                    Err(error) => check_text(&error.to_string()),
                }
            }
        }
    }
}

/// Reads `tokenizer.json`. An accepted one must encode any text, to ids that it can decode.
///
/// # Panics
///
/// If a promise does not hold.
pub fn tokenizer(bytes: &[u8]) {
    match Tokenizer::from_json(bytes) {
        Ok(tokenizer) => check_tokenizer(&tokenizer),
        Err(error) => check_text(&error.to_string()),
    }
}

fn check_tokenizer(tokenizer: &Tokenizer) {
    for text in [
        "",
        "Why is the road empty?\n",
        "é\u{301}\u{10ffff}<|im_end|>\0",
    ] {
        let ids = tokenizer.encode(text);
        let Ok(decoded) = ids.and_then(|ids| tokenizer.decode(&ids)) else {
            panic!("{text:?} cannot be encoded and decoded")
        };
        // Bytes that the vocabulary lacks are lost; no bytes are added.
        assert!(decoded.len() <= 4 * text.len() + 4, "{decoded:?}");
    }
}

/// Reads a GGUF file, as that of a language model beside a good vision tower, and the other way
/// round. What passes has a configuration, processors and a tokenizer as the other targets promise
/// them.
///
/// # Panics
///
/// If a promise does not hold.
pub fn gguf(bytes: &[u8]) {
    static GOOD: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        let files = tiny();
        [files.text.bytes(), files.vision.bytes()]
    });
    let [text, vision] = &*GOOD;
    for (text, vision) in [(bytes, vision.as_slice()), (text.as_slice(), bytes)] {
        let open = |bytes: &[u8]| Gguf::from_bytes(bytes.to_vec());
        let model = open(text).and_then(|text| {
            let model = GgufModel::new(text, Vec::new(), open(vision)?)?;
            Ok(model)
        });
        let model = match model {
            Ok(model) => model,
            Err(error) => {
                check_text(&error.to_string());
                continue;
            }
        };
        match Config::from_gguf(&model) {
            Err(error) => check_text(&error.to_string()),
            Ok(config) => {
                check_config(&config);
                match Processors::from_gguf(&model, &config.vision_config) {
                    Ok(read) => check_processors(read),
                    Err(error) => check_text(&error.to_string()),
                }
            }
        }
        match GenerationConfig::from_gguf(&model) {
            Ok(config) => assert!(config.temperature.is_none_or(|t| t >= 0.0)),
            Err(error) => check_text(&error.to_string()),
        }
        match Tokenizer::from_gguf(&model) {
            Ok(tokenizer) => check_tokenizer(&tokenizer),
            Err(error) => check_text(&error.to_string()),
        }
        if let Err(error) = Weights::gguf(&model, Target::cpu()) {
            check_text(&error.to_string());
        }
    }
}

/// An error is short and on one line.
fn check_text(text: &str) {
    assert!(
        !text.is_empty() && text.len() < 8000,
        "{} bytes",
        text.len()
    );
    assert!(!text.contains(char::is_control), "{text:?}");
}

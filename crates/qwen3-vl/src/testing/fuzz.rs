//! What is fuzzed (`fuzz/`, docs/fuzzing.md): each reads bytes as a file of a checkpoint, and
//! panics if a promise does not hold.

use crate::config::{Config, GenerationConfig, ProcessorFiles, Processors};
use crate::tokenizer::Tokenizer;

/// Reads `config.json`. What passes has dimensions that can be multiplied.
///
/// # Panics
///
/// If a promise does not hold.
pub fn config(bytes: &[u8]) {
    let config = match Config::from_json(bytes) {
        Ok(config) => config,
        Err(error) => return check_text(&error.to_string()),
    };
    let (text, vision) = (&config.text_config, &config.vision_config);
    let head = text.num_attention_heads.checked_mul(text.head_dim);
    let merged = vision.spatial_merge_size.checked_pow(2);
    let merged = merged.and_then(|merge| merge.checked_mul(vision.hidden_size));
    let side = vision.patch_size.checked_mul(vision.spatial_merge_size);
    for product in [head, merged, side, Some(vision.patch_len())] {
        assert!(product.is_some_and(|product| u32::try_from(product).is_ok()));
    }
    assert_eq!(text.rope.section.iter().sum::<usize>() * 2, text.head_dim);
    assert!(text.rope.theta > 0.0 && vision.rope_theta > 0.0);
    assert!((config.video_token_id as usize) < text.vocab_size);
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

/// Reads the files of the processors: the bytes up to each 0 are those of one of them, none if
/// there are none.
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
    let read = match Processors::from_files(files, &config.vision_config) {
        Ok(read) => read,
        Err(error) => return check_text(&error.to_string()),
    };
    for config in [read.image, read.video] {
        assert!(config.size.shortest_edge > 0);
        assert!(config.size.shortest_edge <= config.size.longest_edge);
        let channels = std::iter::zip(config.image_mean, config.image_std);
        for value in channels.map(|(mean, std)| (1.0 - mean) / std) {
            assert!(value.is_finite());
        }
    }
}

/// Reads `tokenizer.json`. What passes encodes any text, to ids that it decodes.
///
/// # Panics
///
/// If a promise does not hold.
pub fn tokenizer(bytes: &[u8]) {
    let tokenizer = match Tokenizer::from_json(bytes) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return check_text(&error.to_string()),
    };
    for text in [
        "",
        "Why is the road empty?\n",
        "é\u{301}\u{10ffff}<|im_end|>\0",
    ] {
        let ids = tokenizer.encode(text);
        let Ok(decoded) = ids.and_then(|ids| tokenizer.decode(&ids)) else {
            panic!("{text:?} cannot be encoded and decoded")
        };
        // Bytes that the vocabulary lacks are lost, none are made.
        assert!(decoded.len() <= 4 * text.len() + 4, "{decoded:?}");
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

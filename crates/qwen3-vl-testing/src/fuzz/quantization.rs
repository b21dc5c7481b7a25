//! How weights were quantised.

use qwen3_vl::config::Config;
use qwen3_vl::config::quantization::{Groups, Quantization};
use serde_json::{Value, json};

use super::check_text;

/// Most kinds of groups or blocks: the rule, and as many exceptions.
const KINDS: usize = 65;

/// Reads bytes as `quantize_config.json` and as `quantization_config` of `config.json`, which say
/// the same.
///
/// # Panics
///
/// If a promise does not hold.
pub fn quantization(bytes: &[u8]) {
    let older = Quantization::from_quantize_config(bytes);
    match &older {
        Ok(found) => check_quantization(found),
        Err(error) => check_text(&error.to_string()),
    }
    let Ok(settings) = serde_json::from_slice::<Value>(bytes) else {
        assert!(older.is_err());
        return;
    };
    let names_method = !settings["quant_method"].is_null();
    let config = json!({
        "model_type": "qwen3_vl",
        "vision_config": {"out_hidden_size": 4096},
        "quantization_config": settings,
    });
    match Config::from_json(config.to_string().as_bytes()) {
        Ok(config) if names_method => assert_eq!(config.quantization, older.ok()),
        Ok(_) => (),
        Err(error) => check_text(&error.to_string()),
    }
}

fn check_quantization(found: &Quantization) {
    check_text(&found.to_string());
    match found {
        Quantization::Fp8 { blocks } => {
            assert!(blocks.len() <= KINDS);
            for size in blocks.iter().flat_map(|(rows, columns)| [rows, columns]) {
                assert!((1..1 << 31).contains(size));
            }
        }
        Quantization::Awq(groups) => check_groups(&[*groups]),
        Quantization::Gptq {
            zero_offset,
            groups,
        } => {
            assert!(*zero_offset <= 1);
            check_groups(groups);
        }
        Quantization::CompressedTensors { groups } => check_groups(groups),
    }
}

fn check_groups(groups: &[Groups]) {
    assert!((1..=KINDS).contains(&groups.len()));
    for group in groups {
        assert!(group.size.is_none_or(|size| (1..1 << 31).contains(&size)));
        for columns in [1, 128, 1 << 24] {
            assert!((1..=columns).contains(&group.in_row(columns)));
        }
    }
}

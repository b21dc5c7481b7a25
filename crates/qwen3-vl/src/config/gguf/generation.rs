//! `generation_config.json`.

use serde_json::{Value, json};

use super::{decimal, position, tokens};
use crate::weights::gguf::{GgufError, Metadata};

/// Keys of sampling, by the names of Hugging Face.
const SAMPLING: [(&str, &str); 5] = [
    ("temperature", "general.sampling.temp"),
    ("top_p", "general.sampling.top_p"),
    ("top_k", "general.sampling.top_k"),
    ("min_p", "general.sampling.min_p"),
    ("repetition_penalty", "general.sampling.penalty_repeat"),
];

/// Where the prompt of a Thinking model ends in its template, as that is written.
const THINKING: &str = r"<|im_start|>assistant\n<think>";

pub(super) fn config(file: &Metadata) -> Result<Value, GgufError> {
    let template = file.text("tokenizer.chat_template")?;
    // What the official checkpoints say: files have no keys of this but from newer converters.
    let mut config = match template.is_some_and(|template| template.contains(THINKING)) {
        false => json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20}),
        true => json!({"do_sample": true, "temperature": 1.0, "top_p": 0.95, "top_k": 20}),
    };
    for (name, key) in SAMPLING {
        if let Some(number) = file.number(key)? {
            let number = decimal(number);
            config[name] = match name {
                "top_k" if number.fract() == 0.0 => json!(number as i64),
                _ => json!(number),
            };
        }
    }
    let tokens = tokens(file)?;
    let end_of_turn = file.integer("tokenizer.ggml.eos_token_id")?;
    let end_of_text = position(&tokens, "<|endoftext|>").map(|id| id as u64);
    let mut stop: Vec<u64> = end_of_turn.into_iter().chain(end_of_text).collect();
    stop.dedup();
    config["eos_token_id"] = json!(stop);
    Ok(config)
}

//! Which checkpoints think, and their prompts, compared with transformers
//! (`tools/reference/thinking.py`).

use std::fs;

use qwen3_vl::tokenizer::Tokenizer;
use qwen3_vl_core::prompt::{Piece, PromptBuilder, PromptLayout};
use qwen3_vl_core::reasoning::Opening;
use qwen3_vl_core::request::SamplingParams;
use qwen3_vl_testing::{data_dir, tokenizer_dir};
use serde_json::{Value, json};

use crate::support::demo;

fn reference() -> Value {
    serde_json::from_slice(&fs::read(data_dir().join("thinking.json")).unwrap()).unwrap()
}

fn qwen_file(name: &str) -> Vec<u8> {
    fs::read(tokenizer_dir().unwrap().join(name)).unwrap()
}

#[test]
fn a_template_tells_whether_the_model_thinks() {
    let json = qwen_file("tokenizer.json");
    let thinks = |template: &str| {
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        tokenizer.with_template(template).unwrap().thinks()
    };
    let reference = reference();
    let templates = reference["templates"].as_array().unwrap();
    for case in templates {
        let found = thinks(case["template"].as_str().unwrap());
        assert_eq!(found, case["opens"].as_bool().unwrap(), "{}", case["name"]);
    }
    assert!(templates.len() > 10);
    // Qwen3's own, whose models write `<think>` themselves.
    let config: Value = serde_json::from_slice(&qwen_file("tokenizer_config.json")).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    assert!(template.contains("<think>") && !thinks(template));
}

#[test]
fn the_prompt_of_a_thinking_model_has_the_ids_of_its_template() {
    let tokenizer = Tokenizer::from_json(&qwen_file("tokenizer.json")).unwrap();
    assert_eq!(
        (tokenizer.think(), tokenizer.end_think()),
        (Some(151_667), Some(151_668))
    );
    let reference = reference();
    let cases = reference["prompts"].as_array().unwrap();
    for case in cases {
        let system = case["system"].as_str();
        let mut builder = PromptBuilder::new(PromptLayout::Canonical, system);
        builder.video_patch(0.25);
        builder.finish(case["prompt"].as_str().unwrap(), Opening::Thought);
        let ids = builder.take().into_iter().flat_map(|piece| match piece {
            Piece::Text(text) => tokenizer.encode(&text).unwrap(),
            Piece::Special(special) => vec![tokenizer.special(special)],
            Piece::Think => vec![tokenizer.think().unwrap()],
            // The template's placeholder.
            Piece::Vision => vec![151_656],
        });
        assert_eq!(json!(ids.collect::<Vec<u32>>()), case["ids"], "{case}");
    }
    assert_eq!(cases.len(), 8);
}

/// Whatever its name is.
#[test]
fn a_folder_thinks_if_its_template_says_so() {
    let thinks = |folder: &std::path::Path| demo::load(folder).unwrap().model().thinks;
    assert!(!thinks(demo::demo().path()), "the demo model");
    let copy = demo::thinking();
    let backend = demo::load(copy.path()).unwrap();
    assert!(backend.model().thinks);
    // The older file goes before it.
    let template = json!({"chat_template": "{% if add_generation_prompt %}{% endif %}"});
    fs::write(copy.path().join("chat_template.json"), template.to_string()).unwrap();
    assert!(!thinks(copy.path()));
    fs::remove_file(copy.path().join("chat_template.json")).unwrap();
    fs::remove_file(copy.path().join("chat_template.jinja")).unwrap();
    assert!(!thinks(copy.path()));
    demo::edit(copy.path(), "tokenizer_config.json", |config| {
        config["chat_template"] = demo::THINKING_TEMPLATE.into();
    });
    assert!(thinks(copy.path()));
}

#[test]
fn a_thinking_model_samples_as_its_card_says() {
    let copy = demo::thinking();
    let sampling = || demo::load(copy.path()).unwrap().model().sampling;
    demo::edit(copy.path(), "generation_config.json", |config| {
        *config = json!({})
    });
    let card = SamplingParams {
        temperature: 1.0,
        top_p: 0.95,
        top_k: 20,
        presence_penalty: 0.0,
        repetition_penalty: 1.0,
    };
    assert_eq!(sampling(), card);
    demo::edit(copy.path(), "generation_config.json", |config| {
        *config = json!({"temperature": 0.6, "top_p": 0.9});
    });
    let own = SamplingParams {
        temperature: 0.6,
        top_p: 0.9,
        ..card
    };
    assert_eq!(sampling(), own);
}

#[test]
fn a_template_that_cannot_be_used_is_named() {
    let copy = demo::demo();
    fs::write(
        copy.path().join("chat_template.jinja"),
        demo::THINKING_TEMPLATE,
    )
    .unwrap();
    demo::refused(copy.path(), &["tokenizer.json", "<think>"]);
    fs::write(copy.path().join("chat_template.jinja"), b"\xff").unwrap();
    demo::refused_at_once(copy.path(), &["chat_template.jinja", "utf-8"]);
    fs::write(copy.path().join("chat_template.json"), "{}x").unwrap();
    demo::refused_at_once(copy.path(), &["chat_template.json"]);
}

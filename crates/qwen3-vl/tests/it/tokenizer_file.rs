//! `tokenizer.json` as an untrusted file.

use crate::support::demo;
use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use qwen3_vl::tokenizer::Tokenizer;
use qwen3_vl_core::prompt::PromptLayout;
use qwen3_vl_core::prompt::{Piece, PromptBuilder};
use qwen3_vl_testing::tokenizer_dir;
use serde_json::{Value, json};

fn demo_file() -> Value {
    demo::json(demo::demo().path(), "tokenizer.json")
}

fn read(file: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(file.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, String> {
    let mut file = demo_file();
    change(&mut file);
    read(&file)
}

fn refused(change: impl FnOnce(&mut Value), words: &[&str]) {
    let start = Instant::now();
    let error = changed(change).expect_err("it was read");
    assert!(error.starts_with("tokenizer.json"), "{error}");
    assert!(
        error.len() < 1500 && !error.contains(char::is_control),
        "{error:?}"
    );
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

const TEXT: &str = "Two vehicles are\n moving  left. Ünïcödé 世界 e\u{301} 1234 it's\t<|im_end|>";

/// Padding and truncation are ignored: the engine lays out prompts itself.
#[test]
fn padding_and_truncation_are_off() {
    let plain = read(&demo_file()).unwrap();
    let padded = changed(|file| {
        file["padding"] = json!({
            "strategy": {"Fixed": 200_000_000}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
        });
        file["truncation"] = json!({
            "max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
        });
    });
    let padded = padded.unwrap();
    assert_eq!(padded.encode(TEXT).unwrap(), plain.encode(TEXT).unwrap());
    // They need not even be valid.
    assert!(changed(|file| file["padding"] = json!([[[]]])).is_ok());
}

#[test]
fn both_spellings_of_merges_are_the_same() {
    let strings = changed(|file| {
        for merge in file["model"]["merges"].as_array_mut().unwrap() {
            let pair: [String; 2] = serde_json::from_value(merge.take()).unwrap();
            *merge = json!(pair.join(" "));
        }
    });
    let (strings, lists) = (strings.unwrap(), read(&demo_file()).unwrap());
    let ids = lists.encode(TEXT).unwrap();
    assert_eq!(strings.encode(TEXT).unwrap(), ids);
    // NFC composes the e and its accent to one character.
    assert_eq!(lists.decode(&ids).unwrap(), TEXT.replace("e\u{301}", "é"));
}

#[test]
fn parts_that_qwen_s_tokenizers_do_not_have_are_refused_by_name() {
    let replace = json!({"type": "Replace", "pattern": {"String": ""}, "content": "xxxxxxxx"});
    let chain = json!({"type": "Sequence", "normalizers": vec![replace.clone(); 40]});
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    for (name, part) in [
        ("Replace", replace),
        ("Sequence", chain),
        ("Precompiled", precompiled),
        ("Lowercase", json!({"type": "Lowercase"})),
        ("NFKC", json!({"type": "NFKC"})),
        ("NFC", json!("NFC")),
    ] {
        refused(|file| file["normalizer"] = part, &["normalizer", name]);
    }
    for (name, part) in [
        ("Whitespace", json!({"type": "Whitespace"})),
        ("null", Value::Null),
        (
            "ByteLevel",
            json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}),
        ),
        ("Sequence", json!({"type": "Sequence", "pretokenizers": []})),
    ] {
        refused(
            |file| file["pre_tokenizer"] = part,
            &["pre_tokenizer", name],
        );
    }
    for (field, value) in [
        ("pattern", json!({"Regex": "(a+)+$"})),
        ("pattern", json!({"Regex": "(((.{1000}){1000}){1000})"})),
        ("pattern", json!({"String": " "})),
    ] {
        refused(
            |file| file["pre_tokenizer"]["pretokenizers"][0][field] = value,
            &["pattern of the Split"],
        );
    }
    for (step, field, value) in [
        (0, "invert", json!(true)),
        (0, "behavior", json!("Removed")),
        (0, "type", json!("Punctuation")),
        (1, "add_prefix_space", json!(true)),
        (1, "use_regex", json!(true)),
        (1, "type", json!("Metaspace")),
    ] {
        refused(
            |file| file["pre_tokenizer"]["pretokenizers"][step][field] = value,
            &["pre_tokenizer", "is not Qwen's"],
        );
    }
    for name in ["WordPiece", "Metaspace", "Fuse", "Replace"] {
        refused(
            |file| file["decoder"] = json!({"type": name}),
            &["decoder", name],
        );
    }
    refused(|file| file["decoder"] = Value::Null, &["decoder"]);
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    });
    refused(
        |file| file["post_processor"] = template,
        &["post_processor", "TemplateProcessing"],
    );
    for name in ["BertProcessing", "RobertaProcessing", "Sequence"] {
        refused(
            |file| file["post_processor"] = json!({"type": name}),
            &["post_processor", name],
        );
    }
    for name in ["WordPiece", "WordLevel", "Unigram"] {
        refused(|file| file["model"]["type"] = json!(name), &["model", name]);
    }
    for (field, value) in [
        ("dropout", json!(0.1)),
        ("unk_token", json!("<unk>")),
        ("continuing_subword_prefix", json!("##########")),
        ("end_of_word_suffix", json!("</w>")),
        ("fuse_unk", json!(true)),
        ("byte_fallback", json!(true)),
        ("ignore_merges", json!(true)),
    ] {
        refused(|file| file["model"][field] = value, &["model", field]);
    }
}

#[test]
fn vocabularies_that_do_not_hold_together_are_refused() {
    refused(
        |file| file["model"]["vocab"]["x y"] = json!(u64::MAX),
        &["the id of token"],
    );
    refused(
        |file| file["model"]["vocab"]["x y"] = json!(4_000_000_000u32),
        &["the id of token"],
    );
    refused(
        |file| file["model"]["vocab"]["x y"] = json!(1 << 20),
        &["the id of token"],
    );
    refused(
        |file| file["model"]["vocab"]["x y"] = json!(-1),
        &["the id of token"],
    );
    refused(
        |file| file["model"]["vocab"]["x y"] = json!(3),
        &["two tokens have the id 3"],
    );
    refused(|file| file["model"]["vocab"] = json!({}), &["merge"]);
    refused(
        |file| file["model"] = json!({"vocab": {}, "merges": []}),
        &["tokenizer.json"],
    );
    refused(
        |file| file["model"]["vocab"] = json!(["a", "b"]),
        &["vocabulary"],
    );
    for merge in [
        json!("no-space"),
        json!(["a"]),
        json!(["a", "b", "c"]),
        json!([1, 2]),
        json!(null),
        json!("not there"),
        json!(["a", "~unknown~"]),
        json!(["", ""]),
    ] {
        refused(|file| file["model"]["merges"][0] = merge, &["merge"]);
    }
    refused(|file| file["model"]["merges"] = json!("a b"), &["merges"]);
    let token = |id: Value, content: Value| {
        move |file: &mut Value| {
            let tokens = file["added_tokens"].as_array_mut().unwrap();
            tokens.push(json!({"id": id, "content": content, "special": true}));
        }
    };
    refused(
        token(json!(u32::MAX), json!("<|x|>")),
        &["added token", "<|x|>", "4294967295"],
    );
    refused(
        token(json!(1u64 << 40), json!("<|x|>")),
        &["added token", "<|x|>"],
    );
    refused(
        token(json!(-5), json!("<|x|>")),
        &["added token", "<|x|>", "-5"],
    );
    refused(
        token(json!(600), json!("<|x|>")),
        &["600", "<|x|>", "does not follow"],
    );
    refused(
        token(json!(3), json!("<|x|>")),
        &["<|x|>", "is not its own"],
    );
    refused(
        token(json!(504), json!("<|x|>")),
        &["<|x|>", "is not its own"],
    );
    refused(
        token(json!(512), json!("<|im_end|>")),
        &["<|im_end|>", "is not its own"],
    );
    refused(token(json!(512), json!("")), &["added token"]);
    refused(token(json!(512), json!(7)), &["added token"]);
    refused(
        token(json!(512), json!("x\n".repeat(1_000_000))).with_id(600),
        &["added token"],
    );
    refused(|file| file["added_tokens"] = json!({}), &["added_tokens"]);
    refused(|file| file["added_tokens"] = json!([]), &["<|im_start|>"]);
    let many: Vec<Value> = (0..20_000)
        .map(|i| json!({"id": 512 + i, "content": format!("<{i}>"), "special": false}))
        .collect();
    refused(
        |file| file["added_tokens"] = json!(many),
        &["20000 added tokens"],
    );
}

trait WithId {
    fn with_id(self, id: u32) -> impl FnOnce(&mut Value);
}

impl<F: FnOnce(&mut Value)> WithId for F {
    /// Also changes the id of the last added token.
    fn with_id(self, id: u32) -> impl FnOnce(&mut Value) {
        move |file: &mut Value| {
            self(file);
            let tokens = file["added_tokens"].as_array_mut().unwrap();
            tokens.last_mut().unwrap()["id"] = json!(id);
        }
    }
}

#[test]
fn ids_beyond_the_embedding_table_are_an_error_at_load() {
    let larger = demo::with("tokenizer.json", |file| {
        let tokens = file["added_tokens"].as_array_mut().unwrap();
        tokens.push(json!({"id": 512, "content": "<|extra|>", "special": false}));
    });
    demo::refused(larger.path(), &["<|extra|>", "512", "vocab_size = 512"]);
    let stop = |id: Value| {
        demo::with("generation_config.json", |config| {
            config["eos_token_id"] = id
        })
    };
    for id in [json!(512), json!([506, 512]), json!(u32::MAX)] {
        demo::refused_at_once(stop(id).path(), &["generation_config.json", "eos_token_id"]);
    }
    let other = demo::with("config.json", |config| {
        config["video_token_id"] = json!(510);
        config["image_token_id"] = json!(511);
    });
    demo::refused(
        other.path(),
        &["<|image_pad|>", "510", "image_token_id", "511"],
    );
}

/// Encoding text yields no added token, special or not, wherever it stands.
fn assert_text_stays_text(tokenizer: &Tokenizer, added: &[(String, u32)]) {
    let mut texts: Vec<String> = added.iter().map(|(token, _)| token.clone()).collect();
    texts.extend(
        added
            .iter()
            .map(|(token, _)| format!("Why {token}? {token}{token}\n{token} ")),
    );
    for text in &texts {
        let ids = tokenizer.encode(text).unwrap();
        assert!(!added.iter().any(|(_, id)| ids.contains(id)), "{text}");
        assert_eq!(&tokenizer.decode(&ids).unwrap(), text);
        for (system, prompt) in [(text.as_str(), "Why?"), ("Be brief.", text)] {
            let mut builder = PromptBuilder::new(PromptLayout::Nested, Some(system));
            builder.video_patch(0.5);
            builder.finish(prompt);
            let encoded: String = builder
                .take()
                .into_iter()
                .filter_map(|piece| match piece {
                    Piece::Text(text) => Some(tokenizer.encode(&text).unwrap()),
                    Piece::Special(_) | Piece::Vision => None,
                })
                .inspect(|ids| assert!(!added.iter().any(|(_, id)| ids.contains(id)), "{text}"))
                .map(|ids| tokenizer.decode(&ids).unwrap())
                .collect();
            assert!(encoded.contains(text.as_str()), "{encoded}");
        }
    }
    // Split by the control token that the layout puts between.
    for (token, id) in added {
        for (at, _) in token.char_indices().skip(1) {
            let (system, prompt) = token.split_at(at);
            for text in [system, prompt] {
                assert!(!tokenizer.encode(text).unwrap().contains(id));
            }
        }
    }
}

fn added(file: &Value) -> Vec<(String, u32)> {
    let tokens = file["added_tokens"].as_array().unwrap().iter();
    tokens
        .map(|token| {
            let content = token["content"].as_str().unwrap().to_owned();
            (content, token["id"].as_u64().unwrap() as u32)
        })
        .collect()
}

/// Added tokens of Qwen3-VL's tokenizer that the demo's does not have.
const NOT_SPECIAL: [&str; 12] = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
];

#[test]
fn added_tokens_in_text_are_text() {
    let mut file = demo_file();
    let tokens = file["added_tokens"].as_array_mut().unwrap();
    for (token, id) in NOT_SPECIAL.into_iter().zip(512..) {
        tokens.push(json!({"id": id, "content": token, "special": false}));
    }
    let tokenizer = read(&file).unwrap();
    let added = added(&file);
    assert_eq!(added.len(), 20);
    assert_text_stays_text(&tokenizer, &added);
    // In an answer, added tokens that are not special are text; special ones are left out.
    let ids: Vec<u32> = added.iter().map(|(_, id)| *id).collect();
    assert_eq!(tokenizer.decode(&ids).unwrap(), NOT_SPECIAL.concat());
}

#[test]
fn added_tokens_in_text_are_text_to_qwen_s_tokenizer() {
    let path = tokenizer_dir().unwrap().join("tokenizer.json");
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let tokenizer = read(&file).unwrap();
    let added = added(&file);
    for token in NOT_SPECIAL {
        assert!(added.iter().any(|(content, _)| content == token), "{token}");
    }
    assert_text_stays_text(&tokenizer, &added);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any value in place of any part gives an error or a working tokenizer.
    #[test]
    fn odd_parts_never_panic(part in 0..9usize, value in odd()) {
        let mut file = demo_file();
        match part {
            0 => file["normalizer"] = value,
            1 => file["pre_tokenizer"] = value,
            2 => file["decoder"] = value,
            3 => file["post_processor"] = value,
            4 => file["model"] = value,
            5 => file["model"]["vocab"] = value,
            6 => file["model"]["merges"][3] = value,
            7 => file["added_tokens"][2] = value,
            _ => file["model"]["vocab"]["Ġthe"] = value,
        }
        if let Ok(tokenizer) = read(&file) {
            let ids = tokenizer.encode(TEXT).unwrap();
            tokenizer.decode(&ids).unwrap();
        }
    }
}

fn odd() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("NFC")),
        Just(json!("ByteLevel")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("type".to_owned()),
            Just("content".to_owned()),
            ".{0,4}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

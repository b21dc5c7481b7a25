//! Text to ids by the tokenizer in the metadata, and by Hugging Face's from the file it was made
//! of.

use std::fs;

use proptest::prelude::*;
use qwen3_vl::tokenizer::Tokenizer;
use qwen3_vl_testing::gguf::{Converted, Value, set_tokenizer, texts};
use qwen3_vl_testing::tokenizer_dir;

use super::{assert_words, demo, open};

/// Qwen's `tokenizer.json`, and files with it in their metadata, for a table of 151,936 rows.
fn official() -> (Vec<u8>, Converted) {
    let json = fs::read(tokenizer_dir().unwrap().join("tokenizer.json")).unwrap();
    let mut files = demo();
    set_tokenizer(&mut files.text, &json, 151_936).unwrap();
    (json, files)
}

fn read(files: &Converted) -> Result<Tokenizer, String> {
    Tokenizer::from_gguf(&open(files)?).map_err(|e| e.to_string())
}

/// Texts that show each rule of splitting, merging and normalising.
const TEXTS: [&str; 30] = [
    "",
    " ",
    "Describe this video.",
    "<12.3 seconds>",
    "  leading and trailing  ",
    "tabs\tand\r\nlines\n\n\n end\n",
    "It's we'll THEY'RE I'd 'S 'Ll",
    "1234567890 3.14159 1,000,000",
    "世界こんにちは안녕하세요",
    "Ünïcödé ÄÖÜ ß ẞ",
    // One character and two, which NFC makes one of.
    "é e\u{301} A\u{30a} \u{212b} \u{1e9b}\u{323}",
    "\u{ac00} \u{1100}\u{1161} \u{0958}",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u{1f468}\u{1f3fd}",
    "مرحبا שלום नमस्ते ไทย",
    "\u{202e}rtl\u{202c} \u{200b}zero\u{feff}",
    "\u{a0}nbsp\u{2003}em\u{3000}ideographic",
    "\0\u{1}\u{7f}\u{85}",
    "a\u{0}b",
    "🙂🙂🙂🙂🙂",
    "fn main() { println!(\"{}\", x[0] << 2); }",
    "https://example.com/a?b=c&d=%20#e",
    "C:\\path\\file.txt ~/x ../y",
    "…—–‘’“”«»¿¡",
    "!!!!!!!! ???? ........ --------",
    "<|im_start|>user\nHi<|im_end|>",
    "<think>\n</think> <tool_call> <|fim_prefix|>",
    "<|video_pad|><|vision_start|>",
    "\u{10ffff}\u{e000}\u{fffd}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x²+y³=z⁴ ½ ⅓ Ⅷ ①",
];

#[test]
fn ids_are_those_of_qwen_s_tokenizer() {
    let (json, files) = official();
    let found = read(&files).unwrap();
    let own = Tokenizer::from_json(&json).unwrap();
    // Hugging Face's, with nothing of ours between. It takes added tokens out of text, ours does
    // not.
    let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    let added = |text: &str| text.contains("<|") || text.contains("<think>");
    for text in TEXTS {
        let ids = found.encode(text).unwrap();
        assert_eq!(ids, own.encode(text).unwrap(), "{text:?}");
        if !added(text) {
            let encoding = reference.encode(text, false).unwrap();
            assert_eq!(ids, encoding.get_ids(), "{text:?}");
        }
    }
    // All ids, alone and with their neighbours, become the same text.
    for id in 0..151_669 {
        let ids = [id];
        assert_eq!(
            found.decode(&ids).unwrap(),
            own.decode(&ids).unwrap(),
            "{id}"
        );
        assert_eq!(
            own.decode(&ids).unwrap(),
            reference.decode(&ids, true).unwrap(),
            "{id}"
        );
    }
    assert_eq!(found.default_stop_tokens(), own.default_stop_tokens());
    assert_eq!(found.default_stop_tokens(), [151_645, 151_643]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_has_the_ids_of_the_file(text in "\\PC{0,40}|[a-zA-Z' \\n]{0,60}") {
        use std::sync::LazyLock;
        static BOTH: LazyLock<(Tokenizer, tokenizers::Tokenizer)> = LazyLock::new(|| {
            let (json, files) = official();
            let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            (read(&files).unwrap(), reference)
        });
        let (found, reference) = &*BOTH;
        prop_assume!(!text.contains('<'));
        let encoding = reference.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(found.encode(&text).unwrap(), encoding.get_ids());
    }
}

#[test]
fn tokenizers_that_are_not_qwen_s_are_refused() {
    let refused = |words: &[&str], change: &dyn Fn(&mut Converted)| {
        let mut files = demo();
        change(&mut files);
        let error = read(&files).expect_err(&format!("passed in spite of {words:?}"));
        assert_words(&error, words);
    };
    for (key, other) in [
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.pre", "gpt-2"),
    ] {
        refused(&[key, other], &|files| files.text.set(key, other));
        refused(&[key, "missing"], &|files| files.text.remove(key));
    }
    for key in [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type",
    ] {
        refused(&[key], &|files| files.text.remove(key));
        refused(&[key], &|files| files.text.set(key, Value::U32(1)));
    }
    refused(&["of 2 tokens, of 512"], &|files| {
        let kinds = Value::Array(5, vec![Value::I32(1); 2]);
        files.text.set("tokenizer.ggml.token_type", kinds);
    });
    refused(&["of type 6"], &|files| {
        let kinds = Value::Array(5, vec![Value::I32(6); 512]);
        files.text.set("tokenizer.ggml.token_type", kinds);
    });
    refused(&["\"x\" twice"], &|files| {
        files.text.set("tokenizer.ggml.tokens", texts(["x"; 512]));
    });
    refused(&["merge", "pair"], &|files| {
        files.text.set("tokenizer.ggml.merges", texts(["ab"]));
    });
    refused(&["<|im_start|>"], &|files| {
        let kinds = Value::Array(5, vec![Value::I32(1); 512]);
        files.text.set("tokenizer.ggml.token_type", kinds);
        let tokens = (0..512).map(|id| format!("t{id}"));
        files.text.set("tokenizer.ggml.tokens", texts(tokens));
        files.text.set("tokenizer.ggml.merges", texts([""; 0]));
    });
}

//! Chat templates, and the thoughts of models that think.

use std::sync::LazyLock;

use qwen3_vl::config::{ChatTemplateFiles, chat_template};
use qwen3_vl::tokenizer::Tokenizer;
use qwen3_vl::weights::gguf::{Gguf, GgufModel};
use qwen3_vl_core::reasoning::{Opening, Phase, ReasoningParser};

use super::{check_text, tiny};

/// Reads the files that may have a chat template: `processor_config.json`, `chat_template.json`,
/// `chat_template.jinja` and `tokenizer_config.json`. A 0 byte separates them; no bytes stand for no
/// file.
///
/// # Panics
///
/// If a promise does not hold.
pub fn template(bytes: &[u8]) {
    static GOOD: LazyLock<Option<GgufModel>> = LazyLock::new(|| {
        let files = tiny();
        let open = |bytes| Gguf::from_bytes(bytes).ok();
        let (text, vision) = (open(files.text.bytes())?, open(files.vision.bytes())?);
        GgufModel::new(text, Vec::new(), vision).ok()
    });
    let mut parts = bytes.split(|byte| *byte == 0);
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let files = ChatTemplateFiles {
        processor: part(),
        legacy: part(),
        jinja: part(),
        tokenizer: part(),
    };
    let template = match chat_template(files) {
        Ok(template) => template.unwrap_or_default(),
        Err(error) => return check_text(&error.to_string()),
    };
    let tokenizer = GOOD.as_ref().map(Tokenizer::from_gguf);
    let Some(Ok(tokenizer)) = tokenizer else {
        unreachable!("the tiny model has a tokenizer")
    };
    match tokenizer.with_template(&template) {
        Ok(tokenizer) => assert!(!tokenizer.thinks() || template.contains("<think>")),
        Err(error) => check_text(&error.to_string()),
    }
}

/// Splits a text that comes in pieces, which a 0 byte separates, into thought and answer: as if it
/// came at once, and nothing is added. The first byte says how it begins.
///
/// # Panics
///
/// If a promise does not hold.
pub fn reasoning(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let opening = match first % 3 {
        0 => Opening::Answer,
        1 => Opening::Either,
        _ => Opening::Thought,
    };
    let text = String::from_utf8_lossy(rest);
    let pieces: Vec<&str> = text.split('\0').collect();
    let whole = pieces.concat();
    let split = said(opening, &pieces);
    assert_eq!(split, said(opening, &[&whole]));
    let (thought, answer) = split;
    assert!(thought.len() + answer.len() <= whole.len());
    assert!(whole.contains(&thought) && whole.ends_with(&answer));
    if opening == Opening::Answer {
        assert_eq!(answer, whole);
    }
}

/// Thought and answer of a text in pieces.
fn said(opening: Opening, pieces: &[&str]) -> (String, String) {
    let order = |phase| match phase {
        Phase::Undecided => 0,
        Phase::Thought => 1,
        Phase::Answer => 2,
    };
    let mut parser = ReasoningParser::new(opening);
    let (mut thought, mut answer) = (String::new(), String::new());
    for piece in pieces {
        let before = order(parser.phase());
        let split = parser.push(piece);
        assert!(before <= order(parser.phase()), "a phase comes again");
        thought += &split.reasoning;
        answer += &split.answer;
    }
    let last = parser.finish();
    (thought + &last.reasoning, answer + &last.answer)
}

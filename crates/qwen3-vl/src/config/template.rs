//! Finds the checkpoint's chat template.

use serde_json::Value;

use super::{ConfigError, object};
use crate::quote::value;

/// The contents of those files with a chat template that a checkpoint has.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChatTemplateFiles<'a> {
    /// `processor_config.json`.
    pub processor: Option<&'a [u8]>,
    /// `chat_template.json`, the older form.
    pub legacy: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub jinja: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer: Option<&'a [u8]>,
}

const JINJA: &str = "chat_template.jinja";
const FIELD: &str = "chat_template";

/// The chat template, if there is one, from the first file that has one, in the order of
/// transformers' `ProcessorMixin.get_processor_dict`. The tokenizer's comes last, as in vLLM.
///
/// # Errors
///
/// [`ConfigError`] names the file that cannot be read.
pub fn chat_template(files: ChatTemplateFiles<'_>) -> Result<Option<String>, ConfigError> {
    let field = |name, json: Option<&[u8]>| match json {
        Some(json) => of_field(name, json),
        None => Ok(None),
    };
    if let Some(template) = field("processor_config.json", files.processor)? {
        return Ok(Some(template));
    }
    if let Some(template) = field("chat_template.json", files.legacy)? {
        return Ok(Some(template));
    }
    if let Some(template) = files.jinja {
        return match std::str::from_utf8(template) {
            Ok(template) => Ok(Some(template.into())),
            Err(error) => unusable(JINJA, error.to_string()),
        };
    }
    field("tokenizer_config.json", files.tokenizer)
}

/// The field `chat_template`: a template, or a list of templates of which one is the default.
fn of_field(file: &'static str, json: &[u8]) -> Result<Option<String>, ConfigError> {
    let mut fields = object(file, json)?;
    let text = |field: &Value| field.as_str().map(str::to_owned);
    match fields.remove(FIELD) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template)),
        Some(Value::Array(all)) => {
            let is_default = |one: &&Value| one["name"] == "default";
            let default = all.iter().find(is_default);
            Ok(default.and_then(|one| text(&one["template"])))
        }
        Some(other) => unusable(file, format!("{FIELD} is {}, not a string", value(&other))),
    }
}

fn unusable<T>(file: &'static str, reason: String) -> Result<T, ConfigError> {
    Err(ConfigError::Unsupported { file, reason })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_their_order() {
        let mut files = ChatTemplateFiles {
            processor: Some(br#"{"chat_template": "processor"}"#),
            legacy: Some(br#"{"chat_template": "legacy"}"#),
            jinja: Some(b"jinja"),
            tokenizer: Some(br#"{"chat_template": "tokenizer"}"#),
        };
        let found = |files| chat_template(files).unwrap();
        assert_eq!(found(files).as_deref(), Some("processor"));
        files.processor = Some(br#"{"chat_template": null, "image_processor": {}}"#);
        assert_eq!(found(files).as_deref(), Some("legacy"));
        files.legacy = None;
        assert_eq!(found(files).as_deref(), Some("jinja"));
        files.jinja = None;
        assert_eq!(found(files).as_deref(), Some("tokenizer"));
        files.tokenizer = Some(
            br#"{"chat_template": [{"name": "tool_use", "template": "a"},
                                   {"name": "default", "template": "b"}]}"#,
        );
        assert_eq!(found(files).as_deref(), Some("b"));
        files.tokenizer = Some(br#"{"chat_template": [1, {"name": "other"}]}"#);
        assert_eq!(found(files), None);
        assert_eq!(found(ChatTemplateFiles::default()), None);
    }

    #[test]
    fn what_is_no_template_is_named() {
        let error = |files| chat_template(files).unwrap_err().to_string();
        let json = error(ChatTemplateFiles {
            legacy: Some(br#"{"chat_template": 7}"#),
            ..ChatTemplateFiles::default()
        });
        assert_eq!(json, "chat_template.json: chat_template is 7, not a string");
        let jinja = error(ChatTemplateFiles {
            jinja: Some(b"\xff"),
            ..ChatTemplateFiles::default()
        });
        assert!(
            jinja.starts_with("chat_template.jinja: invalid utf-8"),
            "{jinja}"
        );
        let broken = error(ChatTemplateFiles {
            tokenizer: Some(b"{"),
            ..ChatTemplateFiles::default()
        });
        assert!(broken.starts_with("tokenizer_config.json: "), "{broken}");
    }
}

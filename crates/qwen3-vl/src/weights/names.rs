//! Names of tensors in files that were not saved from the whole model.

use std::borrow::Cow;

/// The tensor's name in the whole model.
///
/// Like transformers (`rename_source_key`), adds `model.` to a name or removes it where that gives
/// a name of the model: files of the model without its head lack the prefix, and some have it
/// twice.
pub(super) fn whole(name: &str) -> Cow<'_, str> {
    let in_model = |name: &str| {
        ["language_model.", "visual."]
            .iter()
            .any(|part| name.starts_with(part))
    };
    if in_model(name) {
        return format!("model.{name}").into();
    }
    match name.strip_prefix("model.") {
        Some("lm_head.weight") => "lm_head.weight".into(),
        Some(rest) if rest.strip_prefix("model.").is_some_and(in_model) => rest.into(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_is_added_or_taken_away() {
        for (name, expected) in [
            (
                "model.language_model.norm.weight",
                "model.language_model.norm.weight",
            ),
            (
                "language_model.norm.weight",
                "model.language_model.norm.weight",
            ),
            (
                "model.model.language_model.norm.weight",
                "model.language_model.norm.weight",
            ),
            ("visual.merger.norm.bias", "model.visual.merger.norm.bias"),
            (
                "model.model.visual.merger.norm.bias",
                "model.visual.merger.norm.bias",
            ),
            ("lm_head.weight", "lm_head.weight"),
            ("model.lm_head.weight", "lm_head.weight"),
            // At most one prefix is removed.
            ("model.model.model.visual.x", "model.model.model.visual.x"),
            ("model.model.lm_head.weight", "model.model.lm_head.weight"),
            ("score.weight", "score.weight"),
        ] {
            assert_eq!(whole(name), expected, "{name}");
        }
    }
}

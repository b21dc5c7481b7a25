//! The demo model, which needs no download: a small Qwen3-VL that knows synthetic traffic.

use qwen3_vl::load::ModelSource;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../models/demo/", $name)))),*]
    };
}

static FILES: &[(&str, &[u8])] = files![
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
];

/// The files of the model, which are inside the plugin.
pub(crate) fn source() -> ModelSource {
    ModelSource::Embedded {
        name: crate::engines::DEMO.into(),
        files: FILES,
    }
}

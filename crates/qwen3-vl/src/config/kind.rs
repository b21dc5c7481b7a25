//! Recognises the model of a `config.json`.

use serde_json::{Map, Value};

use super::{ConfigError, ensure, unsupported};
use crate::quote::{quoted, value};

/// The two architectures, whose defaults differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dense,
    Experts,
}

/// Names of models that are easily confused with Qwen3-VL.
const OTHERS: [(&str, &str); 12] = [
    ("qwen2_vl", "Qwen2-VL"),
    ("qwen2_5_vl", "Qwen2.5-VL"),
    ("qwen2_5_omni", "Qwen2.5-Omni"),
    ("qwen3", "Qwen3, which sees nothing"),
    ("qwen3_moe", "Qwen3, which sees nothing"),
    ("qwen3_omni_moe", "Qwen3-Omni"),
    ("qwen3_5", "Qwen3.5"),
    ("qwen3_5_moe", "Qwen3.5"),
    ("qwen3_5_text", "Qwen3.5, the language model alone"),
    ("qwen3_vl_text", "the language model of a Qwen3-VL alone"),
    ("llava", "LLaVA"),
    ("internvl", "InternVL"),
];

/// Checks the model's type before other fields: "missing field" would not tell that it is another
/// model.
pub(super) fn of(file: &Map<String, Value>) -> Result<Kind, ConfigError> {
    const SUPPORTED: &str = "only Qwen3-VL is supported (model_type qwen3_vl), for instance \
                             Qwen/Qwen3-VL-2B-Instruct";
    let kind = match file.get("model_type") {
        Some(Value::String(name)) if name == "qwen3_vl" => Kind::Dense,
        Some(Value::String(name)) if name == "qwen3_vl_moe" => Kind::Experts,
        Some(Value::String(name)) => {
            let known = OTHERS.iter().find(|(other, _)| other == name);
            let known = known.map_or(String::new(), |(_, title)| format!(" ({title})"));
            return unsupported(format!(
                "model_type is {}{known}: {SUPPORTED}",
                quoted(name)
            ));
        }
        Some(Value::Null) | None => {
            return unsupported(format!("there is no model_type: {SUPPORTED}"));
        }
        Some(other) => {
            return unsupported(format!("model_type is {}: {SUPPORTED}", value(other)));
        }
    };
    let nested = file.get("text_config").and_then(Value::as_object);
    for part in [Some(file), nested].into_iter().flatten() {
        for name in ["quantization_config", "compression_config"] {
            let quantised = part.get(name).filter(|value| !value.is_null());
            ensure(quantised.is_none(), || quantised_by(name, quantised))?;
        }
    }
    Ok(kind)
}

/// The error for a checkpoint with quantized weights.
fn quantised_by(name: &str, settings: Option<&Value>) -> String {
    let method = settings.and_then(|settings| settings.get("quant_method"));
    let method = method.map_or("an unnamed method".into(), value);
    format!(
        "the weights are quantised ({name}: quant_method {method}), which is not known: known are \
         weights in F64, F32, BF16 and F16. Use \
         the checkpoint that is not, and the property quantization, which rounds weights while \
         they are loaded"
    )
}

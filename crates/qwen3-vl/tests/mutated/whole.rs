//! Changes of a folder as a whole.

use std::fs;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::cases::Cases;
use crate::folder::Entry;
use crate::json;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4144840\n";

/// What may be in the place of each file.
pub fn files(cases: &mut Cases, outside: &Path) {
    let names: Vec<String> = cases.base().names().map(str::to_owned).collect();
    for name in &names {
        let name = name.as_str();
        let good = cases.base().file(name).to_vec();
        cases.put(format!("{name} of no bytes"), name, Vec::new());
        cases.put(format!("{name} as a pointer"), name, POINTER.into());
        cases.put(
            format!("{name} in half"),
            name,
            good[..good.len() / 2].into(),
        );
        cases.add(format!("no {name}"), |folder| drop(folder.remove(name)));
        cases.add(format!("{name} as a folder"), |folder| {
            folder.set(name, Entry::Folder);
        });
        let copy = outside.join(name);
        fs::write(&copy, good).unwrap();
        for to in [
            copy.as_path(),
            Path::new("/dev/zero"),
            Path::new("../nothing"),
            Path::new("."),
            outside,
        ] {
            cases.add(format!("{name} as a link to {}", to.display()), |folder| {
                folder.set(name, Entry::Link(to.into()));
            });
        }
    }
}

/// Pickles, and settings beside the configuration.
pub fn others(cases: &mut Cases) {
    for name in ["pytorch_model.bin", "consolidated.00.pth", "model.onnx"] {
        cases.add(format!("{name} alone"), |folder| {
            for weights in folder.ending(".safetensors") {
                folder.remove(&weights);
            }
            folder.put(name, "\u{80}\u{2}ctorch\nload");
        });
    }
    let settings = "quantize_config.json";
    for text in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"bits": 4}"#,
        r#"{"bits": 18446744073709551615, "group_size": 0}"#,
        r#"{"bits": 4, "group_size": 1, "quant_method": "aqlm"}"#,
        r#"{"bits": 4, "group_size": 2147483647}"#,
    ] {
        cases.put(format!("{settings} {text:?}"), settings, text.into());
    }
}

/// Indices of a folder with one file of weights, and with that file in two.
pub fn indices(cases: &mut Cases) {
    let map = |file: &str| json!({"weight_map": {"x": file}}).to_string();
    let long = map(&"x".repeat(1 << 20));
    let many: serde_json::Map<String, Value> = (0..100_000)
        .map(|number| (format!("{number}"), json!(SINGLE)))
        .collect();
    for index in [
        map("../x"),
        map("../model.safetensors"),
        map("/etc/passwd"),
        map("a/b.safetensors"),
        map(".."),
        map(""),
        map("gone.safetensors"),
        map("config.json"),
        map("tokenizer.json"),
        map("a\0b"),
        long,
        json!({"weight_map": {}}).to_string(),
        json!({"weight_map": {"x": 7}}).to_string(),
        json!({"weight_map": null}).to_string(),
        json!({"weight_map": many}).to_string(),
        "[".repeat(1 << 20),
        String::new(),
    ] {
        let what = format!("an index: {}", index.chars().take(60).collect::<String>());
        cases.add(what, |folder| {
            let weights = folder.remove(SINGLE);
            folder.put("model-00001-of-00001.safetensors", weights);
            folder.put(INDEX, index);
        });
    }
    cases.add("the weights twice", |folder| {
        let weights = folder.remove(SINGLE);
        let places = json!({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}});
        folder.put("a.safetensors", weights.clone());
        folder.put("b.safetensors", weights);
        folder.put(INDEX, places.to_string());
    });
}

/// Every JSON file, some values of each.
pub fn settings(cases: &mut Cases, rng: &mut StdRng, count: usize) {
    for name in cases.base().ending(".json") {
        json::change(cases, rng, &name, count);
    }
    let config = cases.base().file("config.json");
    let config: Value = serde_json::from_slice(config).unwrap();
    // The fields on which shapes depend, one after the other.
    for part in ["text_config", "vision_config", "quantization_config"] {
        let fields = config[part].as_object().into_iter().flatten();
        for (field, value) in fields.filter(|(_, value)| value.is_u64()) {
            let number = value.as_u64().unwrap();
            let others = [
                0,
                1,
                number + 1,
                2 * number,
                1 << 20,
                (1 << 24) - 1,
                1 << 40,
            ];
            let other = others[rng.random_range(0..others.len())];
            let mut changed = config.clone();
            changed[part][field] = json!(other);
            let what = format!("config.json: {part}.{field} is {other}");
            cases.put(what, "config.json", changed.to_string().into());
        }
    }
}

//! Changes of JSON files.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::cases::Cases;

/// Values that no field should have.
pub fn odd(rng: &mut StdRng) -> Value {
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(7.5),
        json!(1 << 24),
        json!(u32::MAX),
        json!(1u64 << 53),
        json!(1u64 << 63),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(1e-308),
        json!(-0.0),
        json!("NaN"),
        json!(""),
        json!("\u{0}\u{202e}\n"),
        json!("x".repeat(10_000)),
        json!([]),
        json!([[[0]]]),
        json!([u64::MAX, -1]),
        json!({}),
        json!({"a": {"a": {}}}),
    ];
    all.choose(rng).unwrap().clone()
}

/// Replaces some values of a file, one in each case.
pub fn change(cases: &mut Cases, rng: &mut StdRng, file: &str, count: usize) {
    let good: Value = serde_json::from_slice(cases.base().file(file)).unwrap();
    let mut leaves = Vec::new();
    paths(&good, String::new(), &mut leaves);
    for number in 0..count {
        let path = leaves.choose(rng).unwrap();
        let mut changed = good.clone();
        let place = changed.pointer_mut(path).unwrap();
        let text = match number % 8 {
            // What other programs write as numbers.
            7 => {
                *place = json!("HERE");
                let number = ["NaN", "Infinity", "-Infinity", "1e999"]
                    .choose(rng)
                    .unwrap();
                changed.to_string().replace("\"HERE\"", number)
            }
            // A number that is a little off.
            3 | 5 if place.is_u64() => {
                let number = place.as_u64().unwrap();
                let off = [number.wrapping_add(1), number / 2, number * 2, number * 16];
                *place = json!(*off.choose(rng).unwrap());
                changed.to_string()
            }
            _ => {
                *place = odd(rng);
                changed.to_string()
            }
        };
        let value = text.len();
        cases.put(
            format!("{file} with another {path} ({value} bytes)"),
            file,
            text.into(),
        );
    }
}

/// JSON pointers of all values.
fn paths(value: &Value, at: String, out: &mut Vec<String>) {
    let step = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(all) => all
            .iter()
            .for_each(|(key, value)| paths(value, step(key), out)),
        // Long lists are all of a kind: vocabularies.
        Value::Array(all) => {
            let first = all.iter().enumerate().take(4);
            first.for_each(|(index, value)| paths(value, step(&index.to_string()), out));
        }
        _ => (),
    }
    out.push(at);
}

/// Keys of a file, of all depths.
pub fn keys(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                out.push(key.clone());
                keys(value, out);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| keys(value, out)),
        _ => (),
    }
}

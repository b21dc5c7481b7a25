//! Changes of safetensors files.

use half::{bf16, f16};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::cases::Cases;
use crate::json::odd;

/// A file: its header, and what follows.
#[derive(Clone)]
pub struct Tensors {
    pub header: Map<String, Value>,
    pub data: Vec<u8>,
}

impl Tensors {
    pub fn read(bytes: &[u8]) -> Self {
        let end = header_end(bytes);
        Self {
            header: serde_json::from_slice(&bytes[8..end]).unwrap(),
            data: bytes[end..].into(),
        }
    }

    pub fn names(&self) -> Vec<String> {
        let names = self.header.keys().filter(|name| *name != "__metadata__");
        names.cloned().collect()
    }

    fn bytes(&self) -> Vec<u8> {
        joined(&Value::Object(self.header.clone()).to_string(), &self.data)
    }

    /// Where a tensor is.
    fn place(&self, name: &str) -> std::ops::Range<usize> {
        let offset = |end: usize| self.header[name]["data_offsets"][end].as_u64().unwrap() as usize;
        offset(0)..offset(1)
    }

    /// Takes a tensor out, and moves up what follows.
    fn remove(&mut self, name: &str) {
        let place = self.place(name);
        self.header.remove(name);
        self.data.drain(place.clone());
        for entry in self.header.values_mut() {
            for offset in entry["data_offsets"].as_array_mut().into_iter().flatten() {
                let at = offset.as_u64().unwrap() as usize;
                if at >= place.end {
                    *offset = json!(at - place.len());
                }
            }
        }
    }
}

/// Where the header of a file ends.
pub fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// All changes of one file.
pub fn change(cases: &mut Cases, rng: &mut StdRng, file: &str) {
    let good = Tensors::read(cases.base().file(file));
    headers(cases, file, &good);
    entries(cases, rng, file, &good);
    values(cases, rng, file, &good);
}

/// Changes of the header as a whole.
fn headers(cases: &mut Cases, file: &str, good: &Tensors) {
    let whole = cases.base().file(file).to_vec();
    for length in [0, 1, 100_000_001, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        cases.put(
            format!("{file} with a header of {length} bytes"),
            file,
            bytes,
        );
    }
    let text = Value::Object(good.header.clone()).to_string();
    let name = good.names().swap_remove(0);
    let twice = format!("{{\"{name}\":{},{}", good.header[&name], &text[1..]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (what, header) in [
        ("a tensor twice", twice),
        ("no tensors", "{}".into()),
        ("a list", "[]".into()),
        ("nothing", String::new()),
        ("lists in lists", format!("{{\"a\":{deep}}}")),
        (
            "a megabyte of spaces",
            format!("{text}{}", " ".repeat(1 << 20)),
        ),
        ("a byte too many", format!("{text}}}")),
    ] {
        let what = format!("{file} whose header has {what}");
        cases.put(what, file, joined(&header, &good.data));
    }
}

/// Changes of what the header says of a tensor.
fn entries(cases: &mut Cases, rng: &mut StdRng, file: &str, good: &Tensors) {
    const TYPES: [&str; 14] = [
        "F64", "F32", "F16", "BF16", "I64", "I32", "U32", "U8", "F8_E4M3", "F8_E5M2", "F4", "BOOL",
        "NF4", "",
    ];
    let names = good.names();
    let mut add =
        |rng: &mut StdRng, what: &str, change: &dyn Fn(&mut Tensors, &mut StdRng, &str)| {
            let name = names.choose(rng).unwrap();
            let mut changed = good.clone();
            change(&mut changed, rng, name);
            cases.put(format!("{file}: {name} {what}"), file, changed.bytes());
        };
    for _ in 0..2 {
        add(rng, "of another type", &|all, rng, name| {
            all.header[name]["dtype"] = json!(TYPES.choose(rng).unwrap());
        });
        add(rng, "with another axis", &|all, rng, name| {
            let shape = all.header[name]["shape"].as_array_mut().unwrap();
            let at = rng.random_range(0..shape.len());
            shape[at] = odd(rng);
        });
        add(rng, "with another entry", &|all, rng, name| {
            let field = ["dtype", "shape", "data_offsets"].choose(rng).unwrap();
            all.header[name][field] = odd(rng);
        });
        add(rng, "that is missing", &|all, _, name| all.remove(name));
        add(rng, "with another name", &|all, rng, name| {
            let entry = all.header.remove(name).unwrap();
            let other = [
                "x",
                "",
                "model.language_model.layers.0.x.weight",
                "lm_head.weight",
            ];
            all.header
                .insert((*other.choose(rng).unwrap()).into(), entry);
        });
    }
    for axes in [
        json!([]),
        json!([1, 1, 1, 1, 1, 1, 1, 1]),
        json!([0]),
        json!([u64::MAX, 2]),
    ] {
        add(rng, &format!("of shape {axes}"), &|all, _, name| {
            all.header[name]["shape"] = axes.clone();
        });
    }
    add(rng, "turned", &|all, _, name| {
        all.header[name]["shape"].as_array_mut().unwrap().reverse();
    });
    add(rng, "with an axis more", &|all, _, name| {
        all.header[name]["shape"]
            .as_array_mut()
            .unwrap()
            .push(json!(1));
    });
    let other = names.last().unwrap();
    add(rng, "where another is", &|all, _, name| {
        all.header[name]["data_offsets"] = all.header[other]["data_offsets"].clone();
    });
    type Move = fn(&mut u64);
    let moves: [(&str, Move); 3] = [
        ("8 bytes before its place", |at| *at = at.saturating_sub(8)),
        ("8 bytes behind its place", |at| *at += 8),
        ("far behind the end", |at| *at += 1 << 62),
    ];
    for (what, offset) in moves {
        add(rng, what, &|all, _, name| {
            for value in all.header[name]["data_offsets"].as_array_mut().unwrap() {
                let mut at = value.as_u64().unwrap();
                offset(&mut at);
                *value = json!(at);
            }
        });
    }
    add(rng, "that ends before it begins", &|all, _, name| {
        all.header[name]["data_offsets"]
            .as_array_mut()
            .unwrap()
            .reverse();
    });
}

/// Changes of values, most of all of scales and of indices, which must fit.
fn values(cases: &mut Cases, rng: &mut StdRng, file: &str, good: &Tensors) {
    let names = good.names();
    let named = |parts: &[&str]| -> Vec<String> {
        let has = |name: &&String| parts.iter().any(|part| name.contains(part));
        names.iter().filter(has).cloned().collect()
    };
    let mut floats = named(&["scale"]);
    floats.extend(named(&["norm.weight"]));
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -1.0, 3e38] {
        for whole in [false, true] {
            let Some(name) = floats.choose(rng) else {
                continue;
            };
            let bytes = match good.header[name]["dtype"].as_str().unwrap() {
                "F16" => f16::from_f32(value).to_le_bytes().to_vec(),
                "BF16" => bf16::from_f32(value).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            };
            let mut changed = good.clone();
            let place = changed.data.get_mut(good.place(name)).unwrap();
            let end = if whole { place.len() } else { bytes.len() };
            for out in place[..end].chunks_exact_mut(bytes.len()) {
                out.copy_from_slice(&bytes);
            }
            let what = if whole { "all" } else { "one" };
            cases.put(
                format!("{file}: {name} with {what} {value}"),
                file,
                changed.bytes(),
            );
        }
    }
    for (part, words) in [
        ("g_idx", [-1, 2, i32::MAX, i32::MIN, 1 << 20]),
        ("qzeros", [-1, 0, i32::MAX, i32::MIN, 1]),
        ("zero_point", [-1, 0, i32::MAX, i32::MIN, 1]),
        ("weight_shape", [-1, 0, i32::MAX, i32::MIN, 1]),
    ] {
        let found = named(&[part]);
        for word in words {
            let Some(name) = found.choose(rng) else {
                continue;
            };
            let mut changed = good.clone();
            let at = good.place(name).start;
            changed.data[at..at + 4].copy_from_slice(&word.to_le_bytes());
            cases.put(format!("{file}: {name} with {word}"), file, changed.bytes());
        }
    }
    let mut changed = good.clone();
    rng.fill(&mut changed.data[..]);
    cases.put(format!("{file} of random values"), file, changed.bytes());
    changed.data.fill(0);
    cases.put(format!("{file} of zeros"), file, changed.bytes());
}

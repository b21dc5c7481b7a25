//! Changes of GGUF files.

use qwen3_vl_testing::gguf::{GgufFile, Value, texts};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::bytes;
use crate::cases::Cases;

/// Values that no key should have.
fn odd(rng: &mut StdRng) -> Value {
    let number = Value::U32(1);
    let all = [
        Value::U8(0),
        Value::Bool(true),
        Value::U32(0),
        Value::U32(1),
        Value::U32(3),
        Value::U32(u32::MAX),
        Value::I32(-1),
        Value::I16(i16::MIN),
        Value::U64(1 << 24),
        Value::U64(1 << 63),
        Value::I64(i64::MIN),
        Value::F32(f32::NAN),
        Value::F32(f32::INFINITY),
        Value::F64(1e-308),
        Value::Text(String::new()),
        Value::Text("\u{0}\u{202e}\n".into()),
        Value::Text("x".repeat(10_000)),
        Value::Array(8, Vec::new()),
        texts(["a", "a", ""]),
        Value::Array(4, vec![number.clone(); 1000]),
        Value::Array(
            9,
            vec![Value::Array(9, vec![Value::Array(4, vec![number])])],
        ),
        Value::Array(7, vec![Value::Bool(true); 3]),
    ];
    all.choose(rng).unwrap().clone()
}

/// Lists in lists.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Array(4, Vec::new()), |inner, _| {
        Value::Array(9, vec![inner])
    })
}

/// All changes of one file, whose parts are known.
pub fn change(cases: &mut Cases, rng: &mut StdRng, name: &str, file: &GgufFile) {
    let good = file.bytes();
    let data: usize = file.tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let header = good.len().saturating_sub(data).clamp(64, good.len() - 1);
    bytes::change(cases, rng, name, header);
    numbers(cases, name, &good);
    keys(cases, rng, name, file);
    tensors(cases, rng, name, file);
}

/// Numbers at the start of the file: version, counts, and the length of the first key.
fn numbers(cases: &mut Cases, name: &str, good: &[u8]) {
    for (what, at) in [("tensors", 8), ("keys", 16), ("bytes of the first key", 24)] {
        for number in [0, 1, 1000, 1 << 24, 1 << 32, 1 << 60, 1 << 63, u64::MAX] {
            let mut bytes = good.to_vec();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            cases.put(format!("{name} with {number} {what}"), name, bytes);
        }
    }
    for version in [0, 1, 2, 4, 3u32.swap_bytes(), u32::MAX] {
        let mut bytes = good.to_vec();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        cases.put(format!("{name} of version {version}"), name, bytes);
    }
}

fn keys(cases: &mut Cases, rng: &mut StdRng, name: &str, file: &GgufFile) {
    for (number, (key, _)) in file.keys.iter().enumerate() {
        let mut changed = file.clone();
        changed.keys[number].1 = odd(rng);
        cases.put(format!("{name} with another {key}"), name, changed.bytes());
        if rng.random_bool(0.3) {
            let mut changed = file.clone();
            changed.remove(key);
            cases.put(format!("{name} without {key}"), name, changed.bytes());
        }
    }
    for alignment in [0, 1, 3, 8, 1 << 31, u64::MAX] {
        let mut changed = file.clone();
        changed.set("general.alignment", Value::U64(alignment));
        cases.put(
            format!("{name} with alignment {alignment}"),
            name,
            changed.bytes(),
        );
    }
    for depth in [1, 100, 1000] {
        let mut changed = file.clone();
        changed.set("nested", nested(depth));
        cases.put(
            format!("{name} with {depth} lists in lists"),
            name,
            changed.bytes(),
        );
    }
    let mut changed = file.clone();
    changed.keys.push(changed.keys[0].clone());
    cases.put(format!("{name} with a key twice"), name, changed.bytes());
}

fn tensors(cases: &mut Cases, rng: &mut StdRng, name: &str, file: &GgufFile) {
    let mut add = |rng: &mut StdRng, what: &str, change: &dyn Fn(&mut GgufFile, usize)| {
        let at = rng.random_range(0..file.tensors.len());
        let mut changed = file.clone();
        change(&mut changed, at);
        let tensor = &file.tensors[at].name;
        cases.put(format!("{name}: {tensor} {what}"), name, changed.bytes());
    };
    for kind in [0, 1, 2, 4, 5, 8, 12, 16, 19, 24, 30, 39, u32::MAX] {
        add(rng, &format!("of type {kind}"), &|file, at| {
            file.tensors[at].kind = kind
        });
    }
    for offset in [0, 1, 32, 1 << 20, 1 << 40, 1 << 63, u64::MAX - 31] {
        add(rng, &format!("at {offset}"), &|file, at| {
            file.tensors[at].offset = Some(offset);
        });
    }
    for shape in [
        vec![],
        vec![0],
        vec![1; 4],
        vec![1; 5],
        vec![1 << 40, 1 << 40],
        vec![usize::MAX],
        vec![256],
    ] {
        add(rng, &format!("of shape {shape:?}"), &|file, at| {
            file.tensors[at].shape = shape.clone();
        });
    }
    for _ in 0..2 {
        add(rng, "turned", &|file, at| file.tensors[at].shape.reverse());
        add(rng, "that is missing", &|file, at| {
            drop(file.tensors.remove(at))
        });
        add(rng, "twice", &|file, at| {
            file.tensors.push(file.tensors[at].clone())
        });
        add(rng, "with another name", &|file, at| {
            file.tensors[at].name = "x".into()
        });
        add(rng, "with a long name", &|file, at| {
            file.tensors[at].name = "x".repeat(100)
        });
        add(rng, "where the first is", &|file, at| {
            file.tensors[at].offset = Some(0)
        });
        // Scales are among the first and the last two bytes of a block.
        for halves in [[0xff, 0x7f], [0x00, 0x7c], [0, 0]] {
            add(
                rng,
                &format!("that begins with {halves:x?}"),
                &|file, at| {
                    file.tensors[at].bytes[..2].copy_from_slice(&halves);
                },
            );
            add(rng, &format!("that ends with {halves:x?}"), &|file, at| {
                let end = file.tensors[at].bytes.len();
                file.tensors[at].bytes[end - 2..].copy_from_slice(&halves);
            });
            add(rng, &format!("of nothing but {halves:x?}"), &|file, at| {
                for pair in file.tensors[at].bytes.chunks_exact_mut(2) {
                    pair.copy_from_slice(&halves);
                }
            });
        }
    }
}

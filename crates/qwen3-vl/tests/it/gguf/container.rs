//! The container: what the format's description says, and files that do not keep to it.

use proptest::prelude::*;
use qwen3_vl::weights::WeightsError;
use qwen3_vl::weights::gguf::Gguf;
use qwen3_vl_testing::gguf::{GgufFile, TensorData, Value, texts};

use super::{assert_words, read};

/// A file with a value of every kind and tensors of several types.
fn sample() -> GgufFile {
    let mut file = GgufFile::default();
    for (key, value) in [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(2_000_000_000)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(0.7)),
        ("f64", Value::F64(-1e300)),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
        ("text", "a täxt <|im_end|>".into()),
        ("empty", "".into()),
        ("texts", texts(["", "b c", "世界"])),
        ("no texts", texts([""; 0])),
        ("numbers", Value::Array(6, vec![Value::F32(0.5); 3])),
        (
            "integers",
            Value::Array(5, vec![Value::I32(24), Value::I32(0)]),
        ),
        (
            "negative",
            Value::Array(11, vec![Value::I64(3), Value::I64(-1)]),
        ),
        (
            "flags",
            Value::Array(7, vec![Value::Bool(false), Value::Bool(true)]),
        ),
        (
            "nested",
            Value::Array(9, vec![texts(["a"]), Value::Array(0, vec![Value::U8(1)])]),
        ),
        ("last", Value::U16(7)),
    ] {
        file.set(key, value);
    }
    file.tensors = vec![
        tensor("a", &[2, 3], 0, 24),
        tensor("b.weight", &[1], 0, 4),
        tensor("c", &[4, 2, 64], 8, 8 * 2 * 34),
        tensor("d", &[3, 256], 12, 3 * 144),
        tensor("e", &[5, 1, 2, 7], 30, 140),
    ];
    file
}

fn tensor(name: &str, shape: &[usize], kind: u32, bytes: usize) -> TensorData {
    TensorData {
        name: name.into(),
        shape: shape.into(),
        kind,
        bytes: vec![0; bytes],
        offset: None,
    }
}

#[test]
fn every_kind_of_value_is_read() {
    for (version, alignment) in [(3, 32), (2, 32), (3, 64), (3, 8), (3, 1)] {
        let mut written = sample();
        (written.version, written.alignment) = (version, alignment);
        if alignment != 32 {
            written.set("general.alignment", Value::U32(alignment as u32));
        }
        let file = read(&written).unwrap();
        let m = file.metadata();
        for (key, integer) in [
            ("u8", 200),
            ("u16", 60_000),
            ("i16", 30_000),
            ("u32", 4_000_000_000),
            ("i32", 2_000_000_000),
            ("u64", u64::MAX),
            ("last", 7),
        ] {
            assert_eq!(m.integer(key).unwrap(), Some(integer), "{key}");
            assert_eq!(m.number(key).unwrap(), Some(integer as f64), "{key}");
        }
        assert_eq!(m.number("i8").unwrap(), Some(-100.0));
        assert_eq!(m.number("i64").unwrap(), Some(i64::MIN as f64));
        assert_eq!(m.number("f32").unwrap(), Some(f64::from(0.7f32)));
        assert_eq!(m.number("f64").unwrap(), Some(-1e300));
        assert_eq!(m.flag("yes").unwrap(), Some(true));
        assert_eq!(m.flag("no").unwrap(), Some(false));
        assert_eq!(m.text("text").unwrap(), Some("a täxt <|im_end|>"));
        assert_eq!(m.text("empty").unwrap(), Some(""));
        assert_eq!(m.texts("texts").unwrap().unwrap(), ["", "b c", "世界"]);
        assert_eq!(m.texts("no texts").unwrap().unwrap(), [""; 0]);
        assert_eq!(m.numbers("numbers").unwrap().unwrap(), [0.5; 3]);
        assert_eq!(m.integers("integers").unwrap().unwrap(), [24, 0]);
        assert_eq!(m.numbers("negative").unwrap().unwrap(), [3.0, -1.0]);
        assert_eq!(m.flags("flags").unwrap().unwrap(), [false, true]);
        assert_eq!(m.text("absent").unwrap(), None);
        for tensor in &written.tensors {
            let found = file.tensor(&tensor.name).unwrap();
            assert_eq!(found.shape, tensor.shape, "{}", tensor.name);
        }
        assert!(file.tensor("f").is_none());
    }
}

#[test]
fn values_of_another_kind_are_named() {
    let file = read(&sample()).unwrap();
    let m = file.metadata();
    let errors = [
        m.integer("i8").unwrap_err(),
        m.integer("f32").unwrap_err(),
        m.integer("text").unwrap_err(),
        m.integer("integers").unwrap_err(),
        m.number("yes").unwrap_err(),
        m.flag("u8").unwrap_err(),
        m.text("u8").unwrap_err(),
        m.text("texts").unwrap_err(),
        m.texts("text").unwrap_err(),
        m.texts("numbers").unwrap_err(),
        m.texts("nested").unwrap_err(),
        m.integers("negative").unwrap_err(),
        m.integers("numbers").unwrap_err(),
        m.numbers("flags").unwrap_err(),
        m.flags("integers").unwrap_err(),
        m.need_integer("absent").unwrap_err(),
        m.need_number("absent").unwrap_err(),
    ];
    for error in errors {
        assert_words(&error.to_string(), &["the file: it", " key "]);
    }
}

fn refused(words: &[&str], change: impl FnOnce(&mut GgufFile)) {
    let mut file = sample();
    change(&mut file);
    let error = read(&file).expect_err(&format!("read in spite of {words:?}"));
    assert_words(&error, words);
}

#[test]
fn files_that_are_not_whole_are_refused() {
    let mut file = sample();
    // The last tensor ends at the end.
    file.alignment = 4;
    file.set("general.alignment", Value::U32(4));
    let bytes = file.bytes();
    assert!(Gguf::from_bytes(bytes.clone()).is_ok());
    for length in 0..bytes.len() {
        let error = Gguf::from_bytes(bytes[..length].to_vec());
        let error = error.expect_err(&format!("{length} bytes"));
        assert!(
            matches!(error, WeightsError::Damaged { .. }),
            "{length} bytes: {error}"
        );
        assert_words(&error.to_string(), &["damaged", "fetch it again"]);
    }
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    refused(&["version 1", "2 and 3"], |file| file.version = 1);
    refused(&["version 4", "2 and 3"], |file| file.version = 4);
    refused(&["big-endian"], |file| file.version = 3u32.swap_bytes());
    refused(&["the key \"u8\" twice"], |file| {
        file.keys.push(("u8".into(), Value::U8(1)));
    });
    refused(&["name of a key", "0 bytes"], |file| {
        file.set("", Value::U8(1))
    });
    refused(&["name of a key", "70000 bytes"], |file| {
        file.set(&"k".repeat(70_000), Value::U8(1));
    });
    refused(&["nested too", "deep"], |file| {
        let deep = (0..9).fold(texts(["a"]), |inner, _| Value::Array(9, vec![inner]));
        file.set("nested too", deep);
    });
    refused(&["odd", "no type of values 13"], |file| {
        file.set("odd", Value::Array(13, Vec::new()));
    });
    for alignment in [0, 3, 48] {
        refused(&["general.alignment"], |file| {
            file.set("general.alignment", Value::U32(alignment));
        });
    }
    refused(&["general.alignment"], |file| {
        file.set("general.alignment", "32")
    });
}

#[test]
fn tensors_that_do_not_lie_in_the_file_are_refused() {
    let first = |change: &dyn Fn(&mut TensorData)| {
        let mut file = sample();
        change(&mut file.tensors[0]);
        read(&file).expect_err("it was read")
    };
    for (offset, words) in [
        (1, "not aligned"),
        (u64::MAX, "not aligned"),
        (u64::MAX - 31, "does not lie in the file"),
        (1 << 40, "does not lie in the file"),
        (32, "overlap"),
    ] {
        let error = first(&|tensor| tensor.offset = Some(offset));
        assert_words(&error, &["\"a\"", words]);
    }
    for shape in [
        vec![1 << 20, 1 << 20],
        vec![usize::MAX, usize::MAX],
        vec![1 << 32, 1 << 31, 2],
    ] {
        let error = first(&|tensor| tensor.shape.clone_from(&shape));
        assert_words(&error, &["\"a\"", "does not lie in the file"]);
    }
    let error = first(&|tensor| tensor.shape = vec![2, 0]);
    assert_words(&error, &["\"a\"", "axis"]);
    let error = first(&|tensor| tensor.shape = vec![1; 5]);
    assert_words(&error, &["\"a\"", "5 axes"]);
    let error = first(&|tensor| tensor.kind = 8);
    assert_words(&error, &["\"a\"", "3 values, in blocks of 32"]);
    refused(&["tensor \"a\" twice"], |file| {
        file.tensors[1].name = "a".into()
    });
    refused(&["name of a tensor", "65 bytes"], |file| {
        file.tensors[1].name = "n".repeat(65);
    });
}

/// By name, from the header alone, and what works instead.
#[test]
fn types_that_cannot_be_read_are_named() {
    for (kind, name) in [
        (16, "IQ2_XXS"),
        (23, "IQ4_XS"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
        (15, "Q8_K"),
        (26, "I32"),
        (4, "type 4"),
        (u32::MAX, "type 4294967295"),
    ] {
        let words = [name, "(2)", "Q4_K", "BF16", "Q8_0", "another quantisation"];
        refused(&words, |file| {
            file.tensors[0].kind = kind;
            file.tensors[3].kind = kind;
        });
    }
}

#[test]
fn counts_beyond_the_file_are_refused() {
    let bytes = sample().bytes();
    // Tensors, then keys.
    for place in [8, 16] {
        for count in [u64::MAX, 1 << 40, 1 << 20, 60_000] {
            let mut bytes = bytes.clone();
            bytes[place..place + 8].copy_from_slice(&count.to_le_bytes());
            let error = Gguf::from_bytes(bytes).unwrap_err().to_string();
            assert_words(&error, &["damaged", &count.to_string()]);
        }
    }
    // The length of the first key's name, and of a text.
    for needle in [&b"u8"[..], "a täxt".as_bytes()] {
        let at = bytes.windows(needle.len()).position(|part| part == needle);
        let at = at.unwrap();
        for length in [u64::MAX, 1 << 50, bytes.len() as u64] {
            let mut bytes = bytes.clone();
            bytes[at - 8..at].copy_from_slice(&length.to_le_bytes());
            let error = Gguf::from_bytes(bytes).unwrap_err().to_string();
            assert_words(&error, &["damaged"]);
        }
    }
}

#[test]
fn other_files_are_told() {
    let error = |bytes: &[u8]| Gguf::from_bytes(bytes.to_vec()).unwrap_err().to_string();
    assert_words(&error(b""), &["GGUF"]);
    assert_words(
        &error(b"<!DOCTYPE html><html>"),
        &["GGUF", "fetch it again"],
    );
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4144840\n";
    assert_words(&error(pointer), &["Git LFS pointer"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes in place of some: an error, or a file whose keys can be asked for.
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1..9usize), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample().bytes();
        for (at, new, count) in changes {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + count);
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match Gguf::from_bytes(bytes) {
            Ok(file) => {
                let m = file.metadata();
                for (key, _) in sample().keys {
                    let _ = (m.integer(&key), m.number(&key), m.flag(&key), m.text(&key));
                    let _ = (m.texts(&key), m.numbers(&key), m.integers(&key), m.flags(&key));
                }
            }
            Err(error) => assert_words(&error.to_string(), &[]),
        }
    }
}

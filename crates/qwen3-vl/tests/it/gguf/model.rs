//! Models loaded from GGUF give what the same values in safetensors do.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::GgmlDType;
use qwen3_vl::config::Config;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{LoadOptions, load, load_runner};
use qwen3_vl::model::embedding::Embedding;
use qwen3_vl::weights::{Target, Weights};
use qwen3_vl_core::event::Answer;
use qwen3_vl_testing::gguf::{Converted, convert, write_stored};
use qwen3_vl_testing::logits::last_logits;
use qwen3_vl_testing::weights::hash_fill;
use qwen3_vl_testing::{Checkpoint, write_checkpoint, write_tokenizer, write_wide};
use tempfile::TempDir;

use super::{demo, open};
use crate::support::ask::{SMALL, answer, ask, pairs, question};
use crate::support::demo;

/// A folder with both files.
fn written(files: &Converted) -> TempDir {
    let folder = TempDir::new().unwrap();
    files.write(folder.path()).unwrap();
    folder
}

fn runner(folder: &Path) -> Runner {
    let options = demo::options(folder);
    let loaded = load_runner(&options, &mut |_| (), &AtomicBool::new(false));
    loaded.unwrap().1
}

/// Logits behind two pairs of frames and a question.
fn logits(folder: &Path) -> Vec<f32> {
    let mut runner = runner(folder);
    // The pixels that a checkpoint allows are its own.
    let inputs = pairs(2, SMALL, 1);
    last_logits(&mut runner, &inputs, "Describe this video.")
        .unwrap()
        .0
}

fn tokens(folder: &Path) -> Answer {
    let backend = demo::load(folder).unwrap();
    let (_handle, rx) = ask(&*backend, pairs(2, SMALL, 1), question(0.0, 24));
    answer(&rx)
}

/// Matrices in one type, biases, norms and positions in f32, as the converter stores them.
fn matrices(dtype: GgmlDType) -> impl Fn(&str, &[usize]) -> GgmlDType {
    move |name, shape| {
        let block = dtype.block_size();
        let fits = shape.len() == 2 && shape[1].is_multiple_of(block);
        let patches = shape.len() == 5 && block == 1;
        match fits && !name.contains("pos_embed") || patches {
            true => dtype,
            false => GgmlDType::F32,
        }
    }
}

/// The demo model in these types as GGUF, and as safetensors.
fn both(choose: &dyn Fn(&str, &[usize]) -> GgmlDType) -> (TempDir, TempDir) {
    let own = demo::demo();
    let gguf = written(&convert(own.path(), choose).unwrap());
    let stored = TempDir::new().unwrap();
    write_stored(own.path(), stored.path(), choose).unwrap();
    (gguf, stored)
}

/// Not a bit is different.
#[test]
fn plain_numbers_give_the_logits_of_safetensors() {
    for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
        let (gguf, stored) = both(&matrices(dtype));
        let (found, expected) = (logits(gguf.path()), logits(stored.path()));
        assert!(found.iter().any(|logit| logit.abs() > 1.0));
        assert_eq!(found, expected, "{dtype:?}");
    }
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    let pairs = found.iter().zip(expected);
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-4, "{what}: {worst}");
    assert_eq!(found.len(), expected.len());
}

#[test]
fn blocks_give_the_logits_of_their_dequantised_values() {
    for dtype in [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
    ] {
        let (gguf, stored) = both(&matrices(dtype));
        let (found, expected) = (logits(gguf.path()), logits(stored.path()));
        assert_close(&found, &expected, &format!("{dtype:?}"));
        let (found, expected) = (tokens(gguf.path()), tokens(stored.path()));
        assert_eq!(found.text, expected.text, "{dtype:?}");
        assert!(!found.text.is_empty());
    }
}

/// Blocks of 256 in every layer and both tables, mixed as llama.cpp mixes them.
#[test]
fn blocks_of_256_give_the_logits_of_their_dequantised_values() {
    let own = TempDir::new().unwrap();
    write_wide(own.path(), |_, _, values| values).unwrap();
    write_tokenizer(own.path()).unwrap();
    let choose = |name: &str, shape: &[usize]| {
        let wide = shape.len() == 2 && shape[1].is_multiple_of(256);
        let layer = |n: usize| name.contains(&format!("language_model.layers.{n}."));
        match name {
            _ if !wide || name.contains("pos_embed") => GgmlDType::F32,
            "lm_head.weight" => GgmlDType::Q6K,
            _ if name.contains("embed_tokens") => GgmlDType::Q4K,
            _ if name.contains("v_proj") || layer(0) => GgmlDType::Q6K,
            _ if layer(1) => GgmlDType::Q5K,
            _ if layer(2) => GgmlDType::Q3K,
            _ if layer(3) && name.contains("mlp") => GgmlDType::Q2K,
            _ => GgmlDType::Q4K,
        }
    };
    let gguf = written(&convert(own.path(), &choose).unwrap());
    let stored = TempDir::new().unwrap();
    write_stored(own.path(), stored.path(), &choose).unwrap();
    drop(own);
    let expected = logits(stored.path());
    assert_close(&logits(gguf.path()), &expected, "blocks of 256");

    let runner = runner(gguf.path());
    let text = &runner.parts.model.text;
    assert!(matches!(text.embeddings(), Embedding::Blocks(_)));
    let formats: Vec<_> = text.linears().map(|linear| linear.format()).collect();
    assert!(formats.iter().all(Option::is_some));
    // 256 weights of the head take 210 bytes.
    let head = text.linears().last().unwrap();
    assert_eq!(head.bytes(), 151_936 * 210);
}

/// A tied head multiplies with the blocks that rows are looked up in.
#[test]
fn a_tied_table_is_kept_once() {
    let (gguf, _) = both(&matrices(GgmlDType::Q8_0));
    let runner = runner(gguf.path());
    let text = &runner.parts.model.text;
    let Embedding::Blocks(table) = text.embeddings() else {
        panic!("the table was widened")
    };
    let head = text.linears().last().unwrap();
    assert_eq!(head.bytes(), table.blocks().len());
    assert_eq!(std::sync::Arc::strong_count(table), 2);
}

#[test]
fn it_is_told_what_the_layers_are_stored_as() {
    let told = |choose: &dyn Fn(&str, &[usize]) -> GgmlDType| {
        let (gguf, _) = both(choose);
        let backend = demo::load(gguf.path()).unwrap();
        backend.model().quantization.clone()
    };
    assert_eq!(told(&matrices(GgmlDType::F16)), None);
    assert_eq!(told(&matrices(GgmlDType::Q8_0)).as_deref(), Some("q8_0"));
    let mixed = |name: &str, shape: &[usize]| match name.contains("v_proj") {
        true => GgmlDType::Q8_0,
        false => matrices(GgmlDType::Q4_0)(name, shape),
    };
    assert_eq!(told(&mixed).as_deref(), Some("q4_0, 4 of 29 layers q8_0"));
}

#[test]
fn a_model_in_several_files_is_one() {
    let files = demo();
    let whole = written(&files);
    let expected = logits(whole.path());
    let folder = TempDir::new().unwrap();
    for (no, part) in files.text.split(3).into_iter().enumerate() {
        let name = format!("q-{:05}-of-00003.gguf", no + 1);
        fs::write(folder.path().join(name), part.bytes()).unwrap();
    }
    let vision = folder.path().join("mmproj-F32.gguf");
    fs::write(vision, files.vision.bytes()).unwrap();
    assert_eq!(logits(folder.path()), expected);
    let first = folder.path().join("q-00001-of-00003.gguf");
    assert_eq!(logits(&first), expected);

    let later = folder.path().join("q-00002-of-00003.gguf");
    demo::refused_at_once(&later, &["a later part", "q-00001-of-00003.gguf"]);
    // Another part in the place of one, then none.
    fs::copy(&later, folder.path().join("q-00003-of-00003.gguf")).unwrap();
    demo::refused_at_once(&first, &["q-00003-of-00003.gguf", "not part 3"]);
    fs::remove_file(&later).unwrap();
    demo::refused_at_once(&first, &["q-00002-of-00003.gguf", "cannot read"]);
    fs::rename(&first, folder.path().join("q.gguf")).unwrap();
    let renamed = folder.path().join("q.gguf");
    demo::refused_at_once(&renamed, &["q.gguf", "a model of 3 files"]);
}

#[test]
fn files_are_found_by_their_names() {
    let files = demo();
    let folder = written(&files);
    let path = |name: &str| folder.path().join(name);
    demo::load(&path("model.gguf")).unwrap();
    demo::refused_at_once(&path("mmproj.gguf"), &["vision tower alone"]);
    // One of two types comes first, of the same type none does.
    fs::rename(path("mmproj.gguf"), path("mmproj-a-F16.gguf")).unwrap();
    fs::write(path("mmproj-a-Q8_0.gguf"), "broken").unwrap();
    demo::load(folder.path()).unwrap();
    fs::write(path("mmproj-b-f16.gguf"), "broken").unwrap();
    let words = ["\"mmproj-a-F16.gguf\"", "\"mmproj-b-f16.gguf\"", "mmproj"];
    demo::refused_at_once(folder.path(), &words);
    // Named: by a path, and by the name beside the model.
    let named = |vision: &Path| {
        let options = LoadOptions {
            mmproj: Some(vision.into()),
            ..demo::options(folder.path())
        };
        load(&options, &mut |_| (), &AtomicBool::new(false)).map(drop)
    };
    named(&path("mmproj-a-F16.gguf")).unwrap();
    named(Path::new("mmproj-a-F16.gguf")).unwrap();
    let error = named(Path::new("gone.gguf")).unwrap_err().to_string();
    assert!(error.contains("gone.gguf"), "{error}");
    let error = named(&path("mmproj-b-f16.gguf")).unwrap_err().to_string();
    assert!(error.contains("GGUF"), "{error}");
    for name in [
        "mmproj-a-F16.gguf",
        "mmproj-a-Q8_0.gguf",
        "mmproj-b-f16.gguf",
    ] {
        fs::remove_file(path(name)).unwrap();
    }
    demo::refused_at_once(folder.path(), &["model.gguf", "mmproj*.gguf"]);
    fs::write(path("other.gguf"), "").unwrap();
    demo::refused_at_once(
        folder.path(),
        &["several", "\"model.gguf\", \"other.gguf\""],
    );
}

#[test]
fn options_that_do_not_belong_together_are_refused() {
    let folder = written(&demo());
    let error = |options: LoadOptions| {
        let error = qwen3_vl::load::check(&options).unwrap_err().to_string();
        let never = AtomicBool::new(false);
        assert!(load(&options, &mut |_| (), &never).is_err());
        error
    };
    let rounded = error(LoadOptions {
        quantization: qwen3_vl::weights::QuantizeAtLoad::Q4K,
        ..demo::options(folder.path())
    });
    assert!(rounded.contains("quantization=q4-k"), "{rounded}");
    let checkpoint = demo::demo();
    let unused = error(LoadOptions {
        mmproj: Some("mmproj.gguf".into()),
        ..demo::options(checkpoint.path())
    });
    assert!(unused.contains("mmproj"), "{unused}");
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let refused = |words: &[&str], change: &dyn Fn(&mut Converted)| {
        let mut files = convert(demo::demo().path(), &matrices(GgmlDType::Q8_0)).unwrap();
        change(&mut files);
        demo::refused(written(&files).path(), words);
    };
    fn tensor<'a>(
        files: &'a mut Converted,
        name: &str,
    ) -> &'a mut qwen3_vl_testing::gguf::TensorData {
        let all = files
            .text
            .tensors
            .iter_mut()
            .chain(&mut files.vision.tensors);
        let mut all = all.filter(|tensor| tensor.name == name);
        all.next().unwrap()
    }
    let part = "model.language_model.layers.2.mlp.up_proj.weight";
    refused(&[part, "no finite numbers"], &|files| {
        let up = tensor(files, "blk.2.ffn_up.weight");
        up.bytes[34 * 5..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    });
    refused(&[part, "missing"], &|files| {
        tensor(files, "blk.2.ffn_up.weight").name = "blk.2.ffn_up.weights".into();
    });
    refused(&[part, "shape [128, 384]", "[384, 128]"], &|files| {
        tensor(files, "blk.2.ffn_up.weight").shape.reverse();
    });
    let more = "model.language_model.blk.2.attn_qkv.weight";
    refused(&["no place", more], &|files| {
        let mut extra = tensor(files, "blk.2.ffn_up.weight").clone();
        extra.name = "blk.2.attn_qkv.weight".into();
        files.text.tensors.push(extra);
    });
    refused(&["v.patch_embd.weight.1"], &|files| {
        tensor(files, "v.patch_embd.weight.1").name = "v.patch_embd.weight.2".into();
    });
    refused(&["embed_tokens", "no finite numbers"], &|files| {
        let table = tensor(files, "token_embd.weight");
        table.bytes[1] = 0x7c;
    });
}

/// Every expert is a matrix of its own, `[out, in]`, and the router one beside them.
#[test]
fn experts_are_matrices() {
    let folder = TempDir::new().unwrap();
    write_checkpoint(folder.path(), Checkpoint::Moe).unwrap();
    write_tokenizer(folder.path()).unwrap();
    let files = convert(folder.path(), &|_, _| GgmlDType::F32).unwrap();
    let model = open(&files).unwrap();
    let own = fs::read(folder.path().join("config.json")).unwrap();
    let own = Config::from_json(&own).unwrap();
    let mut found = Config::from_gguf(&model).unwrap();
    // The width of a dense layer's MLP, of which there is none.
    found.text_config.intermediate_size = own.text_config.intermediate_size;
    assert_eq!(format!("{found:?}"), format!("{own:?}"));

    let weights = Weights::gguf(&model, Target::cpu()).unwrap();
    let fused = hash_fill(
        "model.language_model.layers.1.mlp.experts.gate_up_proj",
        &[8, 64, 96],
        3,
    );
    let down = hash_fill(
        "model.language_model.layers.1.mlp.experts.down_proj",
        &[8, 48, 64],
        3,
    );
    for expert in 0..8 {
        let name = |part: &str| {
            format!("model.language_model.layers.1.mlp.experts.{expert}.{part}.weight")
        };
        let matrix = |part: &str, shape: [usize; 2]| -> Vec<Vec<f32>> {
            weights
                .full(&name(part), &shape)
                .unwrap()
                .to_vec2()
                .unwrap()
        };
        let [gate, up] = ["gate_proj", "up_proj"].map(|part| matrix(part, [48, 64]));
        let back = matrix("down_proj", [64, 48]);
        for out in 0..48 {
            for input in 0..64 {
                let row = &fused[(expert * 64 + input) * 96..][..96];
                assert_eq!(gate[out][input], row[out]);
                assert_eq!(up[out][input], row[48 + out]);
                assert_eq!(back[input][out], down[(expert * 48 + out) * 64 + input]);
            }
        }
    }
    assert!(!weights.contains("model.language_model.layers.1.mlp.experts.8.up_proj.weight"));
    assert!(weights.contains("model.language_model.layers.1.mlp.gate.weight"));
}

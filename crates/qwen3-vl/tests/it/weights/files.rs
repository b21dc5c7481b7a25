//! Files that are damaged, change, or are larger than the machine.

use super::*;

/// Layers are loaded only after all are known to exist.
#[test]
fn absurd_depths_cost_nothing() {
    let start = Instant::now();
    for (part, field, missing) in [
        (
            "text_config",
            "num_hidden_layers",
            "model.language_model.layers.4.",
        ),
        ("vision_config", "depth", "model.visual.blocks.4."),
    ] {
        let model = demo::with("config.json", |config| {
            config[part][field] = serde_json::json!((1 << 24) - 1);
        });
        demo::refused(model.path(), &[missing, "is missing"]);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_file_is_as_long_as_its_header_says() {
    let copy = demo::demo();
    let path = copy.path().join(WEIGHTS);
    let good = fs::read(&path).unwrap();
    for length in [0, 7, 8, 9, 1000, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        demo::refused(copy.path(), &["model.safetensors is damaged"]);
    }
    let mut long = good.clone();
    long.push(0);
    fs::write(&path, long).unwrap();
    demo::refused(copy.path(), &["is damaged", &(good.len() + 1).to_string()]);
    for header in [u64::MAX, 1 << 63, 100_000_001, good.len() as u64] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        demo::refused(copy.path(), &["is damaged", &header.to_string()]);
    }
    // A header that is too long, in a file that is longer still.
    let mut bytes = good.clone();
    bytes[..8].copy_from_slice(&100_000_001_u64.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    demo::refused(copy.path(), &["its header would have 100000001 bytes"]);
    // A header that gives terabytes, which a sparse file has.
    let header =
        br#"{"x":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,1099511627776]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    fs::write(&path, &bytes).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + (1 << 40)).unwrap();
    demo::refused(copy.path(), &["is missing"]);
}

/// This happens when a model is copied over one that is being loaded. Mapped files would end the
/// process with SIGBUS.
#[test]
fn weights_that_are_cut_off_while_they_are_loaded_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), Checkpoint::DenseUntied).unwrap();
    let path = folder.path().join(WEIGHTS);
    let length = fs::metadata(&path).unwrap().len();
    let config = fs::read(folder.path().join("config.json")).unwrap();
    let open = || Weights::open(folder.path(), Target::cpu()).unwrap();

    // Between the header and the tensors.
    let mut weights = open();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / 2).unwrap();
    let config = Config::from_json(&config).unwrap();
    let error = Model::load(config.clone(), &mut weights, Target::cpu().device).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("is damaged") && error.contains("cut off"),
        "{error}"
    );

    // Repeatedly, while tensors are read. The content is lost, but zeros are valid numbers.
    let stop = Arc::new(AtomicBool::new(false));
    let cutter = thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                file.set_len(length / 4).unwrap();
                file.set_len(length).unwrap();
            }
            file.set_len(length).unwrap();
        }
    });
    for _ in 0..5 {
        // The header is in the first quarter.
        if let Ok(mut weights) = Weights::open(folder.path(), Target::cpu()) {
            match Model::load(config.clone(), &mut weights, Target::cpu().device) {
                Ok(_) => (),
                Err(error) => assert!(error.to_string().contains("is damaged"), "{error}"),
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    cutter.join().unwrap();
}

/// A sparse file of terabytes may fit its configuration.
#[test]
fn what_no_memory_holds_is_an_error() {
    let (hidden, heads) = (1usize << 15, 1usize << 17);
    let copy = demo::with("config.json", |config| {
        config["text_config"]["hidden_size"] = hidden.into();
        config["text_config"]["num_attention_heads"] = heads.into();
        config["vision_config"]["out_hidden_size"] = hidden.into();
    });
    let large = "model.language_model.layers.0.self_attn.q_proj.weight";
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, (_, mut shape, _)) in tensors(copy.path()) {
        match name.as_str() {
            _ if name.ends_with("q_proj.weight") => shape = vec![heads * 32, hidden],
            _ if name.ends_with("o_proj.weight") => shape = vec![hidden, heads * 32],
            // Those of the language model and the last ones of the vision tower's mergers.
            _ if name.contains("visual") && !name.contains("linear_fc2") => (),
            _ if name.contains("visual.blocks") => (),
            _ => shape
                .iter_mut()
                .filter(|axis| **axis == 128)
                .for_each(|axis| *axis = hidden),
        }
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header.as_bytes());
    fs::write(copy.path().join(WEIGHTS), &start).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(copy.path().join(WEIGHTS))
        .unwrap();
    file.set_len((start.len() + end) as u64).unwrap();
    for quantization in [
        QuantizeAtLoad::None,
        QuantizeAtLoad::Q8_0,
        QuantizeAtLoad::Q4K,
    ] {
        let loaded = load_with(copy.path(), DtypeChoice::Auto, quantization);
        let error = loaded.unwrap_err().to_string();
        for word in ["does not fit", "GiB for its weights", "more memory"] {
            assert!(error.contains(word), "{error}");
        }
        // Neither is it allocated without that check.
        let target = Target {
            quantize_at_load: quantization,
            ..Target::cpu()
        };
        let config = fs::read(copy.path().join("config.json")).unwrap();
        let config = Config::from_json(&config).unwrap();
        let mut weights = Weights::open(copy.path(), target).unwrap();
        let device = weights.device().clone();
        let error = Model::load(config, &mut weights, device).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("not enough memory") && error.contains(large),
            "{error}"
        );
    }
}

#[test]
fn an_index_names_files_beside_it() {
    let copy = demo::demo();
    let shard = "model-00001-of-00001.safetensors";
    fs::rename(copy.path().join(WEIGHTS), copy.path().join(shard)).unwrap();
    let index = copy.path().join("model.safetensors.index.json");
    let named = |name: &str| {
        let map = serde_json::json!({"weight_map": {EMBED: name}});
        fs::write(&index, map.to_string()).unwrap();
    };
    named(shard);
    demo::load(copy.path()).unwrap();
    // A folder is not a weights file, whatever its name.
    fs::create_dir(copy.path().join(WEIGHTS)).unwrap();
    demo::load(copy.path()).unwrap();
    fs::remove_dir(copy.path().join(WEIGHTS)).unwrap();
    for strange in ["../x.safetensors", "/etc/passwd", "..", "", "a/b", "."] {
        named(strange);
        demo::refused_at_once(copy.path(), &["is not a plain file name"]);
    }
    named("gone.safetensors");
    demo::refused_at_once(copy.path(), &["gone.safetensors"]);
    for bad in [
        "",
        "{",
        "[]",
        "{}",
        "{\"weight_map\": []}",
        "{\"weight_map\": {}}",
    ] {
        fs::write(&index, bad).unwrap();
        demo::refused_at_once(copy.path(), &["model.safetensors.index.json is damaged"]);
    }
}

#[test]
fn an_error_is_short_whatever_a_file_holds() {
    let long = "x\n".repeat(5_000_000);
    let copy = demo::demo();
    let header =
        serde_json::json!({long.clone(): {"dtype": long, "shape": [], "data_offsets": [0, 0]}});
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(copy.path().join(WEIGHTS), bytes).unwrap();
    let error = demo::refused(copy.path(), &["is damaged"]);
    assert!(
        error.len() < 3000 && !error.contains('\n'),
        "{} bytes",
        error.len()
    );
    assert!(matches!(
        Weights::open(copy.path(), Target::cpu()),
        Err(WeightsError::Damaged { .. })
    ));
}

//! Tensors by their names.

use super::*;

#[test]
fn a_head_of_its_own_is_used_though_the_configuration_ties_it() {
    let original = tensors(demo::demo().path());
    let own = {
        let (dtype, shape, bytes) = original[EMBED].clone();
        let values = bytes.as_chunks().0.iter();
        let other = values.flat_map(|b| (-bf16::from_le_bytes(*b)).to_le_bytes());
        (dtype, shape, other.collect::<Vec<u8>>())
    };
    let with = |head: Option<_>, embed: bool| {
        let copy = changed(|all| {
            all.extend(head.map(|head| (HEAD.to_owned(), head)));
            if !embed {
                all.remove(EMBED);
            }
        });
        head_and_embeddings(&model(copy.path()).unwrap())
    };
    let (embed, other) = (values(&original[EMBED]), values(&own));
    assert_eq!(with(None, true), (embed.clone(), embed.clone()));
    assert_eq!(
        with(Some(original[EMBED].clone()), true),
        (embed.clone(), embed.clone())
    );
    assert_eq!(with(Some(own.clone()), true), (other.clone(), embed));
    // The only matrix is both.
    assert_eq!(with(Some(own), false), (other.clone(), other));
}

/// transformers adds or removes one `model.`: files of the model without its head lack it.
#[test]
fn names_with_one_model_more_or_less_are_the_same() {
    let original = tensors(demo::demo().path());
    let renamed = |rename: fn(&str) -> String| {
        let copy = changed(|all| {
            *all = all
                .drain()
                .map(|(name, data)| (rename(&name), data))
                .collect();
        });
        head_and_embeddings(&model(copy.path()).unwrap())
    };
    let embed = values(&original[EMBED]);
    let same = (embed.clone(), embed.clone());
    assert_eq!(renamed(|name| name.replacen("model.", "", 1)), same);
    assert_eq!(renamed(|name| format!("model.{name}")), same);

    // So this is a head, and must not be ignored.
    let other = |name: &str| {
        changed(|all| {
            let (dtype, shape, bytes) = all[EMBED].clone();
            let negative = bytes.as_chunks().0.iter();
            let negative = negative.flat_map(|b| (-bf16::from_le_bytes(*b)).to_le_bytes());
            let head = (dtype, shape, negative.collect());
            all.insert(name.into(), head);
        })
    };
    let (head, table) = head_and_embeddings(&model(other("model.lm_head.weight").path()).unwrap());
    let negative: Vec<f32> = embed.iter().map(|value| -value).collect();
    assert_eq!((head, table), (negative, embed));
    let name = "language_model.embed_tokens.weight";
    demo::refused(other(name).path(), &[name, EMBED, "are the same one"]);
}

/// transformers makes a random head, with a warning.
#[test]
fn an_untied_model_has_a_head() {
    let untied = demo::with("config.json", |config| {
        config["tie_word_embeddings"] = serde_json::json!(false);
    });
    demo::refused(untied.path(), &[HEAD, "is missing"]);
}

#[test]
fn it_is_said_that_the_head_is_one_of_its_own() {
    let said = |folder: &Path| {
        let mut said = Vec::new();
        let progress = &mut |progress: Progress| said.push(progress.what);
        load(&demo::options(folder), progress, &AtomicBool::new(false)).unwrap();
        said.iter().any(|what| what.contains("lm_head"))
    };
    assert!(!said(demo::demo().path()));
    let other = changed(|all| {
        let (dtype, shape, mut bytes) = all[EMBED].clone();
        bytes[0] ^= 1;
        all.insert(HEAD.into(), (dtype, shape, bytes));
    });
    assert!(said(other.path()));
}

#[test]
fn a_head_of_another_shape_is_refused() {
    let model = changed(|all| {
        let (dtype, shape, bytes) = all[EMBED].clone();
        let half = (
            dtype,
            vec![shape[0] / 2, shape[1]],
            bytes[..bytes.len() / 2].to_vec(),
        );
        all.insert(HEAD.into(), half);
    });
    demo::refused(model.path(), &[HEAD, "[256, 128]", "[512, 128]"]);
}

/// What a layer is stored as is told by its tensors; config.json, which says nothing here, has the
/// rest.
#[test]
fn a_layer_in_an_unsupported_format_is_named() {
    let layer = "model.language_model.layers.1.mlp.down_proj";
    for (tensor, words) in [
        ("qweight", &["quantised layer", "says nothing of it"]),
        ("weight_packed", &["quantised layer", "says nothing of it"]),
        ("weight_scale_inv", &["weight in BF16 with", "not known"]),
        ("weight_scale", &["weight in BF16 with", "not known"]),
    ] {
        let model = changed(|all| {
            let any = all["model.language_model.norm.weight"].clone();
            all.insert(format!("{layer}.{tensor}"), any);
        });
        let error = demo::refused(model.path(), words);
        assert!(error.contains(layer) && error.contains(tensor), "{error}");
    }
}

#[test]
fn tensors_without_a_place_are_named() {
    for name in [
        "model.language_model.layers.4.mlp.up_proj.weight",
        "model.language_model.layers.0.self_attn.q_proj.bias",
        "model.visual.blocks.9.norm1.weight",
    ] {
        let model = changed(|all| {
            let any = all["model.language_model.norm.weight"].clone();
            all.insert(name.into(), any);
        });
        demo::refused(model.path(), &["1 tensors have no place", name]);
    }
    // Buffers of older versions, and tensors outside the model's parts.
    let model = changed(|all| {
        let any = all["model.language_model.norm.weight"].clone();
        all.insert(
            "model.language_model.rotary_emb.inv_freq".into(),
            any.clone(),
        );
        all.insert("score.weight".into(), any);
    });
    let mut said = Vec::new();
    let progress = &mut |progress: Progress| said.push(progress.what);
    load(
        &demo::options(model.path()),
        progress,
        &AtomicBool::new(false),
    )
    .unwrap();
    let left = |what: &&String| what.contains("score.weight") && what.contains("inv_freq");
    assert_eq!(said.iter().filter(left).count(), 1, "{said:?}");
}

//! `vision_config`.

use serde_json::{Value, json};

use crate::quote::quoted;
use crate::weights::gguf::{GgufError, GgufModel};

/// What the converter calls the vision tower of Qwen3-VL.
const PROJECTOR: &str = "qwen3vl_merger";
/// What llama.cpp takes where the file does not say.
const MERGE: u64 = 2;

pub(super) fn config(model: &GgufModel) -> Result<Value, GgufError> {
    let file = model.vision();
    let own = file.text("clip.vision.projector_type")?;
    let projector = own.or(file.text("clip.projector_type")?);
    if projector != Some(PROJECTOR) {
        let projector = projector.map_or("missing".into(), quoted);
        return Err(file.error(format!(
            "clip.projector_type is {projector}: only Qwen3-VL's is supported ({PROJECTOR})"
        )));
    }
    if file.flag("clip.has_vision_encoder")? == Some(false) {
        return Err(file.error("it has no vision tower (clip.has_vision_encoder)"));
    }
    if file.flag("clip.use_silu")? == Some(true) || file.flag("clip.use_gelu")? == Some(false) {
        return Err(file.error("its activation is not GELU (clip.use_gelu)"));
    }
    let need = |name: &str| file.need_integer(&format!("clip.vision.{name}"));
    let (depth, patch) = (need("block_count")?, need("patch_size")?);
    let merge = file.integer("clip.vision.spatial_merge_size")?;
    // What is added to a variance is 1e-6 in the model; the file has that of the language model.
    Ok(json!({
        "depth": depth,
        "hidden_size": need("embedding_length")?,
        "intermediate_size": need("feed_forward_length")?,
        "num_heads": need("attention.head_count")?,
        "patch_size": patch,
        "temporal_patch_size": 2,
        "spatial_merge_size": merge.unwrap_or(MERGE),
        "out_hidden_size": need("projection_dim")?,
        "num_position_embeddings": positions(model, patch)?,
        "deepstack_visual_indexes": taps(model, depth)?,
    }))
}

/// Rows of the learned positions: those of a picture of `image_size`.
fn positions(model: &GgufModel, patch: u64) -> Result<u64, GgufError> {
    let file = model.vision();
    let table = model.vision_tensor("v.position_embd.weight");
    let table = table.ok_or_else(|| file.error("it has no tensor v.position_embd.weight"))?;
    let rows = table.shape.first().map_or(0, |rows| *rows as u64);
    let side = file.integer("clip.vision.image_size")?;
    let by_size = side.and_then(|side| side.checked_div(patch)?.checked_pow(2));
    match side.is_none() || by_size == Some(rows) {
        true => Ok(rows),
        false => Err(file.error(format!(
            "v.position_embd.weight has {rows} rows, which is not what clip.vision.image_size says"
        ))),
    }
}

/// Blocks that DeepStack taps.
fn taps(model: &GgufModel, depth: u64) -> Result<Vec<usize>, GgufError> {
    const KEY: &str = "clip.vision.is_deepstack_layers";
    let file = model.vision();
    let taps = file.flags(KEY)?;
    let taps = taps.ok_or_else(|| file.error(format!("it has no key {KEY}")))?;
    if taps.len() as u64 != depth {
        return Err(file.error(format!(
            "{KEY} is of {} blocks, clip.vision.block_count {depth}",
            taps.len()
        )));
    }
    let tapped = taps.into_iter().enumerate().filter(|(_, tapped)| *tapped);
    Ok(tapped.map(|(block, _)| block).collect())
}

//! The description of a loaded model for callers.

use candle_core::Device;

use super::{LoadOptions, invalid};
use crate::config::{GenerationConfig, PreprocessorConfig};
use crate::device::DeviceChoice;
use crate::engine::runner::Runner;
use crate::model::linear;
use qwen3_vl_core::load::LoadError;
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::request::SamplingParams;

pub(super) fn model_info(
    name: String,
    options: &LoadOptions,
    runner: &Runner,
) -> Result<ModelInfo, LoadError> {
    let vision = &runner.parts.model.config.vision_config;
    let range = |c: &PreprocessorConfig| (c.size.shortest_edge, c.size.longest_edge);
    let on_cpu = runner.parts.model.kv.device().is_cpu();
    let runs_on = match (runner.parts.model.kv.device(), options.device) {
        (Device::Cpu, _) => "cpu".into(),
        (_, DeviceChoice::Cuda(n)) => format!("cuda:{n}"),
        _ => "cuda:0".into(),
    };
    let layers = runner.parts.model.text.linears();
    let generation = &runner.parts.generation;
    let thinks = runner.parts.tokenizer.thinks();
    Ok(ModelInfo {
        name,
        backend: "local",
        runs_on,
        quantization: linear::summary(options.quantization, layers),
        compute: on_cpu.then(|| runner.parts.model.compute.as_str()),
        factor: u32::try_from(vision.patch_size * vision.spatial_merge_size).map_err(invalid)?,
        temporal_patch: vision.temporal_patch_size as u32,
        video_pixels: range(&runner.parts.video),
        video_pixels_per_frame: runner.parts.video.per_frame,
        image_pixels: range(&runner.parts.image),
        sampling: sampling_defaults(generation, &model_card(thinks)),
        own_sampling: own_sampling(generation),
        thinks,
        time_tokens: runner.time_tokens().map_err(invalid)?,
        limits: *runner.limits(),
    })
}

/// The sampling parameters on the model cards: Instruct, and Thinking, whose values for text
/// generation differ.
fn model_card(thinks: bool) -> SamplingParams {
    let (temperature, top_p, presence_penalty) = match thinks {
        false => (0.7, 0.8, 1.5),
        true => (1.0, 0.95, 0.0),
    };
    SamplingParams {
        temperature,
        top_p,
        top_k: 20,
        presence_penalty,
        repetition_penalty: 1.0,
    }
}

/// The checkpoint's sampling parameters; those that it lacks are as on the model card.
fn sampling_defaults(config: &GenerationConfig, card: &SamplingParams) -> SamplingParams {
    if config.temperature == Some(0.0) {
        // This is plain argmax: the card's penalty is meant for its temperature.
        return own_sampling(config);
    }
    if config.do_sample == Some(false) {
        return SamplingParams {
            temperature: 0.0,
            presence_penalty: 0.0,
            ..own_sampling(config)
        };
    }
    SamplingParams {
        temperature: config.temperature.unwrap_or(card.temperature),
        top_p: config.top_p.unwrap_or(card.top_p),
        top_k: config.top_k.unwrap_or(card.top_k),
        presence_penalty: config.presence_penalty.unwrap_or(card.presence_penalty),
        repetition_penalty: config.repetition_penalty.unwrap_or(card.repetition_penalty),
    }
}

/// The parameters of `generation_config.json` itself; all others are off.
fn own_sampling(config: &GenerationConfig) -> SamplingParams {
    let off = SamplingParams::default();
    SamplingParams {
        temperature: config.temperature.unwrap_or(off.temperature),
        top_p: config.top_p.unwrap_or(off.top_p),
        top_k: config.top_k.unwrap_or(off.top_k),
        presence_penalty: config.presence_penalty.unwrap_or(off.presence_penalty),
        repetition_penalty: config.repetition_penalty.unwrap_or(off.repetition_penalty),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_card_fills_in_what_the_checkpoint_samples_with() {
        // The file of the released Instruct models has no presence penalty.
        let json = br#"{"do_sample": true, "temperature": 0.6, "top_k": 30, "top_p": 0.9}"#;
        let config = GenerationConfig::from_json(json).unwrap();
        let expected = SamplingParams {
            temperature: 0.6,
            top_p: 0.9,
            top_k: 30,
            presence_penalty: 1.5,
            repetition_penalty: 1.0,
        };
        assert_eq!(sampling_defaults(&config, &model_card(false)), expected);
        let own = SamplingParams {
            presence_penalty: 0.0,
            ..expected
        };
        assert_eq!(own_sampling(&config), own);
    }

    /// The card of the Thinking models; what the checkpoint says goes before it.
    #[test]
    fn the_card_of_a_thinking_model_has_other_values() {
        let of = |json: &str| {
            let config = GenerationConfig::from_json(json.as_bytes()).unwrap();
            sampling_defaults(&config, &model_card(true))
        };
        let card = SamplingParams {
            temperature: 1.0,
            top_p: 0.95,
            top_k: 20,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
        };
        assert_eq!(of("{}"), card);
        let own = SamplingParams {
            temperature: 0.6,
            top_k: 9,
            ..card
        };
        assert_eq!(of(r#"{"temperature": 0.6, "top_k": 9}"#), own);
    }

    #[test]
    fn a_temperature_of_zero_has_no_penalty_but_its_own() {
        let penalty = |json: &str| {
            let config = GenerationConfig::from_json(json.as_bytes()).unwrap();
            let generation = sampling_defaults(&config, &model_card(false));
            assert_eq!(generation.temperature, 0.0);
            generation.presence_penalty
        };
        assert_eq!(penalty(r#"{"temperature": 0}"#), 0.0);
        assert_eq!(
            penalty(r#"{"temperature": 0.0, "presence_penalty": 0.5}"#),
            0.5
        );
    }

    #[test]
    fn do_sample_false_is_greedy_whatever_else_it_says() {
        let json = br#"{"do_sample": false, "temperature": 0.6, "presence_penalty": 1.5,
                        "repetition_penalty": 1.1}"#;
        let greedy = sampling_defaults(
            &GenerationConfig::from_json(json).unwrap(),
            &model_card(false),
        );
        assert_eq!((greedy.temperature, greedy.presence_penalty), (0.0, 0.0));
        // transformers applies the repetition penalty to greedy decoding too.
        assert_eq!(greedy.repetition_penalty, 1.1);
    }
}

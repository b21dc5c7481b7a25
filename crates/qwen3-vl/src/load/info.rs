//! The description of a loaded model for callers.

use candle_core::Device;

use super::{LoadOptions, invalid};
use crate::config::{GenerationConfig, PreprocessorConfig};
use crate::device::DeviceChoice;
use crate::engine::runner::Runner;
use crate::model::linear;
use crate::model::linear::Linear;
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
    let runs_on = match (runner.parts.model.kv.device(), options.device) {
        (Device::Cpu, _) => "cpu".into(),
        (_, DeviceChoice::Cuda(n)) => format!("cuda:{n}"),
        _ => "cuda:0".into(),
    };
    let layers: Vec<_> = runner
        .parts
        .model
        .text
        .linears()
        .map(Linear::format)
        .collect();
    let generation = &runner.parts.generation;
    Ok(ModelInfo {
        name,
        backend: "local",
        runs_on,
        quantization: linear::summary(options.quantization, &layers),
        factor: u32::try_from(vision.patch_size * vision.spatial_merge_size).map_err(invalid)?,
        temporal_patch: vision.temporal_patch_size as u32,
        video_pixels: range(&runner.parts.video),
        video_pixels_per_frame: runner.parts.video.per_frame,
        image_pixels: range(&runner.parts.image),
        sampling: sampling_defaults(generation),
        own_sampling: own_sampling(generation),
        time_tokens: runner.time_tokens().map_err(invalid)?,
        limits: *runner.limits(),
    })
}

/// The checkpoint's sampling parameters; those that it lacks are as on the model card of the
/// Instruct models (temperature 0.7, top-p 0.8, top-k 20, presence penalty 1.5).
fn sampling_defaults(config: &GenerationConfig) -> SamplingParams {
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
        temperature: config.temperature.unwrap_or(0.7),
        top_p: config.top_p.unwrap_or(0.8),
        top_k: config.top_k.unwrap_or(20),
        presence_penalty: config.presence_penalty.unwrap_or(1.5),
        repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
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
        assert_eq!(sampling_defaults(&config), expected);
        let own = SamplingParams {
            presence_penalty: 0.0,
            ..expected
        };
        assert_eq!(own_sampling(&config), own);
    }

    #[test]
    fn a_temperature_of_zero_has_no_penalty_but_its_own() {
        let penalty = |json: &str| {
            let config = GenerationConfig::from_json(json.as_bytes()).unwrap();
            let generation = sampling_defaults(&config);
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
        let greedy = sampling_defaults(&GenerationConfig::from_json(json).unwrap());
        assert_eq!((greedy.temperature, greedy.presence_penalty), (0.0, 0.0));
        // transformers applies the repetition penalty to greedy decoding too.
        assert_eq!(greedy.repetition_penalty, 1.1);
    }
}

//! Sampling parameters from properties and checkpoint.

use std::time::Duration;

use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
use qwen3_vl_core::frames::Budget;
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::request::SamplingParams;

use super::Settings;

fn model() -> ModelInfo {
    FakeBackend::new(Duration::ZERO, Outcome::Echo)
        .model()
        .clone()
}

fn values(
    temperature: f64,
    top_p: f64,
    top_k: u32,
    presence_penalty: f64,
    repetition_penalty: f64,
) -> SamplingParams {
    SamplingParams {
        temperature,
        top_p,
        top_k,
        presence_penalty,
        repetition_penalty,
    }
}

/// As the released Instruct models: generation_config.json names no presence penalty, the card
/// does.
fn released() -> ModelInfo {
    ModelInfo {
        sampling: values(0.7, 0.8, 20, 1.5, 1.0),
        own_sampling: values(0.7, 0.8, 20, 0.0, 1.0),
        ..model()
    }
}

/// One that names penalties itself.
fn with_penalties() -> ModelInfo {
    let all = values(0.6, 0.9, 30, 0.5, 1.1);
    ModelInfo {
        sampling: all,
        own_sampling: all,
        ..model()
    }
}

/// do_sample = false.
fn greedy() -> ModelInfo {
    ModelInfo {
        sampling: values(0.0, 0.8, 20, 0.0, 1.1),
        own_sampling: values(0.7, 0.8, 20, 0.0, 1.1),
        ..model()
    }
}

#[test]
fn sampling_values_go_together() {
    // Properties: temperature, top-p, top-k, presence-penalty, repetition-penalty.
    let unset = (-1.0, -1.0, -1, -1.0, -1.0);
    let at = |temperature: f64| (temperature, -1.0, -1, -1.0, -1.0);
    for (model, properties, expected) in [
        // All from the checkpoint and the card.
        (released(), unset, values(0.7, 0.8, 20, 1.5, 1.0)),
        // Greedy is argmax, without the card's penalty.
        (released(), at(0.0), values(0.0, 0.8, 20, 0.0, 1.0)),
        (
            released(),
            (0.0, -1.0, -1, 1.5, -1.0),
            values(0.0, 0.8, 20, 1.5, 1.0),
        ),
        (
            released(),
            (0.0, -1.0, -1, -1.0, 1.2),
            values(0.0, 0.8, 20, 0.0, 1.2),
        ),
        // Another temperature: the checkpoint's own values, not the card's.
        (released(), at(0.5), values(0.5, 0.8, 20, 0.0, 1.0)),
        (
            released(),
            (0.5, 0.3, 5, 0.1, 1.3),
            values(0.5, 0.3, 5, 0.1, 1.3),
        ),
        // Another top-p alone leaves the rest.
        (
            released(),
            (-1.0, 0.3, -1, -1.0, -1.0),
            values(0.7, 0.3, 20, 1.5, 1.0),
        ),
        (with_penalties(), at(0.5), values(0.5, 0.9, 30, 0.5, 1.1)),
        // transformers applies the repetition penalty to greedy decoding too, and has no other
        // penalty.
        (with_penalties(), at(0.0), values(0.0, 0.9, 30, 0.0, 1.1)),
        (greedy(), unset, values(0.0, 0.8, 20, 0.0, 1.1)),
        (greedy(), at(0.7), values(0.7, 0.8, 20, 0.0, 1.1)),
        // A penalty that is set holds in any case; 0 is one that is set.
        (
            released(),
            (-1.0, -1.0, -1, 0.0, -1.0),
            values(0.7, 0.8, 20, 0.0, 1.0),
        ),
        (
            greedy(),
            (-1.0, -1.0, -1, 1.0, -1.0),
            values(0.0, 0.8, 20, 1.0, 1.1),
        ),
    ] {
        let (temperature, top_p, top_k, presence_penalty, repetition_penalty) = properties;
        let settings = Settings {
            temperature,
            top_p,
            top_k,
            presence_penalty,
            repetition_penalty,
            ..Settings::default()
        };
        assert_eq!(settings.sampling_params(&model), expected, "{properties:?}");
    }
}

/// A checkpoint whose processor is that of Qwen2-VL has a budget for each frame, not for the video.
#[test]
fn the_checkpoint_s_budget_is_of_what_its_processor_says() {
    let budget = |video_pixels_per_frame| {
        let model = ModelInfo {
            video_pixels: (4096, 65_536),
            video_pixels_per_frame,
            ..model()
        };
        Settings::default().budget(&model)
    };
    let (min_pixels, max_pixels) = (4096, 65_536);
    let whole = Budget::HfVideo {
        min_pixels,
        max_pixels,
        cap_per_frame: true,
    };
    let each = Budget::HfImage {
        min_pixels,
        max_pixels,
    };
    assert_eq!((budget(false), budget(true)), (whole, each));
}

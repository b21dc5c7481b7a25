//! Tests of pixel budgets.

use std::time::Duration;

use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};

use super::*;

const EXTREMES: [u64; 9] = [
    1,
    1024,
    40_000,
    262_144,
    786_432,
    8_000_000,
    200_000_000,
    1 << 40,
    u64::MAX,
];

fn size(settings: &Settings, model: &ModelInfo, frames: u32, source: Size) -> Size {
    let budget = settings.budget(model);
    budget
        .size(frames, source, model.factor, model.temporal_patch)
        .unwrap_or_else(|error| panic!("{budget:?} of {source:?}: {error}"))
}

/// In both modes, with any other settings, for frames of any size and windows of any length.
#[test]
fn a_maximum_never_makes_frames_larger() {
    let fake = FakeBackend::new(Duration::ZERO, Outcome::Echo);
    // The last one has more pixels than an image may have in any case.
    let sources = [
        (96, 64),
        (1920, 300),
        (1280, 720),
        (3840, 2160),
        (17, 900),
        (8000, 6000),
    ];
    for mode in [Mode::Video, Mode::Images] {
        for min_pixels in [0, 1, 200_000, 2_000_000] {
            for frame_cap in [true, false] {
                let without = Settings {
                    mode,
                    min_pixels,
                    frame_cap,
                    ..Settings::default()
                };
                // With min-pixels it is qwen-vl-utils' rule as it is, which can make frames that
                // are narrower than a block a little longer when it shrinks them.
                let sources = sources.iter().filter(|size| min_pixels == 0 || size.0 > 32);
                for &(width, height) in sources {
                    for frames in [2, 8, 61, 768] {
                        let source = Size { width, height };
                        let of = |s: &Settings| size(s, fake.model(), frames, source).pixels();
                        let most = of(&without);
                        for limit in EXTREMES {
                            let max_pixels = Settings {
                                max_pixels: limit.max(min_pixels),
                                ..without.clone()
                            };
                            let total_pixels = Settings {
                                total_pixels: limit,
                                ..without.clone()
                            };
                            for with in [max_pixels, total_pixels] {
                                assert!(of(&with) <= most, "{with:?}, {frames} of {source:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Sizes with a maximum alone: those of qwen-vl-utils' `smart_resize` if it makes frames smaller;
/// else the film's frames keep their size.
#[test]
fn a_maximum_alone_limits_by_the_rule_of_qwen_vl_utils() {
    let fake = FakeBackend::new(Duration::ZERO, Outcome::Echo);
    let with = |max_pixels, source| {
        let settings = Settings {
            max_pixels,
            ..Settings::default()
        };
        let (width, height) = source;
        let size = size(&settings, fake.model(), 8, Size { width, height });
        (size.width, size.height)
    };
    assert_eq!(with(262_144, (128, 96)), (128, 96));
    assert_eq!(with(262_144, (1280, 720)), (672, 384));
    assert_eq!(with(4096, (1920, 300)), (160, 32));
}

/// By `smart_resize` of transformers, with the most pixels that `cap_pixels_per_frame` leaves: 720
/// tokens, of 768 at most, where four frames could have 2040 each.
#[test]
fn frame_cap_is_the_checkpoint_s_cap() {
    let fake = FakeBackend::new(Duration::ZERO, Outcome::Echo);
    let source = Size {
        width: 1920,
        height: 1080,
    };
    let with = |frame_cap, max_pixels| {
        let settings = Settings {
            frame_cap,
            max_pixels,
            ..Settings::default()
        };
        let size = size(&settings, fake.model(), 4, source);
        (size.width, size.height)
    };
    assert_eq!(with(true, 0), (1152, 640));
    assert_eq!(with(false, 0), (1920, 1088));
    // A maximum applies with the cap and without it.
    let capped = |frame_cap| {
        let settings = Settings {
            frame_cap,
            max_pixels: 262_144,
            ..Settings::default()
        };
        match settings.budget(fake.model()) {
            Budget::Smaller { cap_per_frame, .. } => cap_per_frame,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((capped(true), capped(false)), (true, false));
}

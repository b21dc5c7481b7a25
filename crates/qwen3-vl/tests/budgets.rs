//! What the budget rules promise, on any input.

use proptest::prelude::*;
use qwen3_vl::frames::{Budget, Size};

const TEMPORAL: u32 = 2;

fn sizes() -> impl Strategy<Value = Size> {
    (1..6000u32, 1..6000u32).prop_map(|(width, height)| Size { width, height })
}

fn factors() -> impl Strategy<Value = u32> {
    prop_oneof![Just(28), Just(32)]
}

/// Least and most pixels at least four times apart: closer together, cutting to whole blocks can
/// miss both.
fn ranges() -> impl Strategy<Value = (u64, u64)> {
    (1..2_000_000u64, 4..200u64).prop_map(|(min, times)| (min, min * times))
}

/// Within the budget, or so thin that a side is one block and can shrink no further.
fn fits(size: Size, frames: u64, (min, max): (u64, u64), factor: u32) -> bool {
    let pixels = frames * u64::from(size.width) * u64::from(size.height);
    let one_block = size.width == factor || size.height == factor;
    pixels >= min && (pixels <= max || one_block)
}

fn whole_blocks(size: Size, factor: u32) -> bool {
    let whole = |side: u32| side > 0 && side.is_multiple_of(factor);
    whole(size.width) && whole(size.height)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hf_videos_fit(size in sizes(), pairs in 1..200u32, range in ranges(), factor in factors()) {
        let frames = 2 * pairs;
        let budget = Budget::HfVideo {
            min_pixels: range.0,
            max_pixels: range.1,
            cap_per_frame: false,
        };
        if let Ok(result) = budget.size(frames, size, factor, TEMPORAL) {
            prop_assert!(whole_blocks(result, factor), "{result:?}");
            prop_assert!(fits(result, frames.into(), range, factor), "{result:?}");
        }
    }

    #[test]
    fn the_cap_limits_a_frame(size in sizes(), pairs in 1..200u32, range in ranges(), factor in factors()) {
        let budget = Budget::HfVideo {
            min_pixels: range.0,
            max_pixels: range.1,
            cap_per_frame: true,
        };
        let frames = 2 * pairs;
        if let Ok(result) = budget.size(frames, size, factor, TEMPORAL) {
            let frame = u64::from(result.width) * u64::from(result.height);
            let one_block = result.width == factor || result.height == factor;
            let cap = 768 * u64::from(factor * factor);
            // The least wins over the cap: 1.05 times the whole video's for each frame.
            let share = (range.1 / u64::from(frames)).min(cap).max(range.0 * 105 / 100);
            // Growing a video to the least it may have rounds up, by less than twice a side.
            let most = (share * u64::from(frames)).max(4 * range.0);
            prop_assert!(frame * u64::from(frames) <= most || one_block, "{result:?}");
        }
    }

    #[test]
    fn images_fit_and_stay(size in sizes(), range in ranges(), factor in factors()) {
        let budget = Budget::HfImage { min_pixels: range.0, max_pixels: range.1 };
        if let Ok(result) = budget.size(1, size, factor, TEMPORAL) {
            prop_assert!(whole_blocks(result, factor), "{result:?}");
            prop_assert!(fits(result, 1, range, factor), "{result:?}");
            let pixels = u64::from(result.width) * u64::from(result.height);
            let (long, short) = (result.width.max(result.height), result.width.min(result.height));
            if pixels <= range.1 && long <= 200 * short {
                prop_assert_eq!(budget.size(1, result, factor, TEMPORAL), Ok(result));
            }
        }
    }

    #[test]
    fn qwen_vl_utils_frames_fit(
        size in sizes(), frames in 1..800u32, range in ranges(), total in 1..1u64 << 32, factor in factors()
    ) {
        let budget = Budget::QwenVlUtils {
            min_pixels: range.0,
            max_pixels: range.1,
            total_pixels: total,
        };
        if let Ok(result) = budget.size(frames, size, factor, TEMPORAL) {
            prop_assert!(whole_blocks(result, factor), "{result:?}");
            let pixels = u64::from(result.width) * u64::from(result.height);
            let one_block = result.width == factor || result.height == factor;
            // Growing a frame to the least it may have rounds up, by less than twice a side.
            prop_assert!(pixels <= range.1.max(4 * range.0) || one_block, "{result:?}");
        }
    }

    #[test]
    fn nothing_panics(
        width: u32, height: u32, frames: u32, min_pixels: u64, max_pixels: u64, total_pixels: u64,
        cap_per_frame: bool, factor in 0..100u32, temporal in 0..5u32
    ) {
        let source = Size { width, height };
        for budget in [
            Budget::HfVideo { min_pixels, max_pixels, cap_per_frame },
            Budget::HfImage { min_pixels, max_pixels },
            Budget::QwenVlUtils { min_pixels, max_pixels, total_pixels },
        ] {
            if let Ok(size) = budget.size(frames, source, factor, temporal) {
                prop_assert!(size.width > 0 && size.height > 0);
            }
        }
    }
}

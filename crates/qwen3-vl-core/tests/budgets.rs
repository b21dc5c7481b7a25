//! Properties of the budget rules, for any input.

use proptest::prelude::*;
use qwen3_vl_core::frames::budget::MOST_PIXELS;
use qwen3_vl_core::frames::{Budget, Rounding, Size};

const TEMPORAL: u32 = 2;

fn sizes() -> impl Strategy<Value = Size> {
    (1..6000u32, 1..6000u32).prop_map(|(width, height)| Size { width, height })
}

fn factors() -> impl Strategy<Value = u32> {
    prop_oneof![Just(28), Just(32)]
}

/// Minimum and maximum of pixels at least four times apart: if they are closer, rounding to whole
/// blocks can miss both.
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

/// Any value, often an extreme one.
fn any_u64() -> impl Strategy<Value = u64> {
    let extreme = prop::sample::select(vec![0, 1, 2, 1 << 34, u64::MAX - 1, u64::MAX]);
    prop_oneof![any::<u64>(), extreme, (0..64u32).prop_map(|bit| 1 << bit)]
}

fn any_u32() -> impl Strategy<Value = u32> {
    any_u64().prop_map(|value| u32::try_from(value).unwrap_or(u32::MAX))
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
    fn the_cap_limits_a_frame(
        size in sizes(), pairs in 1..200u32, range in ranges(), factor in factors()
    ) {
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
            // The minimum goes before the cap: 1.05 times the whole video's for each frame.
            let share = (range.1 / u64::from(frames)).min(cap).max(range.0 * 105 / 100);
            // Growing a video to its minimum rounds up, by less than twice a side.
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
        size in sizes(), frames in 1..800u32, range in ranges(), total in 1..1u64 << 32,
        factor in factors()
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
            // Growing a frame to its minimum rounds up, by less than twice a side.
            prop_assert!(pixels <= range.1.max(4 * range.0) || one_block, "{result:?}");
        }
    }

    /// No maximum makes a frame larger than the checkpoint's own rule does.
    #[test]
    fn a_smaller_budget_never_enlarges(
        source in sizes(), frames in 2..800u32, whole in ranges(), max_pixels in 1..1u64 << 40,
        total_pixels in 1..1u64 << 40, cap_per_frame: bool
    ) {
        let own = Budget::HfVideo { min_pixels: whole.0, max_pixels: whole.1, cap_per_frame };
        let min_pixels = max_pixels.min(128 * 1024);
        let smaller = Budget::Smaller {
            min_pixels,
            max_pixels,
            total_pixels,
            whole,
            cap_per_frame,
        };
        let [own, smaller] = [own, smaller].map(|budget| budget.size(frames, source, 32, TEMPORAL));
        match (own, smaller) {
            (Ok(own), Ok(smaller)) => {
                prop_assert!(smaller.pixels() <= own.pixels(), "{smaller:?} {own:?}");
            }
            (Err(_), Ok(smaller)) => prop_assert!(false, "{smaller:?}"),
            (_, Err(_)) => (),
        }
    }

    #[test]
    fn nothing_panics(
        width in any_u32(), height in any_u32(), frames in any_u32(), min_pixels in any_u64(),
        max_pixels in any_u64(), total_pixels in any_u64(), cap_per_frame: bool,
        factor in prop_oneof![0..100u32, any_u32()], temporal in prop_oneof![0..5u32, any_u32()]
    ) {
        let source = Size { width, height };
        for budget in [
            Budget::HfVideo { min_pixels, max_pixels, cap_per_frame },
            Budget::HfImage { min_pixels, max_pixels },
            Budget::QwenVlUtils { min_pixels, max_pixels, total_pixels },
            Budget::Smaller {
                min_pixels,
                max_pixels,
                total_pixels,
                whole: (max_pixels, min_pixels),
                cap_per_frame,
            },
        ] {
            if let Ok(size) = budget.size(frames, source, factor, temporal) {
                prop_assert!((1..=MOST_PIXELS).contains(&size.pixels()));
            }
        }
    }
}

#[test]
fn blocks_of_any_size_have_budgets() {
    let budget = |min_pixels, max_pixels, total_pixels| Budget::QwenVlUtils {
        min_pixels,
        max_pixels,
        total_pixels,
    };
    assert_eq!(
        Budget::qwen_vl_utils(32),
        budget(131_072, 786_432, 117_964_800)
    );
    let token = 16_064 * 1_365 * 16_064 * 1_365;
    assert_eq!(
        Budget::qwen_vl_utils(16_064 * 1_365),
        budget(128 * token, 768 * token, u64::MAX)
    );
    assert_eq!(
        Budget::qwen_vl_utils(u32::MAX),
        budget(u64::MAX, u64::MAX, u64::MAX)
    );
}

/// transformers resizes in 8 bits, qwen-vl-utils in f32.
#[test]
fn frames_are_rounded_as_by_the_package_whose_rule_it_is() {
    let source = Size {
        width: 1280,
        height: 720,
    };
    let rounding = |budget: Budget| budget.resize(8, source, 32, TEMPORAL).unwrap().1;
    let whole = (4096, 25_165_824);
    let hf_video = Budget::HfVideo {
        min_pixels: whole.0,
        max_pixels: whole.1,
        cap_per_frame: true,
    };
    let hf_image = Budget::HfImage {
        min_pixels: whole.0,
        max_pixels: whole.1,
    };
    let smaller = |max_pixels| Budget::Smaller {
        min_pixels: 131_072,
        max_pixels,
        total_pixels: u64::MAX,
        whole,
        cap_per_frame: true,
    };
    assert_eq!(rounding(hf_video), Rounding::EachPass);
    assert_eq!(rounding(hf_image), Rounding::EachPass);
    assert_eq!(rounding(Budget::qwen_vl_utils(32)), Rounding::Once);
    // A limit that makes the frame smaller, and one that does not.
    assert_eq!(rounding(smaller(262_144)), Rounding::Once);
    assert_eq!(rounding(smaller(u64::MAX)), Rounding::EachPass);
}

//! Resizing against Pillow, patches against transformers.

#![allow(clippy::unwrap_used)]

use qwen3_vl::cpu::patchify::Cut;
use qwen3_vl::cpu::patchify::patchify;
use qwen3_vl_core::clip::{clip, noise};
use qwen3_vl_core::frames::budget::Budget;
use qwen3_vl_core::frames::sampling::{Rate, hf_frame_indices};
use qwen3_vl_core::frames::{
    Frame, ResizeError, Rounding, Size, VisionInput, resize, resize_rgb, resize_rgb_once,
};
use qwen3_vl_testing::{Golden, data_dir};
use serde_json::Value;
use sha2::{Digest, Sha256};

const HALF: [f32; 3] = [0.5; 3];

fn size_of(text: &str) -> Size {
    let (width, height) = text.split_once('x').unwrap();
    Size {
        width: width.parse().unwrap(),
        height: height.parse().unwrap(),
    }
}

fn worst(a: impl IntoIterator<Item = u8>, b: impl IntoIterator<Item = u8>) -> u8 {
    a.into_iter()
        .zip(b)
        .map(|(a, b)| a.abs_diff(b))
        .max()
        .unwrap()
}

/// Our resize of the source of a tensor in `resize.safetensors`, at its sample of pixels.
fn our_sample(who: &str, pattern: &str, from: &str, to: &str, stride: &str) -> Vec<u8> {
    let (from, to, stride) = (size_of(from), size_of(to), stride.parse().unwrap());
    let source = match pattern {
        "clip" => clip(3, from, 0),
        _ => noise(from, 1),
    };
    let rounding = match who {
        "once" => Rounding::Once,
        _ => Rounding::EachPass,
    };
    let ours = resize(&source, from, to, rounding).unwrap();
    let width = to.width as usize;
    (0..to.height as usize)
        .step_by(stride)
        .flat_map(|y| (0..width).step_by(stride).map(move |x| (y * width + x) * 3))
        .flat_map(|at| ours[at..at + 3].to_vec())
        .collect()
}

/// Exactly torchvision's values, with which transformers resizes. They are now and then 2 levels
/// from Pillow's, whose weights are finer. `once`: the values of qwen-vl-utils.
#[test]
fn resizing_is_torchvision_s_and_close_to_pillow_s() {
    let table = Golden::open(&data_dir().join("tables/resize.safetensors")).unwrap();
    let names = table.names().unwrap();
    assert_eq!(names.len(), 78);
    let (mut values, mut off_by_two) = (0, 0);
    let (mut once, mut off_by_one) = (0, 0);
    for name in names {
        let [who, pattern, from, to, stride] =
            name.split('_').collect::<Vec<_>>().try_into().unwrap();
        let ours = our_sample(who, pattern, from, to, stride);
        let theirs = table.u8(&name).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let off: Vec<u8> = ours
            .iter()
            .zip(&theirs)
            .map(|(a, b)| a.abs_diff(*b))
            .collect();
        let worst = *off.iter().max().unwrap();
        if who == "torchvision" {
            assert_eq!(worst, 0, "{name}");
        } else if who == "once" {
            assert!(worst <= 1, "{name}");
            once += off.len();
            off_by_one += off.iter().filter(|&&levels| levels == 1).count();
        } else {
            assert!(worst <= 2, "{name}");
            values += off.len();
            off_by_two += off.iter().filter(|&&levels| levels == 2).count();
        }
    }
    assert!(off_by_two * 10_000 <= values, "{off_by_two} of {values}");
    assert!(off_by_one * 100_000 <= once, "{off_by_one} of {once}");
}

#[test]
fn resizing_refuses_what_is_no_picture() {
    let (two, none) = (size_of("2x2"), size_of("0x2"));
    assert!(matches!(
        resize_rgb(&[0; 11], two, two),
        Err(ResizeError::Bytes { bytes: 11, .. })
    ));
    assert!(matches!(
        resize_rgb(&[0; 12], two, none),
        Err(ResizeError::Empty { .. })
    ));
    assert!(matches!(
        resize_rgb(&[], none, two),
        Err(ResizeError::Empty { .. })
    ));
    assert!(matches!(
        resize_rgb_once(&[0; 12], two, none),
        Err(ResizeError::Empty { .. })
    ));
    let huge = size_of("4294967295x4294967295");
    assert!(resize_rgb_once(&[0; 12], huge, two).is_err());
    assert!(resize_rgb(&[0; 12], huge, two).is_err());
}

/// The frames of a golden case by our own rules: clip formula, sampling, budget, resize.
fn our_inputs(golden: &Golden) -> Vec<Vec<VisionInput>> {
    let sources = golden.summary["source"].as_array().unwrap();
    sources
        .iter()
        .enumerate()
        .map(|(nth, source)| {
            let number = |key: &str| source[key].as_u64().unwrap() as u32;
            let from = Size {
                width: number("W"),
                height: number("H"),
            };
            if source.get("T").is_none() {
                return vec![our_image(golden, from, nth as u32)];
            }
            our_pairs(source, number("T"), from, nth as u32)
        })
        .collect()
}

fn our_image(golden: &Golden, from: Size, nth: u32) -> VisionInput {
    let pixels = |key, default| golden.summary["budget"][key].as_u64().unwrap_or(default);
    let budget = Budget::HfImage {
        min_pixels: pixels("min_pixels", 65_536),
        max_pixels: pixels("max_pixels", 16_777_216),
    };
    let to = budget.size(1, from, 32, 2).unwrap();
    VisionInput::Image(Frame {
        rgb: resize_rgb(&clip(0, from, nth), from, to).unwrap().into(),
        size: to,
        seconds: 0.0,
    })
}

fn our_pairs(source: &Value, total: u32, from: Size, nth: u32) -> Vec<VisionInput> {
    let meta = &source["meta"];
    let fps = meta["fps"].as_f64().unwrap_or(24.0);
    // Position of the picture in the clip and its index in the file it stands for.
    let (pictures, indices): (Vec<u32>, Vec<u32>) = if source["sample"] == true {
        let indices = hf_frame_indices(total, fps, &Rate::default()).unwrap();
        (indices.clone(), indices)
    } else {
        let indices = meta["frames_indices"].as_array().unwrap();
        let indices = indices.iter().map(|i| i.as_u64().unwrap() as u32);
        ((0..total).collect(), indices.collect())
    };
    let budget = Budget::HfVideo {
        min_pixels: 4096,
        max_pixels: 25_165_824,
        cap_per_frame: false,
    };
    let to = budget.size(pictures.len() as u32, from, 32, 2).unwrap();
    let mut frames: Vec<Frame> = pictures
        .iter()
        .zip(indices)
        .map(|(&picture, index)| Frame {
            rgb: resize_rgb(&clip(picture, from, nth), from, to)
                .unwrap()
                .into(),
            size: to,
            seconds: f64::from(index) / fps,
        })
        .collect();
    if frames.len() % 2 == 1 {
        frames.push(frames.last().unwrap().clone());
    }
    frames
        .chunks_exact(2)
        .map(|pair| VisionInput::Pair([pair[0].clone(), pair[1].clone()]))
        .collect()
}

fn patches(inputs: &[Vec<VisionInput>]) -> Vec<f32> {
    let cut = Cut {
        patch: 16,
        merge: 2,
        temporal: 2,
        mean: HALF,
        std: HALF,
    };
    let inputs = inputs.iter().flatten();
    inputs.flat_map(|input| patchify(input, &cut)).collect()
}

fn sha256(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn pixels_are_those_of_transformers() {
    for case in [
        "even",
        "odd",
        "resize",
        "up",
        "few",
        "nofps",
        "stream",
        "two",
        "wide",
        "images",
        "image-default",
    ] {
        let golden = Golden::load("dense-tied", case).unwrap();
        let ours = patches(&our_inputs(&golden));
        let levels = ours.iter().map(|v| (v * 127.5 + 127.5).round() as u8);
        let theirs = golden.u8("pixels_u8").unwrap();
        assert_eq!(ours.len(), theirs.len(), "{case}");
        assert_eq!(worst(levels, theirs), 0, "{case}");
        let sha = golden.summary["pixel_sha256"].as_str().unwrap();
        assert_eq!(sha256(&ours), sha, "{case}");
    }
}

/// The goldens' inputs, which other tests use, are transformers' pixels.
#[test]
fn inputs_of_goldens_are_the_reference_s_own() {
    for case in ["even", "odd", "resize", "two", "images", "image-default"] {
        let golden = Golden::load("dense-tied", case).unwrap();
        let inputs = golden.inputs().unwrap();
        let sha = golden.summary["pixel_sha256"].as_str().unwrap();
        assert_eq!(sha256(&patches(&inputs)), sha, "{case}");
        let times = |inputs: &[Vec<VisionInput>]| -> Vec<f64> {
            let seconds = |input: &VisionInput| match input {
                VisionInput::Pair([a, b]) => [a.seconds, b.seconds],
                VisionInput::Image(frame) => [frame.seconds; 2],
            };
            inputs.iter().flatten().flat_map(seconds).collect()
        };
        assert_eq!(times(&inputs), times(&our_inputs(&golden)), "{case}");
    }
}

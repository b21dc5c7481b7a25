//! The pure rules against tables of the reference packages: all rows, exactly.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use qwen3_vl_core::frames::budget::{
    Budget, BudgetError, MOST_PIXELS, hf_capped_max_pixels, hf_image_smart_resize,
    hf_video_smart_resize, qwen_vl_utils_max_pixels, qwen_vl_utils_smart_resize,
};
use qwen3_vl_core::frames::sampling::{
    Rate, SamplingError, hf_frame_indices, qwen_vl_utils_frame_indices,
};
use qwen3_vl_core::frames::{Size, patch_seconds, timestamp_text};
use qwen3_vl_core::prompt::PositionCursor;
use qwen3_vl_testing::{Golden, data_dir};
use serde::Deserialize;
use serde_json::Value;

const FACTOR: u32 = 32;
const TEMPORAL: u32 = 2;

#[derive(Deserialize)]
struct Table {
    rows: Vec<Vec<Value>>,
}

impl Table {
    fn read(name: &str) -> Vec<Vec<Value>> {
        let path = data_dir().join(format!("tables/{name}.json"));
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let table: Self = serde_json::from_slice(&text).unwrap();
        table.rows
    }
}

fn u32_of(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn u64_of(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn f64_of(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn size_of(row: &[Value]) -> Size {
    Size {
        height: u32_of(&row[0]),
        width: u32_of(&row[1]),
    }
}

/// The reference's size, or the kind of its error. qwen-vl-utils also gives sides of 0, which are
/// no size; ours are one block then. No frame gets more than 2^30 pixels.
fn expected(result: &[Value]) -> Result<Size, &str> {
    if let Some(kind) = result[0].as_str() {
        return Err(kind);
    }
    let [height, width] = [0, 1].map(|i| u64_of(&result[i]).max(FACTOR.into()));
    let [height, width] = match height * width > MOST_PIXELS {
        true => return Err("too large"),
        false => [height, width].map(|side| u32::try_from(side).unwrap()),
    };
    Ok(Size { width, height })
}

fn kind(error: BudgetError) -> &'static str {
    match error {
        BudgetError::Empty(_) => "empty",
        BudgetError::AspectRatio { .. } => "ratio",
        BudgetError::TooFewFrames { .. } => "frames",
        BudgetError::ZeroBudget => "zero budget",
        BudgetError::MinAboveMax { .. } => "min>max",
        BudgetError::TooLarge(_) => "too large",
    }
}

#[test]
fn hf_video_sizes() {
    let rows = Table::read("hf_video");
    assert_eq!(rows.len(), 4000);
    for row in rows {
        let (frames, source) = (u32_of(&row[0]), size_of(&row[1..]));
        let (min, max, cap) = (u64_of(&row[3]), u64_of(&row[4]), u64_of(&row[5]) == 1);
        let limit = if cap {
            hf_capped_max_pixels(frames, FACTOR, min, max)
        } else {
            max
        };
        let ours = hf_video_smart_resize(frames, source, TEMPORAL, FACTOR, min, limit);
        assert_eq!(ours.map_err(kind), expected(&row[6..]), "{row:?}");

        let budget = Budget::HfVideo {
            min_pixels: min,
            max_pixels: max,
            cap_per_frame: cap,
        };
        let through_budget = budget.size(frames, source, FACTOR, TEMPORAL);
        if min <= max {
            assert_eq!(through_budget, ours, "{row:?}");
        } else {
            assert_eq!(through_budget, Err(BudgetError::MinAboveMax { min, max }));
        }
    }
}

#[test]
fn hf_image_sizes() {
    let rows = Table::read("hf_image");
    assert_eq!(rows.len(), 4000);
    for row in rows {
        let source = size_of(&row);
        let (min_pixels, max_pixels) = (u64_of(&row[2]), u64_of(&row[3]));
        let ours = hf_image_smart_resize(source, FACTOR, min_pixels, max_pixels);
        assert_eq!(ours.map_err(kind), expected(&row[4..]), "{row:?}");
        if min_pixels <= max_pixels {
            let budget = Budget::HfImage {
                min_pixels,
                max_pixels,
            };
            assert_eq!(budget.size(1, source, FACTOR, TEMPORAL), ours, "{row:?}");
        }
    }
}

#[test]
fn qwen_vl_utils_sizes() {
    let rows = Table::read("qwen_vl_utils");
    assert_eq!(rows.len(), 4000);
    for row in rows {
        let (frames, source) = (u32_of(&row[0]), size_of(&row[1..]));
        let [min_pixels, max_pixels, total_pixels] = [3, 4, 5].map(|i| u64_of(&row[i]));
        let limit = qwen_vl_utils_max_pixels(
            frames,
            FACTOR,
            TEMPORAL,
            min_pixels,
            max_pixels,
            total_pixels,
        );
        let ours = qwen_vl_utils_smart_resize(source, FACTOR, min_pixels, limit);
        assert_eq!(ours.map_err(kind), expected(&row[6..]), "{row:?}");
        let budget = Budget::QwenVlUtils {
            min_pixels,
            max_pixels,
            total_pixels,
        };
        // An odd last frame is repeated before the budget is shared out.
        for frames in [frames, frames - 1] {
            let size = budget.size(frames, source, FACTOR, TEMPORAL);
            assert_eq!(size.map_err(kind), ours.map_err(kind), "{row:?}");
        }
    }
}

/// Long and thin, tiny and huge shapes, with very small and very large budgets: a size where the
/// reference gives one, else an error with the size of the source.
#[test]
fn extreme_sizes() {
    let rows = Table::read("extreme_sizes");
    assert_eq!(rows.len(), 2475);
    let mut kinds = BTreeSet::new();
    for row in rows {
        let (frames, source) = (u32_of(&row[1]), size_of(&row[2..]));
        let [min_pixels, max_pixels, other] = [4, 5, 6].map(|i| u64_of(&row[i]));
        let budget = match row[0].as_str().unwrap() {
            "image" => Budget::HfImage {
                min_pixels,
                max_pixels,
            },
            "video" => Budget::HfVideo {
                min_pixels,
                max_pixels,
                cap_per_frame: other == 1,
            },
            _ => Budget::QwenVlUtils {
                min_pixels,
                max_pixels,
                total_pixels: other,
            },
        };
        let ours = budget.size(frames, source, FACTOR, TEMPORAL);
        assert_eq!(ours.map_err(kind), expected(&row[7..]), "{row:?}");
        if let Err(error) = ours {
            let user = format!("{}x{} pixels", source.width, source.height);
            let text = error.to_string();
            assert!(
                text.contains(&user) || kind(error) == "min>max",
                "{row:?}: {text}"
            );
            kinds.insert(kind(error));
        }
    }
    assert!(
        kinds.contains("ratio") && kinds.contains("too large"),
        "{kinds:?}"
    );
}

fn check_indices(name: &str, rule: impl Fn(u32, f64, &Rate) -> Result<Vec<u32>, SamplingError>) {
    let rows = Table::read(name);
    assert_eq!(rows.len(), 1000);
    for row in rows {
        let rate = Rate {
            fps: f64_of(&row[2]),
            min_frames: u32_of(&row[3]),
            max_frames: u32_of(&row[4]),
        };
        let ours = rule(u32_of(&row[0]), f64_of(&row[1]), &rate);
        match row[5].as_array() {
            Some(indices) => {
                let theirs: Vec<u32> = indices.iter().map(u32_of).collect();
                assert_eq!(ours, Ok(theirs), "{row:?}");
            }
            None => assert!(
                matches!(ours, Err(SamplingError::TooShort { .. })),
                "{row:?}: {ours:?}"
            ),
        }
    }
}

#[test]
fn hf_sampling() {
    check_indices("hf_indices", hf_frame_indices);
}

#[test]
fn qwen_vl_utils_sampling() {
    check_indices("qwen_vl_utils_indices", qwen_vl_utils_frame_indices);
}

#[test]
fn timestamps() {
    let rows = Table::read("timestamps");
    assert_eq!(rows.len(), 3000);
    for row in rows {
        let [first, second, fps] = [0, 1, 2].map(|i| f64_of(&row[i]));
        let text = timestamp_text(patch_seconds(first / fps, second / fps));
        assert_eq!(text, row[3].as_str().unwrap(), "{row:?}");
    }
}

/// Every position of 2000 prompts of text, images and temporal patches of videos.
#[test]
fn mrope_positions() {
    let table = Golden::open(&data_dir().join("tables/mrope.safetensors")).unwrap();
    let segments = table.u8("segments").unwrap();
    let mut segments = segments.chunks_exact(3);
    let theirs = table.u8("positions").unwrap();
    let mut theirs = theirs.chunks_exact(3);
    let deltas = table.i32("deltas").unwrap();
    assert_eq!(deltas.len(), 2000);
    for (prompt, (count, delta)) in table
        .u8("segment_counts")
        .unwrap()
        .into_iter()
        .zip(deltas)
        .enumerate()
    {
        let (mut cursor, mut ours) = (PositionCursor::default(), Vec::new());
        for segment in segments.by_ref().take(count.into()) {
            match *segment {
                [0, _, tokens] => cursor.text(tokens.into(), &mut ours),
                [_, rows, columns] => cursor.grid(rows.into(), columns.into(), &mut ours),
                _ => unreachable!("rows of three"),
            }
        }
        let theirs: Vec<[u32; 3]> = theirs
            .by_ref()
            .take(ours.len())
            .map(|row| [row[0], row[1], row[2]].map(u32::from))
            .collect();
        assert_eq!(ours, theirs, "prompt {prompt}");
        assert_eq!(cursor.rope_delta(), i64::from(delta), "prompt {prompt}");
    }
    assert!(segments.next().is_none() && theirs.next().is_none());
}

//! Feature `analytics`: elements that do not know this one use its descriptions.

use std::collections::BTreeSet;
use std::sync::Arc;

use gst::glib;
use gst_analytics::prelude::*;
use gst_analytics::{AnalyticsClassificationMtd, AnalyticsODMtd, AnalyticsRelationMeta, RelTypes};
use gst_check::Harness;
use gstqwenvl::meta;
use gstqwenvl::qwenvl::analytics::{MAX_LABELS, OTHER};
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::bench::Bench;
use crate::common::hooks;

const WIDTH: i32 = 192;
const HEIGHT: i32 = 96;
/// With frames as large as those of the bench.
const CAPS: &str = "video/x-raw,format=GRAY8,width=192,height=96,framerate=10/1";
/// The overlay's line above the object.
const LINE: i32 = 24;

/// Windows of one frame.
fn bench(backend: &ManualBackend, attach: bool) -> Bench {
    let mut bench = Bench::new(
        hooks(Arc::new(backend.clone())),
        true,
        &[
            ("window-duration", "500000000"),
            ("min-frames", "1"),
            ("mode", "images"),
            ("attach-analytics", if attach { "true" } else { "false" }),
        ],
    )
    .ready();
    bench.harness.set_src_caps_str(CAPS);
    bench
}

fn black(ms: u64) -> gst::Buffer {
    let mut buffer = Bench::buffer(ms);
    let header = buffer.get_mut().unwrap();
    header.map_writable().unwrap().fill(0);
    buffer
}

/// The buffer on which these answers travel.
fn described(bench: &mut Bench, backend: &ManualBackend, answers: &[&str]) -> gst::Buffer {
    let count = answers.len() as u64;
    bench.frames(0..count * 500);
    for answer in answers {
        backend.take().answer_with((*answer).into());
        bench.harness.pull().unwrap();
    }
    bench.ended(answers.len());
    bench.harness.push(black(count * 500)).unwrap();
    let buffer = bench.harness.pull().unwrap();
    assert_eq!(meta::descriptions(&buffer).len(), answers.len());
    // No test needs the answer about this frame's window.
    backend.take().answer_with("Nothing.".into());
    bench.ended(answers.len() + 1);
    buffer
}

fn add_object(buffer: &mut gst::Buffer, label: &str, top: i32, height: i32) {
    let mut meta = AnalyticsRelationMeta::add(buffer.get_mut().unwrap());
    meta.add_od_mtd(glib::Quark::from_str(label), 0, top, WIDTH, height, 1.0)
        .unwrap();
}

/// The overlay's picture of a buffer.
fn picture(buffer: gst::Buffer) -> Vec<u8> {
    let mut overlay = Harness::new("objectdetectionoverlay");
    overlay.set_src_caps_str(CAPS);
    overlay.push(buffer).unwrap();
    let shown = overlay.pull().unwrap();
    shown.map_readable().unwrap().to_vec()
}

#[test]
fn an_unmodified_overlay_draws_the_label() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, true);
    let yes = described(&mut bench, &backend, &["Yes"]);
    bench.stop();
    let yes = picture(yes);
    let reference = |label| {
        let mut buffer = black(0);
        add_object(&mut buffer, label, LINE, HEIGHT - LINE);
        picture(buffer)
    };
    assert!(picture(black(0)).iter().all(|&pixel| pixel == 0));
    assert!(yes == reference("Yes"), "as of any detector's label");
    // What differs between two labels stands above the object, in the picture.
    let no = reference("No");
    let above = (LINE * WIDTH) as usize - WIDTH as usize;
    assert!(yes[..above] != no[..above]);
    assert!(yes[above..] == no[above..]);
}

#[test]
fn labels_boxes_and_classes() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, true);
    let buffer = described(
        &mut bench,
        &backend,
        &["One lane.", "Two\n lanes,\tit \"seems\".", "No lane"],
    );
    let meta = buffer.meta::<AnalyticsRelationMeta>().unwrap();
    let label = |quark: glib::Quark| quark.as_str().to_string();
    let wanted = ["One lane.", "Two lanes, it \"seems\".", "No lane"];
    // As large as the frame, but for the overlay's lines.
    let tops = [24, 48, 48];
    let objects: Vec<_> = meta.iter::<AnalyticsODMtd>().collect();
    assert_eq!(objects.len(), 3);
    for ((object, wanted), top) in objects.iter().zip(wanted).zip(tops) {
        assert_eq!(label(object.obj_type().unwrap()), wanted);
        let at = object.location().unwrap();
        assert_eq!((at.x, at.y, at.w, at.h), (0, top, WIDTH, HEIGHT - top));
        assert_eq!(at.loc_conf_lvl, 1.0);
        let classes: Vec<_> = meta
            .iter_direct_related::<AnalyticsClassificationMtd>(object.id(), RelTypes::RELATE_TO)
            .flat_map(|class| class.iterate().collect::<Vec<_>>())
            .map(|(quark, confidence)| (label(quark), confidence))
            .collect();
        assert_eq!(classes, [(wanted.to_owned(), 1.0)]);
    }
    bench.stop();
}

#[test]
fn a_detector_upstream_keeps_its_objects() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, true);
    bench.frames(0..500);
    backend.take().answer_with("Yes".into());
    bench.ended(1);
    let mut buffer = black(500);
    add_object(&mut buffer, "car", 10, 10);
    bench.harness.push(buffer).unwrap();
    bench.harness.pull().unwrap();
    let buffer = bench.harness.pull().unwrap();
    assert_eq!(buffer.iter_meta::<AnalyticsRelationMeta>().count(), 1);
    let meta = buffer.meta::<AnalyticsRelationMeta>().unwrap();
    let objects = meta.iter::<AnalyticsODMtd>();
    let labels: Vec<_> = objects.map(|o| o.obj_type().unwrap().as_str()).collect();
    assert_eq!(labels, ["car", "Yes"]);
    bench.stop();
}

#[test]
fn none_by_default() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false);
    let buffer = described(&mut bench, &backend, &["This is not a label"]);
    assert!(buffer.meta::<AnalyticsRelationMeta>().is_none());
    assert_eq!(glib::Quark::try_from_str("This is not a label"), None);
    bench.stop();
}

/// Labels stay in the process for ever, so their number is bounded.
#[test]
fn labels_are_bounded() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, true);
    let count = u64::from(MAX_LABELS) + 2;
    let mut labels = Vec::new();
    for number in 0..=count {
        bench.frames(number * 500..(number + 1) * 500);
        // The last one has been a label before.
        let answer = format!("Answer {}", number % count);
        backend.take().answer_with(answer);
        bench.ended(number as usize + 1);
    }
    bench.frames((count + 1) * 500..(count + 2) * 500);
    for _ in 0..count + 2 {
        let buffer = bench.harness.pull().unwrap();
        let Some(meta) = buffer.meta::<AnalyticsRelationMeta>() else {
            continue;
        };
        for object in meta.iter::<AnalyticsODMtd>() {
            labels.push(object.obj_type().unwrap().as_str().to_string());
        }
    }
    assert_eq!(labels.len() as u64, count + 1);
    assert_eq!(labels[count as usize], "Answer 0");
    assert_eq!(labels[MAX_LABELS as usize..count as usize], [OTHER; 2]);
    let distinct: BTreeSet<_> = labels.iter().collect();
    assert_eq!(distinct.len() as u32, MAX_LABELS + 1);
    assert_eq!(
        glib::Quark::try_from_str(&format!("Answer {MAX_LABELS}")),
        None
    );
    let warnings = bench.messages.warnings.iter();
    let about_labels = warnings.filter(|warning| warning.message().contains("1024 labels"));
    assert_eq!(about_labels.count(), 1);
    bench.stop();
}

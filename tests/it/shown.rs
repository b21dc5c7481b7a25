//! The model sees what a player shows: cropped, in square pixels, upright, at any size.

use std::sync::Arc;

use gst_video::{VideoCropMeta, VideoMeta};
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::frames::Size;

use crate::common::bench::Bench;
use crate::common::hooks;
use crate::common::picture_case::{Outcome, PictureCase, Rgb, first, in_format, rgb_caps};

#[test]
fn odd_sizes() {
    for (width, height) in [(97, 63), (99, 65), (127, 129)] {
        let picture = Rgb::picture(width, height);
        for format in ["I420", "NV12", "YUY2", "Y42B", "P010_10LE", "RGB"] {
            let out = in_format(&picture, &format!("format={format}"));
            let Outcome {
                seen, reference, ..
            } = out;
            assert_eq!(reference.size, picture.size);
            let resized = reference.resized(seen.size);
            assert_eq!(seen.off(&resized), 0, "{format} {width}x{height}");
            let near = |a: u32, b: u32| a.abs_diff(b) <= 16;
            assert!(near(seen.size.width, width) && near(seen.size.height, height));
        }
    }
}

/// As from decoders: the whole frame with a crop meta.
#[test]
fn crop_meta() {
    let picture = Rgb::picture(144, 96);
    for format in ["I420", "NV12", "YUY2", "RGB", "P010_10LE"] {
        let before = format!("videoconvert ! video/x-raw,format={format}");
        let crop = "videoconvertscale ! video/x-raw,format=RGB \
                    ! videocrop left=13 top=7 right=35 bottom=25";
        let case = PictureCase {
            mark: |buffer| {
                VideoCropMeta::add(buffer, (13, 7, 96, 64));
            },
            ..PictureCase::new(picture.size, &before, crop)
        };
        let out = case.run(&picture.buffer());
        assert_eq!(out.off(), 0, "{format}");
    }
}

/// `videocrop` leaves the buffer as it is where downstream can crop; then the caps have the size of
/// the part, and the buffer's meta that of the whole.
#[test]
fn crop_meta_of_videocrop() {
    let picture = Rgb::picture(144, 96);
    for format in ["I420", "NV12", "RGB"] {
        let before = format!("videoconvert ! video/x-raw,format={format}");
        let crop = "videocrop left=14 top=6 right=34 bottom=26";
        let reference = format!("videoconvertscale ! video/x-raw,format=RGB ! {crop}");
        let case = PictureCase {
            alone: crop,
            ..PictureCase::new(picture.size, &before, &reference)
        };
        let out = case.run(&picture.buffer());
        assert_eq!(out.crop, Some((14, 6, 96, 64)));
        assert_eq!((out.caps.width, out.caps.height), (96, 64));
        assert_eq!(out.off(), 0, "{format}");
    }
}

/// Rows below the picture, as decoders have them.
#[test]
fn padding_that_only_the_video_meta_tells_of() {
    let picture = Rgb::picture(96, 80);
    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
    let mut buffer = picture.buffer();
    let format = gst_video::VideoFormat::Rgb;
    let flags = gst_video::VideoFrameFlags::empty();
    VideoMeta::add(buffer.get_mut().unwrap(), flags, format, 96, 80).unwrap();
    let seen = pair(&mut bench, &backend, &buffer);
    assert_eq!(seen.data, picture.data[..96 * 64 * 3]);
    bench.stop();
}

/// A buffer of `interlace-mode=alternate` is a picture with half of the rows.
#[test]
fn single_fields() {
    let picture = Rgb::picture(96, 32);
    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
    let caps = "video/x-raw(format:Interlaced),format=RGB,width=96,height=64,framerate=10/1,\
                interlace-mode=alternate";
    assert!(bench.event(gst::event::Caps::new(&caps.parse().unwrap())));
    let seen = pair(&mut bench, &backend, &picture.buffer());
    let whole = Size {
        width: 96,
        height: 64,
    };
    assert_eq!(seen.off(&picture.resized(whole)), 0);
    bench.stop();
}

/// The model's input for two such buffers, with which the stream ends.
fn pair(bench: &mut Bench, backend: &ManualBackend, buffer: &gst::Buffer) -> Rgb {
    for ms in [0, 500] {
        let mut buffer = buffer.copy();
        let header = buffer.get_mut().unwrap();
        header.set_pts(gst::ClockTime::from_mseconds(ms));
        bench.harness.push(buffer).unwrap();
    }
    let eos = bench.eos_in_thread();
    let asked = backend.take();
    let seen = first(&asked.inputs);
    asked.answer();
    assert!(eos());
    seen
}

const TURNS: [&str; 8] = [
    "rotate-0",
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip-rotate-0",
    "flip-rotate-90",
    "flip-rotate-180",
    "flip-rotate-270",
];

#[test]
fn orientation_tags() {
    let picture = Rgb::picture(96, 64);
    let mut all = Vec::new();
    for turn in TURNS {
        let before = format!(
            "videoconvert ! video/x-raw,format=NV12 ! taginject tags=\"image-orientation={turn}\""
        );
        let upright = "videoconvertscale ! video/x-raw,format=RGB ! videoflip video-direction=auto";
        let out = PictureCase::new(picture.size, &before, upright).run(&picture.buffer());
        assert_eq!(out.off(), 0, "{turn}");
        all.push(out.seen.data);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), TURNS.len());
}

/// A turn closes the window, for the frames that follow have another shape; a new stream begins
/// upright.
#[test]
fn the_picture_turns_in_mid_stream() {
    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
    let turn = |turn: &str| {
        let mut tags = gst::TagList::new();
        let tag = tags.get_mut().unwrap();
        tag.add::<gst::tags::ImageOrientation>(&turn, gst::TagMergeMode::Replace);
        gst::event::Tag::new(tags)
    };
    bench.frames(0..1_000);
    assert!(bench.event(turn("rotate-90")));
    bench.frames(1_000..2_000);
    // The same again is no turn, nor are tags of other things.
    assert!(bench.event(turn("rotate-90")));
    let mut title = gst::TagList::new();
    let tag = title.get_mut().unwrap();
    tag.add::<gst::tags::Title>(&"a", gst::TagMergeMode::Replace);
    assert!(bench.event(gst::event::Tag::new(title)));
    bench.frames(2_000..3_000);
    assert!(bench.event(gst::event::StreamStart::new("next")));
    bench.frames(3_000..4_000);
    let eos = bench.eos_in_thread();
    for (width, height, inputs) in [(96, 64, 1), (64, 96, 2), (96, 64, 1)] {
        let asked = backend.take();
        assert_eq!(asked.inputs.len(), inputs);
        assert_eq!(asked.inputs[0].size(), Size { width, height });
        asked.answer();
    }
    assert!(eos());
    bench.stop();
}

/// The budget counts square pixels, so one resize makes the pixels square and the frame of its
/// size.
#[test]
fn pixel_aspect_ratios() {
    for (width, height, par, shown) in [
        (64, 96, "2/1", (128, 96)),
        (96, 64, "3/4", (96, 85)),
        (96, 64, "1/2", (96, 128)),
        (90, 72, "16/15", (96, 72)),
        (96, 64, "1/1", (96, 64)),
    ] {
        let picture = Rgb::picture(width, height);
        let square = format!(
            "videoconvertscale method=catrom \
             ! video/x-raw,format=RGB,pixel-aspect-ratio=1/1,width={},height={} ! identity",
            shown.0, shown.1
        );
        let case = PictureCase {
            caps: format!("{},pixel-aspect-ratio={par}", rgb_caps(picture.size)),
            ..PictureCase::new(picture.size, "identity", &square)
        };
        let Outcome {
            seen, reference, ..
        } = case.run(&picture.buffer());
        let multiple = |side: u32| (f64::from(side) / 32.0).round_ties_even() as u32 * 32;
        let expected = (multiple(shown.0), multiple(shown.1));
        assert_eq!((seen.size.width, seen.size.height), expected, "{par}");
        // One resize with the model's filter; GStreamer's own treats the edges differently.
        assert_eq!(seen.off(&picture.resized(seen.size)), 0, "{par}");
        let reference = reference.resized(seen.size);
        let off = seen.mean_off(&reference);
        assert!(off < 5.0, "{par}: {off}");
    }
}

#[test]
fn crop_aspect_ratio_and_turn_together() {
    let picture = Rgb::picture(80, 128);
    let before = "videoconvert ! video/x-raw,format=NV12 \
                  ! taginject tags=\"image-orientation=flip-rotate-90\"";
    let upright = "videoconvertscale ! video/x-raw,format=RGB \
                   ! videocrop left=9 top=3 right=7 bottom=29 ! videoflip video-direction=auto";
    let case = PictureCase {
        caps: format!("{},pixel-aspect-ratio=2/1", rgb_caps(picture.size)),
        mark: |buffer| {
            VideoCropMeta::add(buffer, (9, 3, 64, 96));
        },
        ..PictureCase::new(picture.size, before, upright)
    };
    let Outcome {
        seen, reference, ..
    } = case.run(&picture.buffer());
    assert_eq!((seen.size.width, seen.size.height), (96, 128));
    assert_eq!(seen.off(&reference.resized(seen.size)), 0);
}

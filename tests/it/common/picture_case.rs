//! One buffer converted for the model and by GStreamer's own elements.

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoCropMeta, VideoMeta};
use qwen3_vl_core::frames::{Frame, Size, VisionInput, resize_rgb};

use super::{Run, hooks};
use qwen3_vl_core::backend::manual::ManualBackend;

/// Packed RGB.
#[derive(Clone, Debug)]
pub struct Rgb {
    pub size: Size,
    pub data: Vec<u8>,
}

impl Rgb {
    /// Ramps, edges and rows that differ, so that a shift, a turn, a wrong matrix and a confusion
    /// of fields all show.
    pub fn picture(width: u32, height: u32) -> Self {
        let pixel = |x: u32, y: u32| {
            let block = (x / 8 * 37 + y / 8 * 101) % 256;
            let [r, g] = [x * 255 / width, y * 255 / height];
            let r = if y.is_multiple_of(2) { r } else { 255 - r };
            [r as u8, g as u8, block as u8]
        };
        let rows = 0..height;
        Self {
            size: Size { width, height },
            data: rows
                .flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)))
                .collect(),
        }
    }

    /// As a buffer, whose rows are padded to 4 bytes.
    pub fn buffer(&self) -> gst::Buffer {
        super::init();
        let row = self.size.width as usize * 3;
        let padded = row.next_multiple_of(4);
        let line = |line: &[u8]| [line, &[0; 3][..padded - row]].concat();
        gst::Buffer::from_mut_slice(self.data.chunks(row).flat_map(line).collect::<Vec<_>>())
    }

    fn from_sample(sample: &gst::Sample) -> Self {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let buffer = sample.buffer_owned().unwrap();
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, &info).unwrap();
        let row = info.width() as usize * 3;
        let lines = frame.plane_data(0).unwrap();
        let lines = lines.chunks(frame.plane_stride()[0] as usize);
        Self {
            size: Size {
                width: info.width(),
                height: info.height(),
            },
            data: lines.flat_map(|line| line[..row].to_vec()).collect(),
        }
    }

    fn of_frame(frame: &Frame) -> Self {
        Self {
            size: frame.size,
            data: frame.rgb.to_vec(),
        }
    }

    /// Resized like the model's frames.
    pub fn resized(&self, size: Size) -> Self {
        Self {
            size,
            data: resize_rgb(&self.data, self.size, size).unwrap(),
        }
    }

    fn differences(&self, other: &Self) -> impl Iterator<Item = u8> {
        assert_eq!(self.size, other.size);
        self.data
            .iter()
            .zip(&other.data)
            .map(|(a, b)| a.abs_diff(*b))
    }

    /// Largest difference of a value.
    pub fn off(&self, other: &Self) -> u8 {
        self.differences(other).max().unwrap()
    }

    /// Mean difference of the values.
    pub fn mean_off(&self, other: &Self) -> f64 {
        self.differences(other).map(f64::from).sum::<f64>() / self.data.len() as f64
    }
}

/// The results of a case.
pub struct Outcome {
    pub seen: Rgb,
    pub reference: Rgb,
    /// The crop meta that reached the element.
    pub crop: Option<(u32, u32, u32, u32)>,
    /// Size in the caps that reached it.
    pub caps: Size,
}

impl Outcome {
    pub fn off(&self) -> u8 {
        self.seen.off(&self.reference)
    }
}

/// A picture, and the elements that lead it to the model and, from the same buffer, to an appsink.
pub struct PictureCase<'a> {
    /// Caps of the source buffer.
    pub caps: String,
    /// Elements in front of both.
    pub before: &'a str,
    /// Elements that make the reference picture.
    pub reference: &'a str,
    /// Changes the buffer behind `before`.
    pub mark: fn(&mut gst::BufferRef),
    /// Elements in front of `qwenvl` alone.
    pub alone: &'a str,
}

pub fn rgb_caps(size: Size) -> String {
    let Size { width, height } = size;
    format!("video/x-raw,format=RGB,width={width},height={height},framerate=2/1")
}

impl<'a> PictureCase<'a> {
    pub fn new(size: Size, before: &'a str, reference: &'a str) -> Self {
        Self {
            caps: rgb_caps(size),
            before,
            reference,
            mark: |_| (),
            alone: "identity",
        }
    }

    pub fn run(&self, buffer: &gst::Buffer) -> Outcome {
        let Self {
            caps,
            before,
            reference,
            alone,
            ..
        } = self;
        let backend = ManualBackend::default();
        let run = Run::new(
            &format!(
                "appsrc name=in format=time caps=\"{caps}\" ! {before} ! identity name=mark \
                 ! tee name=t ! queue ! {alone} ! qwenvl name=q ! fakesink name=end async=false \
                 t. ! queue ! identity name=bare ! {reference} ! video/x-raw,format=RGB \
                 ! appsink name=out async=false"
            ),
            hooks(Arc::new(backend.clone())),
        );
        let by_name = |name: &str| run.pipeline.by_name(name).unwrap();
        let mark = self.mark;
        let pad = by_name("mark").static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            mark(info.buffer_mut().unwrap().make_mut());
            gst::PadProbeReturn::Ok
        });
        // The reference is told of the crop by its own properties.
        let pad = by_name("bare").static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
            let buffer = info.buffer_mut().unwrap().make_mut();
            if let Some(meta) = buffer.meta_mut::<VideoCropMeta>() {
                meta.remove().unwrap();
            }
            gst::PadProbeReturn::Ok
        });
        // As a sink that crops while it shows.
        let pad = by_name("end").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
            let query = info.query_mut().unwrap();
            let gst::QueryViewMut::Allocation(query) = query.view_mut() else {
                return gst::PadProbeReturn::Ok;
            };
            query.add_allocation_meta::<VideoMeta>(None);
            query.add_allocation_meta::<VideoCropMeta>(None);
            gst::PadProbeReturn::Handled
        });
        let pad = run.element.static_pad("sink").unwrap();
        let crop = Arc::new(Mutex::new(None));
        let met = crop.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let meta = info.buffer().unwrap().meta::<VideoCropMeta>();
            *met.lock().unwrap() = meta.map(|meta| meta.rect());
            gst::PadProbeReturn::Ok
        });
        let source = by_name("in").downcast::<gst_app::AppSrc>().unwrap();
        let sink = by_name("out").downcast::<gst_app::AppSink>().unwrap();
        run.set_state(gst::State::Playing).unwrap();
        for ms in [0, 500] {
            let mut buffer = buffer.copy();
            let header = buffer.get_mut().unwrap();
            header.set_pts(gst::ClockTime::from_mseconds(ms));
            header.set_duration(gst::ClockTime::from_mseconds(500));
            source.push_buffer(buffer).unwrap();
        }
        source.end_of_stream().unwrap();
        let asked = backend.take();
        let seen = first(&asked.inputs);
        let caps = pad.current_caps().unwrap();
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        asked.answer();
        let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(20));
        let crop = *crop.lock().unwrap();
        Outcome {
            seen,
            reference: Rgb::from_sample(&sample.unwrap()),
            crop,
            caps: Size {
                width: info.width(),
                height: info.height(),
            },
        }
    }
}

pub const CONVERT: &str = "videoconvertscale";

/// The model's and the reference's picture in this format.
pub fn in_format(picture: &Rgb, caps: &str) -> Outcome {
    let before = format!("videoconvert ! video/x-raw,{caps}");
    PictureCase::new(picture.size, &before, CONVERT).run(&picture.buffer())
}

/// The first frame of the first pair.
pub fn first(inputs: &[VisionInput]) -> Rgb {
    let VisionInput::Pair([seen, _]) = &inputs[0] else {
        panic!("no pair");
    };
    Rgb::of_frame(seen)
}

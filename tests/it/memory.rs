//! Frames in other than system memory pass unchanged, and only sampled ones are mapped, by the
//! worker.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use gst_allocators::prelude::*;
use gst_allocators::{DmaBufAllocator, DmaBufMemory, FdMemoryFlags};
use gst_video::{VideoFormat, VideoFrameFlags, VideoInfo, VideoMeta};
use gstqwenvl::testing::{Hooks, Stage};
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::frames::Size;
use rustix::fs::MemfdFlags;

use crate::common::picture_case::{CONVERT, PictureCase, Rgb, first};
use crate::common::{self, Messages, Run, echo, hooks, wait_until};

const SIZE: Size = Size {
    width: 96,
    height: 64,
};
const FIELDS: &str = "width=96,height=64,framerate=10/1";

/// Memory over a file of this name, which stays mapped once it has been mapped: the process's list
/// of mappings shows what was read.
fn dmabuf(name: &str, data: &[u8], may_read: bool) -> gst::Memory {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(rustix::io::write(&fd, data).unwrap(), data.len());
    let fd = if may_read {
        fd
    } else {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        File::options().write(true).open(path).unwrap().into()
    };
    // SAFETY: the descriptor is open, and from here on the memory's.
    let memory = unsafe {
        DmaBufAllocator::new().alloc_dmabuf_with_flags(
            fd.into_raw_fd(),
            data.len(),
            FdMemoryFlags::KEEP_MAPPED,
        )
    };
    memory.unwrap()
}

/// Which of the files `NAME-0`, `NAME-1`, … are mapped.
fn mapped(name: &str) -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let name = format!("/memfd:{name}-");
    let mut numbers: Vec<u64> = maps
        .lines()
        .filter_map(|line| line.split_once(&name))
        .map(|(_, number)| number.split(' ').next().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// A picture as NV12 without padding.
fn nv12(picture: &Rgb) -> Vec<u8> {
    common::init();
    let info = |format| {
        VideoInfo::builder(format, SIZE.width, SIZE.height)
            .build()
            .unwrap()
    };
    let (rgb, to) = (info(VideoFormat::Rgb), info(VideoFormat::Nv12));
    let sample = gst::Sample::builder()
        .buffer(&picture.buffer())
        .caps(&rgb.to_caps().unwrap())
        .build();
    let timeout = gst::ClockTime::from_seconds(20);
    let sample = gst_video::convert_sample(&sample, &to.to_caps().unwrap(), Some(timeout)).unwrap();
    let map = sample
        .buffer_owned()
        .unwrap()
        .into_mapped_buffer_readable()
        .unwrap();
    map.as_slice().to_vec()
}

fn stamped(mut buffer: gst::Buffer, i: u64) -> gst::Buffer {
    let header = buffer.get_mut().unwrap();
    header.set_pts(gst::ClockTime::from_mseconds(i * 100));
    header.set_duration(gst::ClockTime::from_mseconds(100));
    buffer
}

fn addresses(buffer: &gst::BufferRef) -> Vec<usize> {
    buffer
        .iter_memories()
        .map(|memory| memory.as_ptr() as usize)
        .collect()
}

/// An `appsrc` before the element, and what came out behind it.
struct Stream {
    run: Run,
    source: gst_app::AppSrc,
    passed: Arc<Mutex<Vec<Vec<usize>>>>,
    pushed: Vec<gst::Buffer>,
}

impl Stream {
    fn new(caps: &str, properties: &str, hooks: Hooks) -> Self {
        let line = format!(
            "appsrc name=in format=time ! qwenvl name=q {properties} ! \
             fakesink name=end async=false"
        );
        let run = Run::new(&line, hooks);
        let source = run.pipeline.by_name("in").unwrap();
        let source = source.downcast::<gst_app::AppSrc>().unwrap();
        source.set_caps(Some(&caps.parse().unwrap()));
        let passed = Arc::new(Mutex::new(Vec::new()));
        let log = passed.clone();
        let pad = run.element.static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            log.lock().unwrap().push(addresses(info.buffer().unwrap()));
            gst::PadProbeReturn::Ok
        });
        run.set_state(gst::State::Playing).unwrap();
        Self {
            run,
            source,
            passed,
            pushed: Vec::new(),
        }
    }

    /// Keeps a reference, so that nothing is unmapped.
    fn push(&mut self, buffer: gst::Buffer) {
        let buffer = stamped(buffer, self.pushed.len() as u64);
        self.pushed.push(buffer.clone());
        self.source.push_buffer(buffer).unwrap();
    }

    /// Ends the stream. All buffers must have passed unchanged.
    fn end(&self) -> Messages {
        self.source.end_of_stream().unwrap();
        let bus = self.run.pipeline.bus().unwrap();
        let messages = Messages::until_end(&bus, &self.run.element);
        let pushed: Vec<_> = self.pushed.iter().map(|buffer| addresses(buffer)).collect();
        assert_eq!(*self.passed.lock().unwrap(), pushed);
        messages
    }
}

/// The model's input for these frames.
fn seen(caps: &str, frames: impl IntoIterator<Item = gst::Buffer>) -> (Rgb, Stream, Messages) {
    let backend = ManualBackend::default();
    let mut stream = Stream::new(caps, "", hooks(Arc::new(backend.clone())));
    for frame in frames {
        stream.push(frame);
    }
    let answer = std::thread::spawn(move || {
        let asked = backend.take();
        let seen = first(&asked.inputs);
        asked.answer();
        seen
    });
    let messages = stream.end();
    assert!(messages.errors.is_empty(), "{messages:?}");
    (answer.join().unwrap(), stream, messages)
}

/// The same picture in system memory.
fn in_system_memory(picture: &Rgb) -> Rgb {
    let data = nv12(picture);
    let frames = (0..20).map(|_| gst::Buffer::from_slice(data.clone()));
    seen(&format!("video/x-raw,format=NV12,{FIELDS}"), frames).0
}

#[test]
fn of_dmabuf_frames_those_that_are_sampled_are_mapped() {
    let picture = Rgb::picture(SIZE.width, SIZE.height);
    let reference = in_system_memory(&picture);
    let data = nv12(&picture);
    for (name, caps) in [
        // As from v4l2src; from its io-mode=dmabuf and VA before GStreamer 1.24; since then.
        ("plain", "video/x-raw,format=NV12"),
        ("feature", "video/x-raw(memory:DMABuf),format=NV12"),
        (
            "drm",
            "video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format=NV12",
        ),
    ] {
        let frames = (0..20).map(|i| {
            let mut buffer = gst::Buffer::new();
            let memory = dmabuf(&format!("{name}-{i}"), &data, true);
            assert!(memory.downcast_memory_ref::<DmaBufMemory>().is_some());
            buffer.get_mut().unwrap().append_memory(memory);
            buffer
        });
        let (rgb, stream, messages) = seen(&format!("{caps},{FIELDS}"), frames);
        assert_eq!(rgb.data, reference.data, "{name}");
        assert_eq!(messages.descriptions().len(), 1);
        // Two frames of ten a second.
        assert_eq!(mapped(name), [0, 5, 10, 15], "{name}");
        drop(stream);
    }
}

/// drm_fourcc.h writes components from the highest bit of a little-endian number.
#[test]
fn drm_formats_of_rgb() {
    let picture = Rgb::picture(SIZE.width, SIZE.height);
    let as_rgb = |pixel: fn(&[u8]) -> Vec<u8>| picture.data.chunks(3).flat_map(pixel).collect();
    let formats: [(&str, Vec<u8>); 6] = [
        ("BG24", as_rgb(|p| vec![p[0], p[1], p[2]])),
        ("RG24", as_rgb(|p| vec![p[2], p[1], p[0]])),
        ("XR24", as_rgb(|p| vec![p[2], p[1], p[0], 7])),
        ("XB24", as_rgb(|p| vec![p[0], p[1], p[2], 7])),
        ("BX24", as_rgb(|p| vec![7, p[0], p[1], p[2]])),
        ("RX24", as_rgb(|p| vec![7, p[2], p[1], p[0]])),
    ];
    let mut reference = None;
    for (name, data) in formats {
        let caps = format!("video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format={name},{FIELDS}");
        let frames = (0..20).map(|i| {
            let mut buffer = gst::Buffer::new();
            let memory = dmabuf(&format!("{name}-{i}"), &data, true);
            buffer.get_mut().unwrap().append_memory(memory);
            buffer
        });
        let (rgb, _stream, _) = seen(&caps, frames);
        let reference = reference.get_or_insert_with(|| picture.resized(rgb.size));
        assert_eq!(rgb.off(reference), 0, "{name}");
    }
}

/// As V4L2 and VA-API give them: each plane in a memory of its own, its rows padded, and more
/// before and between than the caps say.
#[test]
fn planes_in_several_memories_with_padded_rows() {
    const STRIDE: usize = 128;
    const START: [usize; 2] = [256, 64];
    let picture = Rgb::picture(SIZE.width, SIZE.height);
    let data = nv12(&picture);
    let (luma, chroma) = data.split_at(96 * 64);
    let padded = |plane: &[u8], start: usize| {
        let row = |row: &[u8]| [row, &[0xEE; STRIDE - 96]].concat();
        let rows: Vec<u8> = plane.chunks(96).flat_map(row).collect();
        [vec![0xEE; start], rows].concat()
    };
    let planes = [padded(luma, START[0]), padded(chroma, START[1])];
    let frames = (0..20).map(|i| {
        let mut buffer = gst::Buffer::new();
        let header = buffer.get_mut().unwrap();
        for (name, plane) in ["luma", "chroma"].iter().zip(&planes) {
            header.append_memory(dmabuf(&format!("{name}-{i}"), plane, true));
        }
        let offsets = [START[0], planes[0].len() + START[1]];
        VideoMeta::add_full(
            header,
            VideoFrameFlags::empty(),
            VideoFormat::Nv12,
            SIZE.width,
            SIZE.height,
            &offsets,
            &[STRIDE as i32; 2],
        )
        .unwrap();
        buffer
    });
    let caps = format!("video/x-raw(memory:DMABuf),format=NV12,{FIELDS}");
    let (rgb, _stream, _) = seen(&caps, frames);
    assert_eq!(rgb.data, in_system_memory(&picture).data);
    assert_eq!(mapped("luma"), [0, 5, 10, 15]);
    assert_eq!(mapped("chroma"), [0, 5, 10, 15]);
}

/// The streaming thread maps no frame, except to copy one that may not be held.
#[test]
fn the_worker_maps() {
    let (hooks, closed) = gate(echo(Duration::ZERO));
    let caps = format!("video/x-raw(memory:DMABuf),format=NV12,{FIELDS}");
    let mut stream = Stream::new(&caps, "overload=drop-oldest", hooks);
    let data = nv12(&Rgb::picture(SIZE.width, SIZE.height));
    for i in 0..20 {
        let memory = dmabuf(&format!("worker-{i}"), &data, true);
        let mut buffer = gst::Buffer::new();
        buffer.get_mut().unwrap().append_memory(memory);
        stream.push(buffer);
    }
    wait_until("the video", || stream.passed.lock().unwrap().len() == 20);
    assert_eq!(mapped("worker"), [10, 15]);
    closed.store(false, Ordering::SeqCst);
    let messages = stream.end();
    assert_eq!(messages.descriptions().len(), 1, "{messages:?}");
    assert_eq!(mapped("worker"), [0, 5, 10, 15]);
}

#[test]
fn what_cannot_be_mapped_drops_its_windows_and_nothing_else() {
    let caps = format!("video/x-raw(memory:DMABuf),format=NV12,{FIELDS}");
    let mut stream = Stream::new(&caps, "", hooks(echo(Duration::ZERO)));
    let data = nv12(&Rgb::picture(SIZE.width, SIZE.height));
    for i in 0..80 {
        let memory = dmabuf(&format!("closed-{i}"), &data, i >= 40);
        let mut buffer = gst::Buffer::new();
        buffer.get_mut().unwrap().append_memory(memory);
        stream.push(buffer);
    }
    let messages = stream.end();
    assert!(messages.errors.is_empty(), "{messages:?}");
    assert_eq!(messages.dropped(), ["unmappable"]);
    assert_eq!(messages.descriptions().len(), 1);
}

/// A meta may come from another process. Its planes must lie in the buffer.
#[test]
fn a_meta_that_leads_out_of_its_buffer_drops_its_windows_and_nothing_else() {
    let size = (SIZE.width * SIZE.height * 3) as usize;
    let row = SIZE.width as i32 * 3;
    for (width, height, offset, stride) in [
        (SIZE.width * 2, SIZE.height * 2, 0, row * 2),
        (SIZE.width, SIZE.height * 1000, 0, row),
        (SIZE.width, SIZE.height, size - 1, row),
        (SIZE.width, SIZE.height, usize::MAX, row),
        (SIZE.width, SIZE.height, 0, row * 1000),
        (SIZE.width, SIZE.height, 0, -row),
        (SIZE.width, SIZE.height, 0, 0),
        (1 << 30, 1, 0, i32::MAX),
    ] {
        // Before a good frame has been seen, and behind one.
        for bad in [0..40, 40..80] {
            let caps = format!("video/x-raw,format=RGB,{FIELDS}");
            let mut stream = Stream::new(&caps, "", hooks(echo(Duration::ZERO)));
            for i in 0..80 {
                let mut buffer = Rgb::picture(SIZE.width, SIZE.height).buffer();
                if bad.contains(&i) {
                    VideoMeta::add_full(
                        buffer.get_mut().unwrap(),
                        VideoFrameFlags::empty(),
                        VideoFormat::Rgb,
                        width,
                        height,
                        &[offset],
                        &[stride],
                    )
                    .unwrap();
                }
                stream.push(buffer);
            }
            let messages = stream.end();
            let what = format!("{width}x{height} at {offset} by {stride}, {bad:?}");
            assert!(messages.errors.is_empty(), "{what}: {messages:?}");
            assert_eq!(messages.descriptions().len(), 1, "{what}: {messages:?}");
            let dropped = messages.dropped();
            assert_eq!(dropped.len(), 1, "{what}: {messages:?}");
            assert!(
                ["unmappable", "error"].contains(&&*dropped[0]),
                "{what}: {dropped:?}"
            );
        }
    }
}

/// GStreamer maps by the meta with the least id, which need not be the first.
#[test]
fn a_meta_that_leads_out_of_its_buffer_behind_one_that_does_not() {
    let caps = format!("video/x-raw,format=RGB,{FIELDS}");
    let mut stream = Stream::new(&caps, "", hooks(echo(Duration::ZERO)));
    let row = SIZE.width as i32 * 3;
    for i in 0..80 {
        let mut buffer = Rgb::picture(SIZE.width, SIZE.height).buffer();
        let header = buffer.get_mut().unwrap();
        let worst = if i < 40 { row * 10_000 } else { row };
        for (id, stride) in [(1, row), (0, worst)] {
            let (flags, format) = (VideoFrameFlags::empty(), VideoFormat::Rgb);
            let (width, height) = (SIZE.width, SIZE.height);
            let mut meta =
                VideoMeta::add_full(header, flags, format, width, height, &[0], &[stride]).unwrap();
            // SAFETY: the meta is this buffer's, which is writable.
            unsafe { (*meta.as_mut_ptr()).id = id };
        }
        stream.push(buffer);
    }
    let messages = stream.end();
    assert!(messages.errors.is_empty(), "{messages:?}");
    assert_eq!(messages.dropped(), ["unmappable"]);
    assert_eq!(messages.descriptions().len(), 1);
}

/// Hooks whose worker waits until the flag falls.
fn gate(backend: Arc<dyn Backend>) -> (Hooks, Arc<AtomicBool>) {
    let closed = Arc::new(AtomicBool::new(true));
    let gate = closed.clone();
    let mut hooks = hooks(backend);
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || !gate.load(Ordering::SeqCst));
        }
    });
    (hooks, closed)
}

/// Without a screen Mesa draws in software, if it is told that there is none.
fn need_gl() {
    common::init();
    let pipeline = gst::parse::launch("gltestsrc num-buffers=1 ! fakesink").unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let timeout = gst::ClockTime::from_seconds(20);
    let end = pipeline.bus().unwrap().timed_pop_filtered(timeout, &ends);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(
        end.is_some_and(|end| end.type_() == gst::MessageType::Eos),
        "no OpenGL: run scripts/test, or set GST_GL_PLATFORM=egl GST_GL_WINDOW=egl-device"
    );
}

#[test]
fn gl_textures() {
    need_gl();
    let picture = Rgb::picture(SIZE.width, SIZE.height);
    for format in ["RGBA", "BGRx", "NV12", "I420"] {
        // Converted by shaders: the pixels are in the texture and nowhere else.
        let texture = format!(
            "glupload ! glcolorconvert ! \
             video/x-raw(memory:GLMemory),format={format},texture-target=2D"
        );
        let download = format!("{texture} ! gldownload ! video/x-raw ! {CONVERT}");
        let mut case = PictureCase::new(SIZE, "videoconvert ! video/x-raw,format=RGBA", &download);
        case.alone = &texture;
        let outcome = case.run(&picture.buffer());
        assert_eq!(outcome.off(), 0, "{format}");
        assert!(outcome.seen.mean_off(&picture.resized(outcome.seen.size)) < 40.0);
    }
}

#[test]
fn gl_textures_pass_to_gl_elements_and_are_copied_as_textures() {
    need_gl();
    let (hooks, closed) = gate(echo(Duration::ZERO));
    let run = Run::new(
        "gltestsrc num-buffers=80 pattern=smpte ! \
         video/x-raw(memory:GLMemory),format=RGBA,width=96,height=64,framerate=10/1 ! \
         qwenvl name=q overload=drop-oldest ! gleffects effect=mirror ! fakesink",
        hooks,
    );
    let pad = run.element.static_pad("src").unwrap();
    let passed = Arc::new(Mutex::new(Vec::new()));
    let log = passed.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let memory = info.buffer().unwrap().peek_memory(0);
        log.lock().unwrap().push(memory.is_type("GLMemoryPBO"));
        gst::PadProbeReturn::Ok
    });
    run.set_state(gst::State::Playing).unwrap();
    wait_until("the video", || passed.lock().unwrap().len() == 80);
    let stats: gst::Structure = run.element.property("stats");
    assert_eq!(stats.get::<u64>("copied"), Ok(7));
    closed.store(false, Ordering::SeqCst);
    let messages = run.finish();
    assert!(messages.errors.is_empty(), "{messages:?}");
    assert_eq!(*passed.lock().unwrap(), [true; 80]);
    assert!(!messages.descriptions().is_empty(), "{messages:?}");
}

//! The kinds of memory in which frames can be read, and the element to put in front for the others.
//!
//! Frames pass as they are. A sampled one is mapped by the worker with `gst_video_frame_map`, which
//! follows its `GstVideoMeta` through planes, strides and several memories; the memory's own map
//! does what its kind needs. On the list are the kinds whose source shows that a plain READ map
//! gives the pixels:
//!
//! - DMABuf: `gst_dmabuf_mem_map` brackets the access with `DMA_BUF_IOCTL_SYNC`, without which a
//!   CPU cache may show an older frame. With a modifier other than linear the pixels lie in an
//!   order that only the device knows.
//! - GL: `_map_data_gl` (gstglbasememory.c) reads the texture in the thread of its GL context,
//!   after what was drawn there; not the target `external-oes` (`_gl_mem_map`, gstglmemorypbo.c).
//! - CUDA: `cuda_mem_map` (gstcudamemory) copies to the host and waits for the copy.
//! - VA: `_va_map_unlocked` (gstvaallocator.c) gets an image of the surface; `vah264dec` and its
//!   kin copy frames to system memory by the same map.

use gst_video::{VideoCapsBuilder, VideoFormat, VideoInfo};

use super::strings::of_field;

const DMABUF: &str = "memory:DMABuf";
/// The format in caps of GStreamer 1.24 and newer that leave the format to the field below.
const DMA_DRM: &str = "DMA_DRM";
const DRM_FORMAT: &str = "drm-format";
const FORMAT: &str = "format";

/// Linear formats by their names in `drm-format`, as in `format_map` of GStreamer's
/// video-info-dma.c. DRM counts components from the lowest bit, GStreamer from the first byte.
const LINEAR: [(&str, VideoFormat); 42] = [
    ("YUYV", VideoFormat::Yuy2),
    ("YVYU", VideoFormat::Yvyu),
    ("UYVY", VideoFormat::Uyvy),
    ("VYUY", VideoFormat::Vyuy),
    ("AYUV", VideoFormat::Vuya),
    ("NV12", VideoFormat::Nv12),
    ("NV21", VideoFormat::Nv21),
    ("NV16", VideoFormat::Nv16),
    ("NV61", VideoFormat::Nv61),
    ("NV24", VideoFormat::Nv24),
    ("YUV9", VideoFormat::Yuv9),
    ("YVU9", VideoFormat::Yvu9),
    ("YU11", VideoFormat::Y41b),
    ("YU12", VideoFormat::I420),
    ("YV12", VideoFormat::Yv12),
    ("YU16", VideoFormat::Y42b),
    ("YU24", VideoFormat::Y444),
    ("XR15", VideoFormat::Rgb15),
    ("RG16", VideoFormat::Rgb16),
    ("BG16", VideoFormat::Bgr16),
    ("BG24", VideoFormat::Rgb),
    ("RG24", VideoFormat::Bgr),
    ("AB24", VideoFormat::Rgba),
    ("XB24", VideoFormat::Rgbx),
    ("AR24", VideoFormat::Bgra),
    ("XR24", VideoFormat::Bgrx),
    ("BA24", VideoFormat::Argb),
    ("BX24", VideoFormat::Xrgb),
    ("RA24", VideoFormat::Abgr),
    ("RX24", VideoFormat::Xbgr),
    ("Y410", VideoFormat::Y410),
    ("Y412", VideoFormat::Y412Le),
    ("Y210", VideoFormat::Y210),
    ("Y212", VideoFormat::Y212Le),
    ("NV15", VideoFormat::Nv1210le40),
    ("P010", VideoFormat::P01010le),
    ("P012", VideoFormat::P012Le),
    ("P016", VideoFormat::P016Le),
    ("AR30", VideoFormat::Bgr10a2Le),
    ("AB30", VideoFormat::Rgb10a2Le),
    ("R8  ", VideoFormat::Gray8),
    ("R16 ", VideoFormat::Gray16Le),
];

/// Caps of the memory that can be read, one structure for each kind.
fn all_readable() -> gst::Caps {
    let video = || gst::Caps::builder("video/x-raw");
    let dmabuf = || video().features([DMABUF]);
    [
        video().build(),
        dmabuf().field(FORMAT, gst::List::new(formats())).build(),
        dmabuf()
            .field(FORMAT, DMA_DRM)
            .field(DRM_FORMAT, gst::List::new(LINEAR.map(|(name, _)| name)))
            .build(),
        video()
            .features(["memory:GLMemory"])
            .field("texture-target", "2D")
            .build(),
        video().features(["memory:CUDAMemory"]).build(),
        video().features(["memory:VAMemory"]).build(),
    ]
    .into_iter()
    .collect()
}

/// Every raw format, in any memory. Unreadable memory is refused later, with an ERROR that says
/// what to do: a failed negotiation by template does not.
pub(super) fn template_caps() -> gst::Caps {
    let mut caps = VideoCapsBuilder::new().build();
    caps.merge(
        VideoCapsBuilder::new()
            .any_features()
            .field(FORMAT, gst::List::new(formats().chain([DMA_DRM])))
            .build(),
    );
    caps
}

fn formats() -> impl Iterator<Item = &'static str> {
    VideoFormat::iter_raw().map(|format| format.to_str().as_str())
}

/// Whether a feature says nothing of the memory: `meta:` announces what travels with the buffer,
/// `format:Interlaced` are fields, each in a buffer of its own.
fn aside(feature: &str) -> bool {
    feature == "format:Interlaced" || feature.starts_with("meta:")
}

/// The part of the caps whose frames can be read, in the same order.
pub(super) fn readable(caps: &gst::CapsRef) -> gst::Caps {
    let all = all_readable();
    let definite = caps
        .iter_with_features()
        .filter(|(_, features)| !features.is_any());
    definite
        .flat_map(|(structure, features)| {
            let memory = features.iter().filter(|feature| !aside(feature)).collect();
            let alone = gst::Caps::builder_full()
                .structure_with_features(structure.to_owned(), memory)
                .build();
            let part = alone.intersect_with_mode(&all, gst::CapsIntersectMode::First);
            let part: Vec<_> = part.iter().map(ToOwned::to_owned).collect();
            part.into_iter().map(|s| (s, features.to_owned()))
        })
        .collect()
}

/// The part of the caps whose frames are in system memory.
pub(super) fn of_the_system(caps: &gst::CapsRef) -> gst::Caps {
    let system = |features: &gst::CapsFeaturesRef| {
        !features.is_any()
            && features
                .iter()
                .all(|f| aside(f) || f == "memory:SystemMemory")
    };
    caps.iter_with_features()
        .filter(|(_, features)| system(features))
        .map(|(structure, features)| (structure.to_owned(), features.to_owned()))
        .collect()
}

/// Why frames with these caps cannot be described, and what to do about it.
pub(super) fn refusal(caps: &gst::CapsRef) -> Option<String> {
    if !readable(caps).is_empty() {
        return None;
    }
    let (structure, features) = caps.iter_with_features().next()?;
    let memory = features.iter().find(|feature| !aside(feature))?;
    let element = match memory.as_str() {
        DMABUF => "vapostproc, or glupload ! gldownload,",
        "memory:GLMemory" => "glcolorconvert ! gldownload",
        "memory:VASurface" => "vaapipostproc",
        "memory:NVMM" => "nvvideoconvert",
        "memory:VulkanImage" => "vulkandownload",
        "memory:D3D11Memory" => "d3d11download",
        "memory:D3D12Memory" => "d3d12download",
        _ => "an element that downloads to system memory",
    };
    let kind = [DRM_FORMAT, "texture-target"]
        .into_iter()
        .find_map(|field| Some(format!(" ({field}={})", of_field(structure, field)?)));
    Some(format!(
        "Frames in {memory}{} cannot be read: put {element} and the caps filter video/x-raw \
         in front",
        kind.unwrap_or_default()
    ))
}

/// How frames with these caps, which can be read, lie in their memory.
pub(super) fn layout(caps: &gst::CapsRef) -> Result<VideoInfo, gst::glib::BoolError> {
    let name = caps.structure(0).and_then(|s| of_field(s, DRM_FORMAT));
    let linear = LINEAR
        .iter()
        .find(|(linear, _)| name.as_deref() == Some(*linear));
    let Some((_, format)) = linear else {
        return VideoInfo::from_caps(caps);
    };
    let mut caps = caps.to_owned();
    for structure in caps.make_mut().iter_mut() {
        structure.set(FORMAT, format.to_str());
        structure.remove_field(DRM_FORMAT);
    }
    VideoInfo::from_caps(&caps)
}

//! Converts a buffer of any format to RGB at the size of the model's input.

use std::sync::Arc;

use gst_video::prelude::*;
use gst_video::{
    VideoColorMatrix, VideoColorRange, VideoColorimetry, VideoConverter, VideoCropMeta,
    VideoFormat, VideoFrame, VideoFrameRef, VideoInfo, VideoInterlaceMode, VideoOrientationMethod,
    video_frame,
};
use qwen3_vl_core::frames::{ResizeError, Rounding, Size, resize};

use super::geometry::{Geometry, Orientation, Rect};
use super::planes;
use crate::qwenvl::sample::Sample;

/// Why a frame cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    #[error("cannot convert {0:?} to RGB")]
    Format(VideoFormat),
    #[error("cannot map a buffer of {bytes} bytes as {format:?} video")]
    Map { bytes: usize, format: VideoFormat },
    #[error(
        "the buffer's GstVideoMeta tells of {}x{} pixels that do not lie in its {bytes} bytes: \
         mend the element in front that made it",
        size.width, size.height
    )]
    Layout { bytes: usize, size: Size },
    #[error(transparent)]
    Resize(#[from] ResizeError),
}

/// Size of the frame, or field, in memory, which may be larger than in the caps.
fn coded(sample: &Sample) -> Size {
    let info = &sample.info;
    let meta = planes::video_meta(sample.frame.buffer());
    meta.map_or(
        Size {
            width: info.width(),
            height: info.field_height(),
        },
        |meta| Size {
            width: meta.width(),
            height: meta.height(),
        },
    )
}

/// The frame's crop, pixel aspect ratio and orientation.
fn geometry(sample: &Sample) -> Geometry {
    let info = &sample.info;
    let crop = sample.frame.buffer().meta::<VideoCropMeta>();
    let (x, y, width, height) = crop.map_or((0, 0, info.width(), info.field_height()), |crop| {
        crop.rect()
    });
    let part = Rect {
        x,
        y,
        size: Size { width, height },
    };
    let par = info.par();
    let [n, d] = [par.numer(), par.denom()].map(|v| u32::try_from(v).unwrap_or(0));
    // The rows of a field are two rows of the picture apart.
    let rows = if is_field(info) { 2 } else { 1 };
    let orientation = sample.orientation.map(Orientation::from);
    Geometry::new(
        coded(sample),
        part,
        (n, d.saturating_mul(rows)),
        orientation.unwrap_or_default(),
    )
}

/// Whether a buffer holds one field.
fn is_field(info: &VideoInfo) -> bool {
    info.interlace_mode() == VideoInterlaceMode::Alternate
}

impl From<VideoOrientationMethod> for Orientation {
    fn from(method: VideoOrientationMethod) -> Self {
        use VideoOrientationMethod as Method;
        let (transpose, flip_x, flip_y) = match method {
            Method::_90r => (true, false, true),
            Method::_180 => (false, true, true),
            Method::_90l => (true, true, false),
            Method::Horiz => (false, true, false),
            Method::Vert => (false, false, true),
            Method::UlLr => (true, false, false),
            Method::UrLl => (true, true, true),
            // No tag gives another method.
            _ => (false, false, false),
        };
        Self {
            transpose,
            flip_x,
            flip_y,
        }
    }
}

/// Converts frames to RGB; keeps the converter of the last format.
#[derive(Default)]
pub(super) struct Converter {
    current: Option<Current>,
}

struct Current {
    /// The caps' info, and the size of the frames in memory.
    key: (Arc<VideoInfo>, Size),
    from: VideoInfo,
    converter: VideoConverter,
    rgb: VideoFrame<video_frame::Writable>,
}

/// Layout of a frame of size `coded` in memory.
fn layout(info: &VideoInfo, coded: Size) -> Option<VideoInfo> {
    let mode = match info.interlace_mode() {
        // A single field has no rows of the other between its own.
        VideoInterlaceMode::Alternate => VideoInterlaceMode::Progressive,
        mode => mode,
    };
    VideoInfo::builder(info.format(), coded.width, coded.height)
        .interlace_mode(mode)
        .colorimetry(&info.colorimetry())
        .chroma_site(info.chroma_site())
        .build()
        .ok()
}

fn check(buffer: &gst::BufferRef, layout: &VideoInfo) -> Result<(), PictureError> {
    if planes::lie_in_memory(buffer, layout) {
        return Ok(());
    }
    let size = Size {
        width: layout.width(),
        height: layout.height(),
    };
    let (bytes, format) = (buffer.size(), layout.format());
    match planes::video_meta(buffer) {
        Some(_) => Err(PictureError::Layout { bytes, size }),
        None => Err(PictureError::Map { bytes, format }),
    }
}

impl Current {
    fn new(key: (Arc<VideoInfo>, Size), from: VideoInfo) -> Option<Self> {
        let coded = key.1;
        let mode = from.interlace_mode();
        // As `videoconvert` does it: the matrix and the range change, primaries and transfer stay.
        let colorimetry = VideoColorimetry::new(
            VideoColorRange::Range0_255,
            VideoColorMatrix::Rgb,
            from.colorimetry().transfer(),
            from.colorimetry().primaries(),
        );
        let to = VideoInfo::builder(VideoFormat::Rgb, coded.width, coded.height)
            .interlace_mode(mode)
            .colorimetry(&colorimetry)
            .build()
            .ok()?;
        let converter = VideoConverter::new(&from, &to, None).ok()?;
        let buffer = gst::Buffer::with_size(to.size()).ok()?;
        let rgb = VideoFrame::from_buffer_writable(buffer, &to).ok()?;
        Some(Self {
            key,
            from,
            converter,
            rgb,
        })
    }
}

impl Converter {
    /// Packed RGB of the cropped and turned frame, at its size in memory.
    fn upright(&mut self, sample: &Sample, geometry: &Geometry) -> Result<Vec<u8>, PictureError> {
        let format = sample.info.format();
        let buffer = sample.frame.buffer();
        let key = (sample.info.clone(), coded(sample));
        let current = match self.current.take() {
            Some(current) if current.key == key => current,
            _ => {
                let from = layout(&key.0, key.1).ok_or(PictureError::Format(format))?;
                // Before a converter and memory are made for a size that the buffer does not have.
                check(buffer, &from)?;
                Current::new(key, from).ok_or(PictureError::Format(format))?
            }
        };
        check(buffer, &current.from)?;
        let Current {
            from,
            converter,
            rgb,
            ..
        } = self.current.insert(current);
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, from).map_err(|_| {
            PictureError::Map {
                bytes: buffer.size(),
                format,
            }
        })?;
        converter.frame_ref(&frame, &mut rgb.as_mut_video_frame_ref());
        // The stride of memory that we allocate is positive.
        let stride = rgb.plane_stride().first();
        let stride = stride.and_then(|stride| usize::try_from(*stride).ok());
        let stride = stride.unwrap_or(0);
        Ok(geometry.upright(rgb.plane_data(0).unwrap_or_default(), stride))
    }
}

/// A size with its rounding, and the packed RGB of that size.
type Resized = ((Size, Rounding), Arc<[u8]>);

/// A frame that is converted when the first window needs it, and resized once for each size.
pub(super) struct Picture<'a> {
    sample: &'a Sample,
    geometry: Geometry,
    upright: Option<Vec<u8>>,
    sizes: Vec<Resized>,
}

impl<'a> Picture<'a> {
    pub(super) fn new(sample: &'a Sample) -> Self {
        Self {
            sample,
            geometry: geometry(sample),
            upright: None,
            sizes: Vec::new(),
        }
    }

    /// Size of the picture in square pixels.
    pub(super) fn shown(&self) -> Size {
        self.geometry.shown()
    }

    /// Packed RGB at this size and rounding. The same resize makes the pixels square, so that no
    /// frame is resized twice.
    pub(super) fn at(
        &mut self,
        to: (Size, Rounding),
        converter: &mut Converter,
    ) -> Result<Arc<[u8]>, PictureError> {
        if let Some((_, rgb)) = self.sizes.iter().find(|(size, _)| *size == to) {
            return Ok(rgb.clone());
        }
        let rgb = match &self.upright {
            Some(rgb) => rgb,
            None => self
                .upright
                .insert(converter.upright(self.sample, &self.geometry)?),
        };
        let resized: Arc<[u8]> = resize(rgb, self.geometry.upright_size(), to.0, to.1)?.into();
        self.sizes.push((to, resized.clone()));
        Ok(resized)
    }
}

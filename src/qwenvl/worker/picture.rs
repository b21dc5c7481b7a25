//! From a buffer in any format to RGB at the size that the model will see.

use std::sync::Arc;

use gst_video::prelude::*;
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoInfo, video_frame};
use qwen3_vl::frames::{ResizeError, Size, resize_rgb};

use crate::qwenvl::sample::Sample;

/// Why a frame cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    #[error("cannot convert {0:?} to RGB")]
    Format(VideoFormat),
    #[error("cannot map a buffer of {bytes} bytes as {format:?} video")]
    Map { bytes: usize, format: VideoFormat },
    #[error(transparent)]
    Resize(#[from] ResizeError),
}

/// Size of a video in pixels.
pub(super) fn size(info: &VideoInfo) -> Size {
    Size {
        width: info.width(),
        height: info.height(),
    }
}

/// Converts frames to RGB; keeps what it needs for the format that it saw last.
#[derive(Default)]
pub(super) struct Converter {
    current: Option<Current>,
}

struct Current {
    from: Arc<VideoInfo>,
    converter: VideoConverter,
    rgb: VideoFrame<video_frame::Writable>,
}

impl Current {
    fn new(from: Arc<VideoInfo>) -> Option<Self> {
        let to = VideoInfo::builder(VideoFormat::Rgb, from.width(), from.height())
            .fps(from.fps())
            .interlace_mode(from.interlace_mode())
            .build()
            .ok()?;
        let converter = VideoConverter::new(&from, &to, None).ok()?;
        let buffer = gst::Buffer::with_size(to.size()).ok()?;
        let rgb = VideoFrame::from_buffer_writable(buffer, &to).ok()?;
        Some(Self {
            from,
            converter,
            rgb,
        })
    }
}

impl Converter {
    /// Packed RGB of the frame, at its own size.
    fn rgb(&mut self, sample: &Sample) -> Result<Vec<u8>, PictureError> {
        let info = &sample.info;
        let unknown = PictureError::Format(info.format());
        let current = match self.current.take() {
            Some(current) if current.from == *info => current,
            _ => Current::new(info.clone()).ok_or(unknown)?,
        };
        let Current { converter, rgb, .. } = self.current.insert(current);
        let buffer = sample.frame.buffer();
        let frame =
            gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| {
                PictureError::Map {
                    bytes: buffer.size(),
                    format: info.format(),
                }
            })?;
        converter.frame_ref(&frame, &mut rgb.as_mut_video_frame_ref());
        let row = info.width() as usize * 3;
        let stride = usize::try_from(rgb.plane_stride()[0]).unwrap_or(row);
        let mut packed = Vec::with_capacity(row * info.height() as usize);
        for line in rgb.plane_data(0).unwrap_or_default().chunks(stride.max(1)) {
            packed.extend_from_slice(line.get(..row).unwrap_or(line));
        }
        Ok(packed)
    }
}

/// A frame that is converted when the first window wants it, and resized once for each size.
pub(super) struct Picture<'a> {
    sample: &'a Sample,
    rgb: Option<Vec<u8>>,
    sizes: Vec<(Size, Arc<[u8]>)>,
}

impl<'a> Picture<'a> {
    pub(super) fn new(sample: &'a Sample) -> Self {
        Self {
            sample,
            rgb: None,
            sizes: Vec::new(),
        }
    }

    /// Packed RGB at this size.
    pub(super) fn at(
        &mut self,
        to: Size,
        converter: &mut Converter,
    ) -> Result<Arc<[u8]>, PictureError> {
        if let Some((_, rgb)) = self.sizes.iter().find(|(size, _)| *size == to) {
            return Ok(rgb.clone());
        }
        let rgb = match &self.rgb {
            Some(rgb) => rgb,
            None => self.rgb.insert(converter.rgb(self.sample)?),
        };
        let resized: Arc<[u8]> = resize_rgb(rgb, size(&self.sample.info), to)?.into();
        self.sizes.push((to, resized.clone()));
        Ok(resized)
    }
}

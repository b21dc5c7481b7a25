//! Whether the planes of a `GstVideoMeta` lie in the buffer's memory. The meta may come from
//! another process (`unixfdsrc`), and `gst_video_frame_map` does not check it.

use gst::MetaRef;
use gst_video::{VideoFormatInfo, VideoInfo, VideoMeta};

/// One plane, in bytes.
#[derive(Clone, Copy, Debug)]
struct Plane {
    /// Offset of the first row from the start of the buffer.
    offset: usize,
    /// Distance of rows; negative if they are in reverse order.
    stride: i32,
    /// Bytes that are read of a row.
    row: usize,
    rows: usize,
}

impl Plane {
    /// Whether all rows lie in a memory of `size` bytes, in which the first begins at `at`.
    fn fits(&self, at: usize, size: usize) -> bool {
        let step = self.stride.unsigned_abs() as usize;
        if step < self.row {
            return false;
        }
        let Some(span) = step.checked_mul(self.rows.saturating_sub(1)) else {
            return false;
        };
        let (before, behind) = if self.stride < 0 {
            (span, 0)
        } else {
            (0, span)
        };
        let end = at
            .checked_add(behind)
            .and_then(|last| last.checked_add(self.row));
        before <= at && end.is_some_and(|end| end <= size)
    }
}

/// The meta that a mapping uses: of several the one with the least id
/// (`gst_buffer_get_video_meta`).
pub(super) fn video_meta(buffer: &gst::BufferRef) -> Option<MetaRef<'_, VideoMeta>> {
    let metas = buffer.iter_meta::<VideoMeta>();
    metas.min_by_key(|meta| (meta.id() != 0, meta.id()))
}

/// Whether a frame of the layout `info`, whose size is the meta's, can be read with the planes of
/// the buffer's meta. Without a meta, whether the buffer has `info`'s size.
pub(super) fn lie_in_memory(buffer: &gst::BufferRef, info: &VideoInfo) -> bool {
    let Some(meta) = video_meta(buffer) else {
        return buffer.size() >= info.size();
    };
    let planes = info.n_planes();
    if meta.format() != info.format() || meta.n_planes() != planes {
        return false;
    }
    let starts = meta.offset().iter().zip(meta.stride()).enumerate();
    starts.into_iter().all(|(index, (offset, stride))| {
        plane(info, index, *offset, *stride).is_some_and(|plane| is_in_one_memory(buffer, &plane))
    })
}

/// Whether the plane lies in the memory of its first byte, from which the mapping reads it.
fn is_in_one_memory(buffer: &gst::BufferRef, plane: &Plane) -> bool {
    let Some(last) = plane.offset.checked_add(1) else {
        return false;
    };
    let Some((memories, skip)) = buffer.find_memory(plane.offset..last) else {
        return false;
    };
    let size = buffer.peek_memory(memories.start).size();
    plane.fits(skip, size)
}

fn plane(info: &VideoInfo, index: usize, offset: usize, stride: i32) -> Option<Plane> {
    let format = info.format_info();
    let own = *info.stride().get(index)?;
    let default = usize::try_from(own).ok()?;
    if format.has_palette() && index > 0 {
        // The stride is that of one component; all are read.
        let size = plane_size(info, index);
        return Some(Plane {
            offset,
            stride: i32::try_from(size).ok()?,
            row: size,
            rows: 1,
        });
    }
    if format.is_tiled() {
        // The stride counts tiles.
        let size = plane_size(info, index);
        return (stride == own).then_some(Plane {
            offset,
            stride: i32::try_from(size).ok()?,
            row: size,
            rows: 1,
        });
    }
    let laid_out = plane_size(info, index).checked_div(default)?;
    let (row, rows) = match format.is_complex() {
        true => (default, laid_out),
        false => packed(&format, info, index),
    };
    // The chroma rows of two fields alternate, and one row after the last may be read.
    let rows = match info.is_interlaced() {
        true => rows.max(laid_out),
        false => rows,
    };
    Some(Plane {
        offset,
        stride,
        row,
        rows,
    })
}

/// Bytes of a plane in GStreamer's default layout.
fn plane_size(info: &VideoInfo, index: usize) -> usize {
    let end = info.offset().get(index.saturating_add(1)).copied();
    let end = end.filter(|_| index.saturating_add(1) < info.n_planes() as usize);
    let end = end.unwrap_or(info.size());
    end.saturating_sub(info.offset().get(index).copied().unwrap_or(0))
}

/// Bytes of a row and rows of a plane, without padding.
fn packed(format: &VideoFormatInfo, info: &VideoInfo, index: usize) -> (usize, usize) {
    let mut size = (0, 0);
    let components = (0_u8..).zip(format.plane().iter().zip(format.pixel_stride()));
    for (component, (_, step)) in components.filter(|(_, (plane, _))| **plane as usize == index) {
        let width = format.scale_width(component, info.width()) as usize;
        let height = format.scale_height(component, info.height()) as usize;
        let step = usize::try_from(*step).unwrap_or(0);
        size = (size.0.max(width.saturating_mul(step)), size.1.max(height));
    }
    size
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use gst_video::{VideoFormat, VideoFrameFlags};

    use super::*;

    /// Whether a frame of 96x64 of this format can be read from a buffer of `size` bytes.
    fn reads(format: VideoFormat, size: usize, offset: &[usize], stride: &[i32]) -> bool {
        gst::init().unwrap();
        let info = VideoInfo::builder(format, 96, 64).build().unwrap();
        let mut buffer = gst::Buffer::with_size(size).unwrap();
        VideoMeta::add_full(
            buffer.get_mut().unwrap(),
            VideoFrameFlags::empty(),
            format,
            96,
            64,
            offset,
            stride,
        )
        .unwrap();
        lie_in_memory(&buffer, &info)
    }

    #[test]
    fn packed_rows() {
        let rgb = |size, offset, stride| reads(VideoFormat::Rgb, size, &[offset], &[stride]);
        assert!(rgb(96 * 64 * 3, 0, 288));
        assert!(!rgb(96 * 64 * 3 - 1, 0, 288));
        assert!(!rgb(96 * 64 * 3, 1, 288));
        assert!(!rgb(96 * 64 * 3, 0, 289));
        assert!(rgb(300 * 63 + 288, 0, 300), "the last row needs no padding");
        assert!(!rgb(300 * 63 + 287, 0, 300));
        assert!(!rgb(1 << 20, 0, 287), "rows that lie in each other");
        assert!(!rgb(1 << 20, 0, 0));
        assert!(!rgb(1 << 20, 0, i32::MAX));
        assert!(!rgb(1 << 20, 0, i32::MIN));
        assert!(!rgb(1 << 20, usize::MAX, 288));
        assert!(!rgb(1 << 20, (1 << 20) - 1, 288));
        assert!(rgb(288 * 64, 288 * 63, -288), "upside down");
        assert!(!rgb(288 * 64, 288 * 62, -288));
    }

    #[test]
    fn several_planes() {
        let i420 = |size, u, v| reads(VideoFormat::I420, size, &[0, u, v], &[96, 48, 48]);
        assert!(i420(96 * 96, 96 * 64, 96 * 80));
        assert!(!i420(96 * 96 - 1, 96 * 64, 96 * 80));
        assert!(!i420(96 * 96, 96 * 90, 96 * 80));
        let nv12 = |size| reads(VideoFormat::Nv12, size, &[0, 96 * 64], &[96, 96]);
        assert!(nv12(96 * 96));
        assert!(!nv12(96 * 96 - 1));
    }

    /// Of 66 rows there are 33 of chroma, which two fields share as 34: the last one is read too.
    #[test]
    fn chroma_of_two_fields_is_read_in_pairs_of_rows() {
        use gst_video::VideoInterlaceMode as Mode;
        gst::init().unwrap();
        let reads = |mode, rows: usize| {
            let builder = VideoInfo::builder(VideoFormat::I420, 96, 66);
            let info = builder.interlace_mode(mode).build().unwrap();
            let (u, v) = (96 * 66, 96 * 66 + 48 * 34);
            let mut buffer = gst::Buffer::with_size(v + 48 * rows).unwrap();
            VideoMeta::add_full(
                buffer.get_mut().unwrap(),
                VideoFrameFlags::empty(),
                VideoFormat::I420,
                96,
                66,
                &[0, u, v],
                &[96, 48, 48],
            )
            .unwrap();
            lie_in_memory(&buffer, &info)
        };
        assert!(reads(Mode::Progressive, 33));
        assert!(!reads(Mode::Progressive, 32));
        assert!(reads(Mode::Interleaved, 34));
        assert!(!reads(Mode::Interleaved, 33));
    }

    #[test]
    fn format_and_tiles_are_those_of_the_caps() {
        gst::init().unwrap();
        let reads = |of: VideoFormat, said: VideoFormat, more: i32| {
            let info = VideoInfo::builder(of, 96, 64).build().unwrap();
            let planes = info.n_planes() as usize;
            let strides: Vec<i32> = info.stride()[..planes].iter().map(|s| s + more).collect();
            let mut buffer = gst::Buffer::with_size(4 * info.size()).unwrap();
            VideoMeta::add_full(
                buffer.get_mut().unwrap(),
                VideoFrameFlags::empty(),
                said,
                96,
                64,
                &info.offset()[..planes],
                &strides,
            )
            .unwrap();
            lie_in_memory(&buffer, &info)
        };
        assert!(reads(VideoFormat::Rgb, VideoFormat::Rgb, 4));
        assert!(!reads(VideoFormat::Rgb, VideoFormat::Bgr, 0));
        // A stride in tiles is a count of them in both directions.
        assert!(reads(VideoFormat::Nv1264z32, VideoFormat::Nv1264z32, 0));
        assert!(!reads(VideoFormat::Nv1264z32, VideoFormat::Nv1264z32, 1));
    }

    #[test]
    fn of_several_metas_the_one_that_is_mapped_counts() {
        gst::init().unwrap();
        let info = VideoInfo::builder(VideoFormat::Rgb, 96, 64)
            .build()
            .unwrap();
        for (ids, mapped) in [
            ([1, 0], 1),
            ([0, 1], 0),
            ([2, 1], 1),
            ([1, 2], 0),
            ([-1, 0], 1),
            ([0, 0], 0),
        ] {
            // The offset tells them apart.
            let read = |offsets: [usize; 2]| {
                let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
                let header = buffer.get_mut().unwrap();
                for (id, offset) in ids.into_iter().zip(offsets) {
                    let (flags, format) = (VideoFrameFlags::empty(), VideoFormat::Rgb);
                    let meta =
                        VideoMeta::add_full(header, flags, format, 96, 64, &[offset], &[288]);
                    let mut meta = meta.unwrap();
                    // SAFETY: the meta is this buffer's, which is writable.
                    unsafe { (*meta.as_mut_ptr()).id = id };
                }
                // SAFETY: the buffer lives for the call.
                let gstreamer = unsafe {
                    let meta = gst_video::ffi::gst_buffer_get_video_meta(buffer.as_mut_ptr());
                    (*meta).offset[0]
                };
                assert_eq!(gstreamer, offsets[mapped], "{ids:?}");
                assert_eq!(video_meta(&buffer).unwrap().id(), ids[mapped]);
                lie_in_memory(&buffer, &info)
            };
            let (mut good, mut bad) = ([1, 1], [0, 0]);
            (good[mapped], bad[mapped]) = (0, 1);
            assert!(read(good), "{ids:?}");
            assert!(!read(bad), "{ids:?}");
        }
    }

    #[test]
    fn without_a_meta_the_size_counts() {
        gst::init().unwrap();
        let info = VideoInfo::builder(VideoFormat::I420, 96, 64)
            .build()
            .unwrap();
        let reads = |size| lie_in_memory(&gst::Buffer::with_size(size).unwrap(), &info);
        assert!(reads(96 * 96));
        assert!(!reads(96 * 96 - 1));
    }

    #[test]
    fn what_gstreamer_lays_out_itself_is_read() {
        gst::init().unwrap();
        for format in VideoFormat::iter_raw() {
            let info = VideoInfo::builder(format, 97, 65).build().unwrap();
            let add = |size: usize| {
                let mut buffer = gst::Buffer::with_size(size).unwrap();
                let planes = info.n_planes() as usize;
                VideoMeta::add_full(
                    buffer.get_mut().unwrap(),
                    VideoFrameFlags::empty(),
                    format,
                    97,
                    65,
                    &info.offset()[..planes],
                    &info.stride()[..planes],
                )
                .unwrap();
                lie_in_memory(&buffer, &info)
            };
            assert!(add(info.size()), "{format:?}");
            assert!(!add(info.size() / 2), "{format:?}");
        }
    }
}

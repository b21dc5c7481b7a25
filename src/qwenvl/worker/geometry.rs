//! The picture that a frame shows: cropped, in square pixels, upright.
//!
//! In this order, as in a player: crop and pixel aspect ratio refer to the frame in memory. Numbers
//! and bytes only, so that every rule is tested without a pipeline.

use qwen3_vl_core::frames::Size;

/// A part of a frame, in pixels from its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) size: Size,
}

/// One of the eight rotations and mirrorings of a picture.
///
/// The pixel at (x, y) of the result is that at (y, x) of the source if `transpose`, else at (x,
/// y); then counted from the far side along each axis of the source that is flipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orientation {
    pub(super) transpose: bool,
    pub(super) flip_x: bool,
    pub(super) flip_y: bool,
}

impl Orientation {
    /// Size of a picture of `size` after turning.
    fn turn(self, size: Size) -> Size {
        if self.transpose {
            Size {
                width: size.height,
                height: size.width,
            }
        } else {
            size
        }
    }

    /// Position, in a source of `width` and `height`, of the result's pixel (x, y).
    fn source(self, x: usize, y: usize, width: usize, height: usize) -> (usize, usize) {
        let (x, y) = if self.transpose { (y, x) } else { (x, y) };
        (
            if self.flip_x { width - 1 - x } else { x },
            if self.flip_y { height - 1 - y } else { y },
        )
    }
}

/// Crop, pixel aspect ratio and orientation of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    part: Rect,
    /// Width of a pixel over its height.
    par: (u32, u32),
    orientation: Orientation,
}

impl Geometry {
    /// Geometry of a frame of size `coded` in memory, of which `part` is shown. `part` is cut to
    /// the frame and ignored if nothing is left; a pixel aspect ratio with a zero counts as 1:1.
    pub(super) fn new(coded: Size, part: Rect, par: (u32, u32), orientation: Orientation) -> Self {
        let size = Size {
            width: part.size.width.min(coded.width.saturating_sub(part.x)),
            height: part.size.height.min(coded.height.saturating_sub(part.y)),
        };
        let part = if size.width == 0 || size.height == 0 {
            Rect {
                x: 0,
                y: 0,
                size: coded,
            }
        } else {
            Rect { size, ..part }
        };
        let par = if par.0 == 0 || par.1 == 0 {
            (1, 1)
        } else {
            par
        };
        Self {
            part,
            par,
            orientation,
        }
    }

    /// Size of the picture in square pixels. One side grows and none shrinks, so that no pixel is
    /// lost.
    pub(super) fn shown(&self) -> Size {
        let Size { width, height } = self.part.size;
        let (n, d) = self.par;
        let square = if n > d {
            Size {
                width: scale(width, n, d),
                height,
            }
        } else {
            Size {
                width,
                height: scale(height, d, n),
            }
        };
        self.orientation.turn(square)
    }

    /// Size of the result of [`Self::upright`]: pixels as they are in memory.
    pub(super) fn upright_size(&self) -> Size {
        self.orientation.turn(self.part.size)
    }

    /// The part, turned, as packed RGB. `frame` is the whole frame in RGB with rows of `stride`
    /// bytes; pixels beyond its end are left out.
    pub(super) fn upright(&self, frame: &[u8], stride: usize) -> Vec<u8> {
        let side = |v: u32| v as usize;
        let (left, top) = (side(self.part.x), side(self.part.y));
        let (width, height) = (side(self.part.size.width), side(self.part.size.height));
        let mut upright = Vec::with_capacity(width * height * 3);
        if self.orientation == Orientation::default() {
            for row in frame.chunks(stride.max(1)).skip(top).take(height) {
                let part = row.get(left * 3..(left + width) * 3);
                upright.extend_from_slice(part.unwrap_or_default());
            }
            return upright;
        }
        let to = self.upright_size();
        for y in 0..side(to.height) {
            for x in 0..side(to.width) {
                let (x, y) = self.orientation.source(x, y, width, height);
                let at = (top + y) * stride + (left + x) * 3;
                upright.extend_from_slice(frame.get(at..at + 3).unwrap_or_default());
            }
        }
        upright
    }
}

/// `side * n / d`, rounded.
fn scale(side: u32, n: u32, d: u32) -> u32 {
    let (side, n, d) = (u64::from(side), u64::from(n), u64::from(d));
    u32::try_from((side * n + d / 2) / d).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn orientation(bits: u8) -> Orientation {
        Orientation {
            transpose: bits & 1 != 0,
            flip_x: bits & 2 != 0,
            flip_y: bits & 4 != 0,
        }
    }

    const RIGHT: Orientation = orientation(0b101);
    const LEFT: Orientation = orientation(0b011);

    fn orientations() -> impl Strategy<Value = Orientation> {
        (0u8..8).prop_map(orientation)
    }

    fn sizes() -> impl Strategy<Value = Size> {
        (1u32..12, 1u32..12).prop_map(|(width, height)| Size { width, height })
    }

    fn whole(size: Size) -> Rect {
        Rect { x: 0, y: 0, size }
    }

    /// A picture whose pixels are all different.
    fn picture(size: Size) -> Vec<u8> {
        let pixels = 0..size.height as u8;
        pixels
            .flat_map(|y| (0..size.width as u8).flat_map(move |x| [x, y, x ^ y]))
            .collect()
    }

    fn turned(size: Size, rgb: &[u8], orientation: Orientation) -> (Size, Vec<u8>) {
        let geometry = Geometry::new(size, whole(size), (1, 1), orientation);
        let rgb = geometry.upright(rgb, size.width as usize * 3);
        (geometry.upright_size(), rgb)
    }

    fn after(size: Size, steps: &[Orientation]) -> (Size, Vec<u8>) {
        let start = (size, picture(size));
        steps
            .iter()
            .fold(start, |(size, rgb), step| turned(size, &rgb, *step))
    }

    #[test]
    fn clockwise_puts_the_first_column_on_top() {
        // a b      e c a
        // c d  ->  f d b
        // e f
        let size = Size {
            width: 2,
            height: 3,
        };
        let rgb: Vec<u8> = b"abcdef".iter().flat_map(|c| [*c; 3]).collect();
        let (to, rgb) = turned(size, &rgb, RIGHT);
        assert_eq!((to.width, to.height), (3, 2));
        let pixels: Vec<u8> = rgb.iter().step_by(3).copied().collect();
        assert_eq!(pixels, b"ecafdb");
    }

    #[test]
    fn a_part_outside_of_the_frame_is_none() {
        let coded = Size {
            width: 8,
            height: 4,
        };
        let none = Rect {
            x: 8,
            y: 0,
            size: coded,
        };
        let geometry = Geometry::new(coded, none, (0, 1), Orientation::default());
        assert_eq!(geometry.shown(), coded);
    }

    proptest! {
        #[test]
        fn turns_make_a_group(size in sizes()) {
            let same = (size, picture(size));
            prop_assert_eq!(&after(size, &[RIGHT; 4]), &same);
            prop_assert_eq!(&after(size, &[RIGHT, LEFT]), &same);
            let half = after(size, &[RIGHT, RIGHT]);
            prop_assert_eq!(half, after(size, &[orientation(0b110)]));
            // A mirror, and any turn of it, is its own inverse.
            for mirror in [0b010, 0b100, 0b001, 0b111].map(orientation) {
                prop_assert_eq!(&after(size, &[mirror, mirror]), &same);
            }
            let main = after(size, &[orientation(0b010), LEFT]);
            prop_assert_eq!(main, after(size, &[orientation(0b001)]));
        }

        #[test]
        fn turning_keeps_every_pixel(size in sizes(), orientation in orientations()) {
            let (to, rgb) = after(size, &[orientation]);
            let sorted = |rgb: &[u8]| {
                let mut pixels: Vec<_> = rgb.chunks(3).map(<[u8]>::to_vec).collect();
                pixels.sort();
                pixels
            };
            prop_assert_eq!(sorted(&rgb), sorted(&picture(size)));
            prop_assert_eq!(to.width == size.width || orientation.transpose, true);
        }

        #[test]
        fn the_part_is_cut_before_it_is_turned(
            size in sizes(), x in 0u32..12, y in 0u32..12, part in sizes(),
            padding in 0usize..5, orientation in orientations(),
        ) {
            let part = Rect { x, y, size: part };
            let row = size.width as usize * 3;
            let frame: Vec<u8> = picture(size)
                .chunks(row)
                .flat_map(|line| line.iter().copied().chain(std::iter::repeat_n(255, padding)))
                .collect();
            let geometry = Geometry::new(size, part, (1, 1), orientation);
            let cut = Geometry { orientation: Orientation::default(), ..geometry };
            let (from, rgb) = (cut.upright_size(), cut.upright(&frame, row + padding));
            prop_assert_eq!(
                turned(from, &rgb, orientation),
                (geometry.upright_size(), geometry.upright(&frame, row + padding))
            );
            // The first pixel, unless the part was none.
            if x < size.width && y < size.height {
                prop_assert_eq!(&rgb[..2], &[x as u8, y as u8]);
                prop_assert!(from.width <= part.size.width && from.height <= part.size.height);
            }
        }

        #[test]
        fn pixels_become_square_and_none_is_lost(
            width in 1u32..8192, height in 1u32..8192, n in 1u32..500, d in 1u32..500,
            orientation in orientations(),
        ) {
            let size = Size { width, height };
            let upright = Geometry::new(size, whole(size), (n, d), Orientation::default()).shown();
            prop_assert!(upright.width >= width && upright.height >= height);
            // Only one side changed, by the ratio to half a pixel.
            let (n, d) = (f64::from(n), f64::from(d));
            let wide = f64::from(width) * n / d - f64::from(upright.width);
            let high = f64::from(height) * d / n - f64::from(upright.height);
            if n > d {
                prop_assert!(wide.abs() <= 0.5 && upright.height == height);
            } else {
                prop_assert!(high.abs() <= 0.5 && upright.width == width);
            }
            let shown = Geometry::new(size, whole(size), (n as u32, d as u32), orientation).shown();
            prop_assert_eq!(shown, orientation.turn(upright));
        }
    }
}

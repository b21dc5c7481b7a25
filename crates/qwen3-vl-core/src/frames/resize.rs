//! The references' resize: bicubic with antialiasing on 8-bit channels.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{Size, resize_once};

/// Why a picture could not be resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// The bytes are not a picture of that size.
    #[error("{bytes} bytes are not {}x{} pixels of 3 bytes", size.width, size.height)]
    Bytes {
        /// Bytes given.
        bytes: usize,
        /// Size they were said to have.
        size: Size,
    },
    /// A side is zero.
    #[error("cannot resize {}x{} to {}x{} pixels", from.width, from.height, to.width, to.height)]
    Empty {
        /// Size of the source.
        from: Size,
        /// Size asked for.
        to: Size,
    },
}

/// When resized values are rounded to 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// After the rows and after the columns: Pillow, and torchvision's transforms v2, with which
    /// transformers resizes.
    #[default]
    EachPass,
    /// After both: torchvision's transforms v1, with which qwen-vl-utils' `fetch_video` resizes.
    /// Differs by up to some twenty levels where a pass overshoots the range of 8 bits.
    Once,
}

/// Resizes packed RGB pixels by either rule: [`resize_rgb`] or [`resize_rgb_once`].
///
/// # Errors
///
/// See [`ResizeError`].
pub fn resize(
    src: &[u8],
    from: Size,
    to: Size,
    rounding: Rounding,
) -> Result<Vec<u8>, ResizeError> {
    match rounding {
        Rounding::EachPass => resize_rgb(src, from, to),
        Rounding::Once => resize_rgb_once(src, from, to),
    }
}

/// Resizes packed RGB pixels in f32, with the same kernel as [`resize_rgb`], and rounds once, ties
/// to even. Every value equals that of torchvision's `functional.resize` (v1) of an 8-bit tensor,
/// but for one in a million, which is off by one level.
///
/// # Errors
///
/// See [`ResizeError`].
pub fn resize_rgb_once(src: &[u8], from: Size, to: Size) -> Result<Vec<u8>, ResizeError> {
    check(src, from, to)?;
    Ok(resize_once::resize(src, from, to))
}

/// Resizes packed RGB pixels.
///
/// The kernel is Pillow's `BICUBIC`: Catmull-Rom, a = -0.5, widened by the scale when shrinking,
/// rows before columns, each pass rounded to 8 bits. Every value equals torchvision's, with which
/// transformers resizes. Its weights have 16 bits and Pillow's 22: values are within 1 level of
/// Pillow's, but for less than one in 10000, which is 2 off.
///
/// `src` holds `from.height * from.width * 3` bytes; so does the result, for `to`.
///
/// # Errors
///
/// See [`ResizeError`].
pub fn resize_rgb(src: &[u8], from: Size, to: Size) -> Result<Vec<u8>, ResizeError> {
    check(src, from, to)?;
    if from == to {
        return Ok(src.to_vec());
    }
    // A pass clamps to 0..=255, so the order matters; the crate does columns first by default.
    let between = Size {
        width: to.width,
        height: from.height,
    };
    let rows = pass(src, from, between).ok_or(ResizeError::Empty { from, to })?;
    pass(&rows, between, to).ok_or(ResizeError::Empty { from, to })
}

/// One pass along one axis. It cannot fail: the caller has checked bytes and sizes.
fn pass(src: &[u8], from: Size, to: Size) -> Option<Vec<u8>> {
    if from == to {
        return Some(src.to_vec());
    }
    let source = ImageRef::new(from.width, from.height, src, PixelType::U8x3).ok()?;
    let mut target = Image::new(to.width, to.height, PixelType::U8x3);
    Resizer::new()
        .resize(&source, &mut target, &options())
        .ok()?;
    Some(target.into_vec())
}

fn options() -> ResizeOptions {
    ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false)
}

fn check(src: &[u8], from: Size, to: Size) -> Result<(), ResizeError> {
    if bytes_of(from) != Some(src.len()) {
        return Err(ResizeError::Bytes {
            bytes: src.len(),
            size: from,
        });
    }
    match [from.width, from.height, to.width, to.height].contains(&0) {
        true => Err(ResizeError::Empty { from, to }),
        false => Ok(()),
    }
}

fn bytes_of(size: Size) -> Option<usize> {
    (size.width as usize)
        .checked_mul(size.height as usize)?
        .checked_mul(3)
}

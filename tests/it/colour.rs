//! The model's pixels are those of GStreamer's own converter for the same buffers.

use crate::common;
use crate::common::picture_case::{CONVERT, PictureCase, Rgb, in_format, rgb_caps};

const BT601: &str = "2:4:16:4";
const BT601_FULL: &str = "1:4:16:4";
const BT709: &str = "2:3:5:1";
const BT709_FULL: &str = "1:3:5:1";
const BT2020: &str = "2:6:13:7";
const BT2020_FULL: &str = "1:6:13:7";
const BT2100_PQ: &str = "2:6:14:7";

/// RGB of Y'CbCr by the formula of the standards, from the luma weights of red and blue.
fn by_formula(yuv: [u16; 3], bits: u32, full: bool, [kr, kb]: [f64; 2]) -> [u8; 3] {
    let step = f64::from(1 << (bits - 8));
    let most = f64::from((1 << bits) - 1);
    let [offset, luma, chroma] = if full {
        [0.0, most, most]
    } else {
        [16.0 * step, 219.0 * step, 224.0 * step]
    };
    let [y, u, v] = yuv.map(f64::from);
    let y = (y - offset) / luma;
    let [u, v] = [u, v].map(|c| (c - 128.0 * step) / chroma);
    let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|c| (c * 255.0).round().clamp(0.0, 255.0) as u8)
}

/// The colours are right by the formula too, within the error of GStreamer's 8-bit arithmetic.
#[test]
fn matrices_and_ranges_by_the_formula() {
    let picture = Rgb::picture(96, 64);
    const LUMA_601: [f64; 2] = [0.299, 0.114];
    const LUMA_709: [f64; 2] = [0.2126, 0.0722];
    const LUMA_2020: [f64; 2] = [0.2627, 0.0593];
    for (colorimetry, luma, full) in [
        (BT601, LUMA_601, false),
        (BT601_FULL, LUMA_601, true),
        (BT709, LUMA_709, false),
        (BT709_FULL, LUMA_709, true),
        (BT2020, LUMA_2020, false),
        (BT2020_FULL, LUMA_2020, true),
    ] {
        for (format, bits) in [("Y444", 8), ("Y444_10LE", 10), ("Y444_12LE", 12)] {
            let value = |v: u8| (u16::from(v) << (bits - 8)) | (u16::from(v) >> (16 - bits));
            let plane = |c: usize| {
                picture
                    .data
                    .iter()
                    .skip(c)
                    .step_by(3)
                    .map(move |v| value(*v))
            };
            let values: Vec<u16> = (0..3).flat_map(plane).collect();
            let bytes: Vec<u8> = match bits {
                8 => values.iter().map(|v| *v as u8).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            let pixels = picture.data.chunks(3);
            let expected = Rgb {
                size: picture.size,
                data: pixels
                    .flat_map(|p| by_formula([p[0], p[1], p[2]].map(value), bits, full, luma))
                    .collect(),
            };
            let case = PictureCase {
                caps: rgb_caps(picture.size)
                    .replace("=RGB", &format!("={format},colorimetry={colorimetry}")),
                ..PictureCase::new(picture.size, "identity", CONVERT)
            };
            common::init();
            let out = case.run(&gst::Buffer::from_mut_slice(bytes));
            assert_eq!(out.off(), 0, "{format} {colorimetry}");
            let most = if bits == 8 { 6 } else { 2 };
            let off = out.seen.off(&expected);
            assert!(off <= most, "{format} {colorimetry}: {off}");
        }
    }
}

/// With subsampled chroma; the transfer function does not change.
#[test]
fn matrices_and_ranges() {
    let picture = Rgb::picture(96, 64);
    for colorimetry in [
        BT601,
        BT601_FULL,
        BT709,
        BT709_FULL,
        BT2020,
        BT2020_FULL,
        BT2100_PQ,
    ] {
        for format in ["Y444", "AYUV", "I420", "NV12", "YUY2"] {
            let caps = format!("format={format},colorimetry=(string){colorimetry}");
            let out = in_format(&picture, &caps);
            assert_eq!(out.off(), 0, "{caps}");
        }
    }
}

/// GStreamer 1.22 gives the same pixels for all chroma sites; the test follows other versions.
#[test]
fn chroma_sites() {
    let picture = Rgb::picture(96, 64);
    for format in ["I420", "NV12", "I420_10LE", "P010_10LE"] {
        for site in ["mpeg2", "jpeg", "dv", "cosited"] {
            let caps = format!("format={format},chroma-site={site}");
            let out = in_format(&picture, &caps);
            assert_eq!(out.off(), 0, "{caps}");
        }
    }
}

/// GStreamer treats RGB of limited range as full, and so does the element.
#[test]
fn grey_and_rgb() {
    let picture = Rgb::picture(96, 64);
    for caps in [
        "GRAY8",
        "GRAY8,colorimetry=(string)2:4:0:1",
        "GRAY8,colorimetry=(string)1:4:0:1",
        "GRAY16_LE",
        "BGRx",
        "RGBA",
        "RGB16",
        "GBR",
        "BGRx,colorimetry=(string)2:1:7:1",
    ] {
        let caps = format!("format={caps}");
        let out = in_format(&picture, &caps);
        assert_eq!(out.off(), 0, "{caps}");
    }
}

#[test]
fn more_than_8_bits() {
    let picture = Rgb::picture(96, 64);
    for format in [
        "P010_10LE",
        "P012_LE",
        "P016_LE",
        "I420_10LE",
        "I420_12LE",
        "I422_10LE",
        "v210",
        "Y444_10LE",
        "Y444_12LE",
        "Y444_16LE",
        "Y410",
        "GBR_10LE",
        "ARGB64",
        "I420_10BE",
    ] {
        for colorimetry in [BT709, BT2020, BT2020_FULL, BT2100_PQ] {
            let caps = match format {
                "GBR_10LE" | "ARGB64" => format!("format={format}"),
                _ => format!("format={format},colorimetry=(string){colorimetry}"),
            };
            let out = in_format(&picture, &caps);
            assert_eq!(out.off(), 0, "{caps}");
        }
    }
}

/// 4:2:0 has its chroma by fields then, so the pixels differ from those of a progressive frame.
#[test]
fn interlaced() {
    let picture = Rgb::picture(96, 64);
    for format in ["I420", "NV12", "P010_10LE", "YUY2"] {
        let before = format!("videoconvert ! video/x-raw,format={format}");
        let mut case = PictureCase::new(picture.size, &before, CONVERT);
        let plain = case.run(&picture.buffer()).seen;
        let interlaced = |fields: &str| format!("{},{fields}", rgb_caps(picture.size));
        for (fields, mark) in [
            (
                "interlace-mode=interleaved,field-order=top-field-first",
                false,
            ),
            (
                "interlace-mode=interleaved,field-order=bottom-field-first",
                false,
            ),
            ("interlace-mode=mixed", true),
            ("interlace-mode=mixed", false),
        ] {
            case.caps = interlaced(fields);
            case.mark = if mark {
                |buffer| {
                    let flag = gst_video::VideoBufferFlags::INTERLACED;
                    buffer.set_flags(gst::BufferFlags::from_bits_retain(flag.bits()));
                }
            } else {
                |_| ()
            };
            let out = case.run(&picture.buffer());
            assert_eq!(out.off(), 0, "{format}, {fields}");
            if mark {
                let different = out.seen.off(&plain) > 8;
                assert_eq!(different, format != "YUY2", "{format}, {fields}");
            }
        }
    }
}

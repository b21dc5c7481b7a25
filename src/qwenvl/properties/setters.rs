//! Setters of the settings. GObject has checked the value's type and range before.

use std::borrow::Cow;

use gst::glib;
use gst::glib::translate::ToGlibPtr;
use gst::glib::value::FromValue;
use gst::prelude::*;
use qwen3_vl_core::KvMemory;

use crate::qwenvl::settings::Settings;
use crate::qwenvl::strings;

/// A remark on a value, for a WARNING.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(in crate::qwenvl) enum Remark {
    #[error("{name} is not UTF-8: what cannot be read of it is now U+FFFD")]
    NotUtf8 { name: String },
    #[error("{name} stays as it was: {value} is not possible, set {possible}")]
    Refused {
        name: String,
        value: String,
        possible: &'static str,
    },
}

/// A value that needs no check of its own.
pub(super) fn put<T: for<'a> FromValue<'a>>(
    slot: &mut T,
    _name: &str,
    value: &glib::Value,
) -> Result<(), Remark> {
    if let Ok(value) = value.get() {
        *slot = value;
    }
    Ok(())
}

/// A string that may be NULL.
pub(super) fn optional_text(
    slot: &mut Option<String>,
    name: &str,
    value: &glib::Value,
) -> Result<(), Remark> {
    let text = strings::of_value(value);
    let lossy = matches!(&text, Some(Cow::Owned(_)));
    *slot = text.map(Cow::into_owned);
    match lossy {
        true => Err(Remark::NotUtf8 { name: name.into() }),
        false => Ok(()),
    }
}

/// A string that is empty rather than NULL.
pub(super) fn text(slot: &mut String, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let mut text = None;
    let remark = optional_text(&mut text, name, value);
    *slot = text.unwrap_or_default();
    remark
}

/// Bytes or a share of the free memory; NULL and 0 are the default.
pub(super) fn memory(slot: &mut String, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let text = strings::of_value(value).unwrap_or_default();
    let text = match text.trim() {
        "" | "0" => Settings::default().kv_memory,
        text => text.to_owned(),
    };
    if text.parse::<KvMemory>().is_err() {
        return Err(Remark::Refused {
            name: name.into(),
            value: text.chars().take(40).collect(),
            possible: "bytes such as 3000000, 512M or 8G, or a share such as 50%",
        });
    }
    *slot = text;
    Ok(())
}

/// A fraction. GStreamer may make one with a denominator of zero of a number, for which
/// `gst::Fraction` panics.
pub(super) fn fraction(
    slot: &mut gst::Fraction,
    name: &str,
    value: &glib::Value,
) -> Result<(), Remark> {
    if value.type_() != gst::Fraction::static_type() {
        return Ok(());
    }
    // SAFETY: the value is one of a fraction.
    let (numer, denom) = unsafe {
        let value = value.to_glib_none().0;
        (
            gst::ffi::gst_value_get_fraction_numerator(value),
            gst::ffi::gst_value_get_fraction_denominator(value),
        )
    };
    if numer < 0 || denom <= 0 {
        return Err(Remark::Refused {
            name: name.into(),
            value: format!("{numer}/{denom}"),
            possible: "a rate such as 2/1",
        });
    }
    *slot = gst::Fraction::new(numer, denom);
    Ok(())
}

/// A number from 0 on, or -1 for unset.
pub(super) fn number(slot: &mut f64, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let from_zero = |v: f64| v >= 0.0 && v.is_finite();
    checked(slot, name, value, from_zero, "0 or more, or -1")
}

/// A number above 0, or -1 for unset.
pub(super) fn factor(slot: &mut f64, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let positive = |v: f64| v > 0.0 && v.is_finite();
    checked(slot, name, value, positive, "more than 0, or -1")
}

fn checked(
    slot: &mut f64,
    name: &str,
    value: &glib::Value,
    fits: impl Fn(f64) -> bool,
    possible: &'static str,
) -> Result<(), Remark> {
    let Ok(value) = value.get::<f64>() else {
        return Ok(());
    };
    if value != -1.0 && !fits(value) {
        return Err(Remark::Refused {
            name: name.into(),
            value: value.to_string(),
            possible,
        });
    }
    *slot = value;
    Ok(())
}

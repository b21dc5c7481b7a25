//! Strings from C, which need not be UTF-8. glib's own conversions panic then.

use std::borrow::Cow;
use std::ffi::CStr;

use gst::glib::translate::ToGlibPtr;
use gst::glib::{self, gobject_ffi};
use gst::prelude::*;

/// The string in a value; `None` if it is NULL or the value holds no string. Bytes that are not
/// UTF-8 become U+FFFD, and the text is owned then.
pub(super) fn of_value(value: &glib::Value) -> Option<Cow<'_, str>> {
    if !value.type_().is_a(glib::Type::STRING) {
        return None;
    }
    // SAFETY: the value holds a string, which lives as long as the value is borrowed; it ends with
    // a NUL or is NULL.
    let text = unsafe {
        let text = gobject_ffi::g_value_get_string(value.to_glib_none().0);
        (!text.is_null()).then(|| CStr::from_ptr(text))
    };
    text.map(CStr::to_string_lossy)
}

/// The string in a field of a structure, as [`of_value`].
pub(super) fn of_field<'a>(structure: &'a gst::StructureRef, field: &str) -> Option<Cow<'a, str>> {
    of_value(structure.value(field).ok()?)
}

/// The name of an object.
pub(super) fn name_of(object: &impl IsA<gst::Object>) -> String {
    let name = object.property_value("name");
    of_value(&name).unwrap_or_default().into_owned()
}

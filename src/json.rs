//! A structure as JSON, for readers that know no GStreamer: the field `json-message`.

use gst::glib;
use gst::prelude::*;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// The fields as one JSON object on one line, in their order, with their names as keys.
///
/// Numbers and booleans stay as they are (a float that is not finite becomes `null`). Arrays and
/// lists become arrays, structures objects, fractions strings such as `"2/1"`. A value of any other
/// type becomes GStreamer's text for it.
pub(crate) fn object(structure: &gst::StructureRef) -> String {
    // It cannot fail: every key is a string.
    serde_json::to_string(&Fields(structure)).unwrap_or_default()
}

struct Fields<'a>(&'a gst::StructureRef);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.n_fields()))?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name.as_str(), &Field(value))?;
        }
        map.end()
    }
}

struct Field<'a>(&'a glib::Value);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.0;
        match value.type_() {
            glib::Type::STRING => read::<Option<&str>, S>(value, serializer),
            glib::Type::BOOL => read::<bool, S>(value, serializer),
            glib::Type::I32 => read::<i32, S>(value, serializer),
            glib::Type::U32 => read::<u32, S>(value, serializer),
            glib::Type::I64 => read::<i64, S>(value, serializer),
            glib::Type::U64 => read::<u64, S>(value, serializer),
            glib::Type::F32 => read::<f32, S>(value, serializer),
            glib::Type::F64 => read::<f64, S>(value, serializer),
            _ => other(value, serializer),
        }
    }
}

fn read<'a, T: glib::value::FromValue<'a> + Serialize, S: Serializer>(
    value: &'a glib::Value,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.get::<T>().ok().serialize(serializer)
}

fn other<S: Serializer>(value: &glib::Value, serializer: S) -> Result<S::Ok, S::Error> {
    if let Ok(array) = value.get::<gst::ArrayRef>() {
        return sequence(array.as_slice(), serializer);
    }
    if let Ok(list) = value.get::<gst::ListRef>() {
        return sequence(list.as_slice(), serializer);
    }
    if let Ok(structure) = value.get::<&gst::StructureRef>() {
        return Fields(structure).serialize(serializer);
    }
    let text = value.serialize().ok();
    text.as_ref()
        .map(glib::GString::as_str)
        .serialize(serializer)
}

fn sequence<S: Serializer>(values: &[glib::SendValue], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(values.len()))?;
    for value in values {
        sequence.serialize_element(&Field(value))?;
    }
    sequence.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_keeps_its_value() {
        gst::init().expect("GStreamer");
        let inner = gst::Structure::builder("inner").field("a", 1_i32).build();
        let structure = gst::Structure::builder("outer")
            .field("largest", u64::MAX)
            .field("least", i64::MIN)
            .field("yes", true)
            .field("half", 0.5_f64)
            .field("never", f64::NAN)
            .field("text", "\"a\\b\"\n\t\u{1}\u{7f};é 🚦")
            .field("none", None::<&str>)
            .field("array", gst::Array::new([1_u64, 2]))
            .field("list", gst::List::new(["x", "y"]))
            .field("inside", inner)
            .field("fps", gst::Fraction::new(30, 1001))
            .build();
        let line = object(&structure);
        assert!(!line.contains('\n'), "{line}");
        let want = serde_json::json!({
            "largest": u64::MAX,
            "least": i64::MIN,
            "yes": true,
            "half": 0.5,
            "never": null,
            "text": "\"a\\b\"\n\t\u{1}\u{7f};é 🚦",
            "none": null,
            "array": [1, 2],
            "list": ["x", "y"],
            "inside": {"a": 1},
            "fps": "30/1001",
        });
        let got: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(got, want);
        assert!(
            line.starts_with("{\"largest\":"),
            "the fields' order: {line}"
        );
    }
}

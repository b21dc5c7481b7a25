//! The table in docs/properties.md is that of the element.

use gst::glib;
use gst::prelude::*;

use crate::common;

const PAGE: &str = include_str!("../../docs/properties.md");
/// A property that the page lists always, and that exists with the feature only.
const WITH_ANALYTICS: &str = "attach-analytics";

/// ` from 1 to 9`, without the ends that the type itself has.
fn range<T: PartialEq + std::fmt::Display>(range: [T; 2], whole: [T; 2], largest: &str) -> String {
    let [least, most] = range;
    let from = if least == whole[0] {
        String::new()
    } else {
        format!(" from {least}")
    };
    let to = if most == whole[1] {
        String::new()
    } else {
        format!(" to {most}")
    };
    (from + &to).replace(largest, "2^63-1")
}

/// The type as the page has it: its name and range, or the values of an enum.
fn kind(spec: &glib::ParamSpec) -> String {
    let largest = i64::MAX.to_string();
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt64>() {
        let whole = [u64::MIN, u64::MAX];
        return "guint64".to_owned() + &range([spec.minimum(), spec.maximum()], whole, &largest);
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt>() {
        let whole = [u32::MIN, u32::MAX];
        return "guint".to_owned() + &range([spec.minimum(), spec.maximum()], whole, &largest);
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecInt>() {
        let whole = [i32::MIN, i32::MAX];
        return "gint".to_owned() + &range([spec.minimum(), spec.maximum()], whole, &largest);
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecDouble>() {
        let whole = [f64::MIN, f64::MAX];
        return "gdouble".to_owned() + &range([spec.minimum(), spec.maximum()], whole, &largest);
    }
    if let Some(values) = glib::EnumClass::with_type(spec.value_type()) {
        let nicks = values.values().iter().map(|value| value.nick());
        let nicks: Vec<String> = nicks.map(|nick| format!("`{nick}`")).collect();
        return nicks.join(", ");
    }
    match spec.value_type().name() {
        "gchararray" => "string".into(),
        "GstFraction" => "fraction".into(),
        other => other.into(),
    }
}

/// The default as one writes it in a pipeline.
fn default(spec: &glib::ParamSpec) -> String {
    let value = spec.default_value();
    if let Some(values) = glib::EnumClass::with_type(spec.value_type()) {
        let number = value.transform::<i32>().unwrap().get().unwrap();
        return format!("`{}`", values.value(number).unwrap().nick());
    }
    if spec.value_type() == glib::Type::STRING {
        let text: Option<String> = value.get().unwrap();
        return text.map_or_else(|| "NULL".into(), |text| format!("`{text}`"));
    }
    if let Ok(number) = value.get::<f64>() {
        return format!("`{number}`");
    }
    match value.serialize() {
        Ok(text) if spec.flags().contains(glib::ParamFlags::WRITABLE) => format!("`{text}`"),
        _ => String::new(),
    }
}

/// Up to which state it may change.
fn state(spec: &glib::ParamSpec) -> &'static str {
    let flags = spec.flags();
    if !flags.contains(glib::ParamFlags::WRITABLE) {
        "never"
    } else if flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING) {
        "PLAYING"
    } else if flags.contains(gst::PARAM_FLAG_MUTABLE_READY) {
        "READY"
    } else {
        panic!("{}: it is not said when it may change", spec.name())
    }
}

#[test]
fn the_page_has_the_table_of_the_element() {
    common::init();
    let element = gst::ElementFactory::make("qwenvl").build().unwrap();
    let specs = element.list_properties();
    let own = specs
        .iter()
        .filter(|spec| spec.owner_type() == element.type_());
    let wanted = own.map(|spec| {
        let (name, kind, default, state) = (spec.name(), kind(spec), default(spec), state(spec));
        format!("| `{name}` | {kind} | {default} | {state} |")
    });
    let wanted: Vec<String> = wanted.collect();
    let rows = PAGE
        .lines()
        .skip_while(|line| !line.starts_with("|---|---|---|---|---|"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let listed: Vec<(&str, &str)> = rows
        .map(|row| {
            let end = row.trim_end_matches('|').rfind('|').unwrap();
            row.split_at(end + 1)
        })
        .filter(|(row, _)| {
            cfg!(feature = "analytics") || !row.contains(&format!("`{WITH_ANALYTICS}`"))
        })
        .collect();
    let found: Vec<&str> = listed.iter().map(|(row, _)| *row).collect();
    assert_eq!(found, wanted);
    for (row, meaning) in listed {
        assert!(
            meaning.trim_matches([' ', '|']).len() > 10,
            "{row} says nothing"
        );
    }
}

/// What is neither leaves it as it was.
#[test]
fn kv_memory_is_bytes_or_a_share_of_the_free_memory() {
    common::init();
    let element = gst::ElementFactory::make("qwenvl").build().unwrap();
    let set = |text: &str| {
        element.set_property_from_str("kv-memory", text);
        element.property::<String>("kv-memory")
    };
    for text in ["3000000", "512M", "8GiB", "25%", "0.75"] {
        assert_eq!(set(text), text);
        for nothing in ["lots", "0%", "120%", "-1", "5 apples"] {
            assert_eq!(set(nothing), text, "{nothing}");
        }
        assert_eq!(set("0"), "50%");
    }
    // As from C and Python, by GLib's own conversion of numbers.
    let number = 64_u64.to_value().transform::<String>().unwrap();
    element.set_property_from_value("kv-memory", &number);
    assert_eq!(element.property::<String>("kv-memory"), "64");
}

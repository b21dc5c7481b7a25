//! Every property set to every extreme of every type, as C code can, in every state. The process
//! must not end, the getters must answer, and the video must go on.

use std::ffi::{CStr, CString};
use std::time::Duration;

use gst::glib::translate::{ToGlibPtr, ToGlibPtrMut};
use gst::glib::{self, gobject_ffi};
use gst::prelude::*;

use crate::common::bench::Bench;
use crate::common::{self, Messages, echo, hooks, in_time, wait_until};

/// Sets a property by `g_object_set_property`, which warns of values that it refuses.
fn set(element: &gst::Element, name: &str, value: &glib::Value) {
    let name = CString::new(name).unwrap();
    // SAFETY: the object, the name and the value live for the call.
    unsafe {
        gobject_ffi::g_object_set_property(
            element.as_object_ref().to_glib_none().0,
            name.as_ptr(),
            value.to_glib_none().0,
        );
    }
}

fn string(bytes: Option<&CStr>) -> glib::Value {
    let mut value = glib::Value::from_type(glib::Type::STRING);
    // SAFETY: the value is one of a string, and copies these bytes.
    unsafe {
        gobject_ffi::g_value_set_string(
            value.to_glib_none_mut().0,
            bytes.map_or(std::ptr::null(), CStr::as_ptr),
        );
    }
    value
}

/// Values of an enum that it may not have.
fn enum_value(kind: glib::Type, number: i32) -> glib::Value {
    let mut value = glib::Value::from_type(kind);
    // SAFETY: the value is one of an enum.
    unsafe { gobject_ffi::g_value_set_enum(value.to_glib_none_mut().0, number) };
    value
}

fn values(element: &gst::Element) -> Vec<glib::Value> {
    let long = CString::new(vec![b'x'; 1 << 20]).unwrap();
    let mut values = vec![
        string(None),
        string(Some(c"")),
        string(Some(c"caf\xe9")),
        string(Some(c"\xff\xfe\xc0\x80")),
        string(Some(c"\x01\n\t\"';{}<|im_end|>")),
        string(Some(&long)),
        gst::Structure::new_empty("nothing").to_value(),
        element.to_value(),
        glib::Value::from_type(gst::Caps::static_type()),
    ];
    let half = i64::MAX as u64;
    for number in [0, 1, 2, half - 1, half, half + 1, u64::MAX - 1, u64::MAX] {
        values.push(number.to_value());
        values.push((number as i64).to_value());
    }
    for number in [0, 1, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX] {
        values.push(number.to_value());
        values.push((number as i32).to_value());
    }
    for number in [
        0.0,
        -0.0,
        0.5,
        -0.5,
        -1.0,
        1.0,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ] {
        values.push(number.to_value());
    }
    for (numer, denom) in [
        (0, 1),
        (1, 1),
        (i32::MAX, 1),
        (1, i32::MAX),
        (i32::MIN + 1, 1),
    ] {
        values.push(gst::Fraction::new(numer, denom).to_value());
    }
    values.extend([true.to_value(), false.to_value()]);
    for property in element.list_properties() {
        if property.value_type().is_a(glib::Type::ENUM) {
            let numbers = [i32::MIN, -1, 0, 1, 2, 3, 99, i32::MAX];
            values.extend(numbers.map(|number| enum_value(property.value_type(), number)));
        }
    }
    values
}

fn properties(element: &gst::Element) -> Vec<String> {
    let all = element.list_properties().to_vec().into_iter();
    let ours = all.filter(|p| p.owner_type() == element.type_());
    ours.filter(|p| p.flags().contains(glib::ParamFlags::WRITABLE))
        .map(|p| p.name().to_owned())
        .collect()
}

/// As C reads them: no getter may fail.
fn read_all(element: &gst::Element) {
    for property in element.list_properties() {
        let value = element.property_value(property.name());
        assert!(value.type_().is_a(property.value_type()));
    }
}

fn defaults(element: &gst::Element, names: &[String]) {
    for name in names {
        let property = element.find_property(name).unwrap();
        set(element, name, property.default_value());
    }
}

#[test]
fn in_every_state() {
    common::init();
    for live in [false, true] {
        for attach in ["next", "window"] {
            let backend = echo(Duration::ZERO);
            let properties_then = [("attach", attach), ("attach-timeout", "100000000")];
            let mut bench = Bench::new(hooks(backend), live, &properties_then).ready();
            let element = bench.element.clone();
            let names = properties(&element);
            assert!(names.len() > 30, "{names:?}");
            let (sink, mut ms) = (element.static_pad("sink").unwrap(), 0);
            for state in [
                gst::State::Playing,
                gst::State::Paused,
                gst::State::Ready,
                gst::State::Null,
            ] {
                element.set_state(state).unwrap();
                for name in &names {
                    for value in &values(&element) {
                        set(&element, name, value);
                    }
                    read_all(&element);
                    if state == gst::State::Playing {
                        // The worker takes the last values.
                        bench.push(ms).unwrap();
                        ms += 500;
                    }
                }
                defaults(&element, &names);
            }
            bench.collect();
            assert!(
                bench.messages.errors.is_empty(),
                "{:?}",
                bench.messages.errors
            );
            bench.messages.ids();
            // The element still works.
            set(&element, "attach-timeout", &100_000_000_u64.to_value());
            element.set_state(gst::State::Playing).unwrap();
            for event in [
                gst::event::StreamStart::new("again"),
                gst::event::Caps::new(&common::bench::CAPS.parse().unwrap()),
                gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
            ] {
                sink.send_event(event);
            }
            let before = bench.messages.ids().len();
            bench.messages.progress.clear();
            let mut bench = bench.ready();
            bench.frames(0..4_000);
            wait_until("a description", || {
                bench.collect();
                bench.messages.ids().len() > before && !bench.messages.descriptions().is_empty()
            });
            bench.stop();
        }
    }
}

/// A pipeline with an extreme value from the start either reports it or runs.
#[test]
fn from_the_start() {
    common::init();
    let probe = gst::ElementFactory::make("qwenvl").build().unwrap();
    for name in properties(&probe) {
        for value in values(&probe) {
            let pipeline = gst::parse::launch(
                "videotestsrc num-buffers=12 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                 qwenvl name=q ! fakesink",
            );
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            let element = pipeline.by_name("q").unwrap();
            let accepts = element.find_property(&name).unwrap();
            if !value.type_().is_a(accepts.value_type()) {
                continue;
            }
            gstqwenvl::testing::set_hooks(&element, hooks(echo(Duration::ZERO)));
            set(&element, "eos-timeout", &1_000_000_000_u64.to_value());
            set(&element, &name, &value);
            let bus = pipeline.bus().unwrap();
            let what = format!("{name} = {value:?}");
            let messages = in_time(&what.clone(), move || {
                let _ = pipeline.set_state(gst::State::Playing);
                let messages = Messages::until_end(&bus, &element);
                pipeline.set_state(gst::State::Null).unwrap();
                messages
            });
            for (error, _) in &messages.errors {
                let about = error.matches(gst::LibraryError::Settings)
                    || (name == "model" && error.matches(gst::ResourceError::NotFound));
                let panicked = error.message().contains("anicked");
                assert!(about && !panicked, "{what}: {error}");
            }
            messages.ids();
        }
    }
}

#[test]
fn what_is_not_utf8_is_read_as_far_as_it_can_be() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    for name in ["prompt", "system-prompt", "stream-id"] {
        set(&bench.element, name, &string(Some(c"caf\xe9!")));
        let text: String = bench.element.property(name);
        assert_eq!(text, "caf\u{fffd}!");
        assert!(warned_of(&mut bench, name), "{name}");
    }
    bench.stop();
}

/// Whether a WARNING since the last look is about this property.
fn warned_of(bench: &mut Bench, name: &str) -> bool {
    bench.collect();
    let warnings = std::mem::take(&mut bench.messages.warnings);
    warnings.iter().any(|w| w.message().contains(name))
}

#[test]
fn what_cannot_change_while_playing_is_refused_with_a_warning() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    let names = properties(&bench.element);
    let mut refused = 0;
    for name in names {
        let property = bench.element.find_property(&name).unwrap();
        if property.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING) {
            continue;
        }
        let before = format!("{:?}", bench.element.property_value(&name));
        let other = match property.value_type() {
            glib::Type::STRING => "other".to_value(),
            glib::Type::U64 => 77_u64.to_value(),
            kind => enum_value(kind, 1),
        };
        assert_ne!(format!("{other:?}"), before);
        set(&bench.element, &name, &other);
        let after = format!("{:?}", bench.element.property_value(&name));
        assert_eq!(before, after, "{name}");
        assert!(warned_of(&mut bench, &name), "{name}");
        refused += 1;
    }
    assert!(refused > 8, "{refused}");
    bench.stop();
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    for (name, value) in [
        ("temperature", -0.5),
        ("temperature", f64::NAN),
        ("top-p", -0.1),
        ("presence-penalty", -0.9),
        ("repetition-penalty", 0.0),
        ("repetition-penalty", f64::INFINITY),
    ] {
        set(&bench.element, name, &value.to_value());
        assert_eq!(bench.element.property::<f64>(name), -1.0, "{name}={value}");
        // GObject itself refuses NaN, with a warning of its own.
        assert!(
            warned_of(&mut bench, name) || !value.is_finite(),
            "{name}={value}"
        );
    }
    set(&bench.element, "temperature", &0.0_f64.to_value());
    assert_eq!(bench.element.property::<f64>("temperature"), 0.0);
    bench.stop();
}

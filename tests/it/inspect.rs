//! The output of `gst-inspect-1.0`, graphs of a pipeline, and the messages of a new element.

use gst::prelude::*;
use gstqwenvl::testing::Hooks;

use crate::common;
use crate::common::Run;

#[test]
fn the_element_tells_of_its_outputs() {
    common::init();
    let factory = gst::ElementFactory::find("qwenvl").unwrap();
    let description = factory.metadata("description").unwrap();
    for word in [
        "qwenvl/description",
        "qwenvl/dropped",
        "QwenVLDescriptionMeta",
        "pad text",
    ] {
        assert!(description.contains(word), "{description}");
    }
    let plugin = factory.plugin().unwrap();
    assert_eq!(plugin.license(), "MIT OR Apache-2.0");
}

/// Defaults are what a fresh element has: gst-inspect and graphs go by that.
#[test]
fn a_fresh_element_has_the_defaults() {
    common::init();
    let element = gst::ElementFactory::make("qwenvl").build().unwrap();
    let mut compared = 0;
    for property in element.list_properties() {
        let (name, owner) = (property.name(), property.owner_type());
        if owner != element.type_() || name == "stats" {
            continue;
        }
        let value = element.property_value(name);
        let same = value.compare(property.default_value());
        assert_eq!(same, Some(std::cmp::Ordering::Equal), "{name}");
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
    assert_eq!(element.property::<Option<String>>("stream-id"), None);
    element.set_property("stream-id", "gate 3");
    assert_eq!(element.property::<String>("stream-id"), "gate 3");
}

#[test]
fn graphs_show_model_and_prompt() {
    let line = "videotestsrc num-buffers=1 ! \
                qwenvl name=q model=models/demo prompt=\"What is red?\" ! fakesink";
    let run = Run::new(line, Hooks::default());
    let graph = run
        .pipeline
        .debug_to_dot_data(gst::DebugGraphDetails::all());
    for shown in ["model=\\\"models/demo\\\"", "prompt=\\\"What is red?\\\""] {
        assert!(graph.contains(shown), "{graph}");
    }
    assert!(!graph.contains("stream-id"), "{graph}");
}

/// Alone in its process, as nextest runs it: the warning comes once.
#[cfg(feature = "local")]
#[test]
fn eight_elements_warn_once_of_the_demo_model() {
    let branch = "t. ! queue ! qwenvl ! fakesink async=false";
    let line = format!(
        "videotestsrc num-buffers=10 ! video/x-raw,width=64,height=64,framerate=10/1 ! tee name=t \
         t. ! queue ! qwenvl name=q ! fakesink async=false {}",
        [branch; 7].join(" ")
    );
    let run = Run::new(&line, Hooks::default());
    run.set_state(gst::State::Playing).unwrap();
    let (mut warnings, mut loaded) = (0, 0);
    for message in run
        .pipeline
        .bus()
        .unwrap()
        .iter_timed(gst::ClockTime::from_seconds(60))
    {
        match message.view() {
            gst::MessageView::Warning(warning) => {
                assert!(warning.error().message().contains("synthetic traffic"));
                warnings += 1;
            }
            gst::MessageView::Progress(progress) => {
                loaded += u32::from(progress.get().0 == gst::ProgressType::Complete);
            }
            gst::MessageView::Error(error) => panic!("{error:?}"),
            gst::MessageView::Eos(_) => break,
            _ => (),
        }
    }
    assert_eq!((loaded, warnings), (8, 1));
}

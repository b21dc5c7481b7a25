//! Finds a `splitmuxsink` behind the text pad, which must not get a GAP.

use gst::prelude::*;

/// Most elements that are searched for it.
const FARTHEST: usize = 16;

/// Whether the pad leads to a `splitmuxsink`: through elements with one source pad, such as queues,
/// and out of bins.
pub(super) fn follows(pad: &gst::Pad) -> bool {
    let mut pad = pad.clone();
    for _ in 0..FARTHEST {
        let Some(peer) = pad.peer() else {
            return false;
        };
        let next = match peer.parent_element() {
            Some(element) if is_splitmuxsink(&element) => return true,
            Some(element) => only(element.src_pads()),
            // The peer is the inner side of a bin's ghost pad.
            None => peer.parent().and_then(|ghost| ghost.downcast().ok()),
        };
        match next {
            Some(next) => pad = next,
            None => return false,
        }
    }
    false
}

fn is_splitmuxsink(element: &gst::Element) -> bool {
    let factory = element.factory();
    factory.is_some_and(|factory| factory.name() == "splitmuxsink")
}

fn only(pads: Vec<gst::Pad>) -> Option<gst::Pad> {
    <[gst::Pad; 1]>::try_from(pads).ok().map(|[pad]| pad)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Whether a recorder follows the source pad of the element `t` in this pipeline.
    fn found(line: &str) -> bool {
        gst::init().unwrap();
        let pipeline = gst::parse::launch(line).unwrap();
        let bin = pipeline.downcast_ref::<gst::Bin>().unwrap();
        let element = bin.by_name("t").unwrap();
        follows(&element.static_pad("src").unwrap())
    }

    #[test]
    fn it_is_found_behind_queues_and_bins_and_nothing_else_is() {
        let text = "appsrc name=t caps=text/x-raw,format=utf8";
        let recorder = "s.subtitle_0 splitmuxsink name=s muxer=matroskamux";
        for (line, there) in [
            (format!("{text} ! {recorder}"), true),
            (format!("{text} ! queue ! identity ! {recorder}"), true),
            (format!("( {text} ! queue ) ! queue ! {recorder}"), true),
            (format!("( {text} ) ! {recorder}"), true),
            (format!("{text} ! queue ! matroskamux ! fakesink"), false),
            (
                format!("{text} ! tee name=b ! queue ! {recorder} b. ! fakesink"),
                false,
            ),
            (format!("{text} ! fakesink"), false),
            (format!("{text} fakesink"), false),
        ] {
            assert_eq!(found(&line), there, "{line}");
        }
    }
}

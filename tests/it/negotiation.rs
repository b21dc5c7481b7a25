//! Caps and queries: readable memory is accepted in upstream's order, other memory is refused with
//! an ERROR, and pools and QoS pass between the neighbours.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use crate::common::bench::{Bench, CAPS};
use crate::common::{self, Messages, Run, echo, hooks};

const SIZE: &str = "width=64,height=64,framerate=10/1";

/// The messages about eight seconds of frames with these caps; their content is in system memory.
fn run(caps: &str, bytes: usize) -> Messages {
    let run = Run::new(
        "appsrc name=src format=time ! qwenvl name=q ! fakesink",
        hooks(echo(Duration::ZERO)),
    );
    let source = run.pipeline.by_name("src").unwrap();
    let source = source.downcast::<gst_app::AppSrc>().unwrap();
    source.set_caps(Some(&format!("{caps},{SIZE}").parse().unwrap()));
    run.set_state(gst::State::Playing).unwrap();
    for i in 0..80 {
        let mut buffer = gst::Buffer::with_size(bytes).unwrap();
        let pts = gst::ClockTime::from_mseconds(i * 100);
        buffer.get_mut().unwrap().set_pts(pts);
        // Fails once the element has refused.
        let _ = source.push_buffer(buffer);
    }
    let _ = source.end_of_stream();
    Messages::until_end(&run.pipeline.bus().unwrap(), &run.element)
}

#[test]
fn memory_that_can_be_read() {
    for caps in [
        "video/x-raw,format=NV12",
        "video/x-raw(memory:SystemMemory, meta:GstVideoOverlayComposition),format=NV12",
        "video/x-raw(memory:DMABuf),format=NV12",
        "video/x-raw(memory:DMABuf, meta:GstVideoOverlayComposition),format=DMA_DRM,\
         drm-format=NV12",
        "video/x-raw(memory:GLMemory),format=NV12,texture-target=2D",
        "video/x-raw(memory:GLMemory),format=NV12",
        "video/x-raw(memory:CUDAMemory),format=NV12",
        "video/x-raw(memory:VAMemory),format=NV12",
    ] {
        let messages = run(caps, 64 * 64 * 3 / 2);
        assert!(messages.errors.is_empty(), "{caps}: {messages:?}");
        assert_eq!(messages.descriptions().len(), 2, "{caps}: {messages:?}");
    }
}

#[test]
fn memory_that_cannot_be_read() {
    for (caps, what, element) in [
        (
            "(memory:DMABuf),format=DMA_DRM,drm-format=NV12:0x0100000000000002",
            "memory:DMABuf (drm-format=NV12:0x0100000000000002)",
            "vapostproc",
        ),
        (
            "(memory:DMABuf),format=DMA_DRM,drm-format=ZZZZ",
            "memory:DMABuf (drm-format=ZZZZ)",
            "glupload ! gldownload",
        ),
        (
            "(memory:GLMemory),format=RGBA,texture-target=external-oes",
            "memory:GLMemory (texture-target=external-oes)",
            "glcolorconvert ! gldownload",
        ),
        ("(memory:NVMM),format=NV12", "memory:NVMM", "nvvideoconvert"),
        (
            "(memory:VASurface),format=NV12",
            "memory:VASurface",
            "vaapipostproc",
        ),
        (
            "(memory:VulkanImage),format=NV12",
            "memory:VulkanImage",
            "vulkandownload",
        ),
        (
            "(memory:D3D11Memory),format=NV12",
            "memory:D3D11Memory",
            "d3d11download",
        ),
        (
            "(memory:D3D12Memory),format=NV12",
            "memory:D3D12Memory",
            "d3d12download",
        ),
        (
            "(memory:Martian, meta:GstVideoOverlayComposition),format=NV12",
            "memory:Martian",
            "an element that downloads",
        ),
    ] {
        let messages = run(&format!("video/x-raw{caps}"), 64 * 64 * 4);
        let [(error, _)] = &messages.errors[..] else {
            panic!("{caps}: {messages:?}");
        };
        for text in [what, element, "video/x-raw"] {
            assert!(
                error.message().contains(text),
                "{error} does not say {text}"
            );
        }
        assert_eq!(messages.ids(), [0; 0]);
    }
}

/// The sink pad's answer to a query with this filter.
fn taken(offered: &str, attach: &str) -> Vec<String> {
    let element = gst::ElementFactory::make("qwenvl")
        .property_from_str("attach", attach)
        .build()
        .unwrap();
    let pad = element.static_pad("sink").unwrap();
    let taken = pad.query_caps(Some(&offered.parse().unwrap()));
    taken
        .iter_with_features()
        .map(|(structure, features)| {
            let mut structure = structure.to_owned();
            structure.remove_fields(["width", "height", "framerate"]);
            format!("{features}: {structure}")
                .trim_end_matches(';')
                .into()
        })
        .collect()
}

#[test]
fn upstream_chooses_among_what_can_be_read() {
    common::init();
    let offered = "video/x-raw(memory:NVMM),format=NV12; \
         video/x-raw(memory:VAMemory),format=NV12; \
         video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format={NV12:0x0100000000000002, NV12}; \
         video/x-raw(memory:GLMemory),format=RGBA,texture-target={external-oes, 2D}; \
         video/x-raw,format=NV12; \
         video/x-raw(memory:SystemMemory, meta:GstVideoOverlayComposition),format=NV12";
    assert_eq!(
        taken(offered, "next"),
        [
            "memory:VAMemory: video/x-raw, format=(string)NV12",
            "memory:DMABuf: video/x-raw, format=(string)DMA_DRM, drm-format=(string)NV12",
            "memory:GLMemory: video/x-raw, format=(string)RGBA, texture-target=(string)2D",
            "memory:SystemMemory: video/x-raw, format=(string)NV12",
            "memory:SystemMemory, meta:GstVideoOverlayComposition: video/x-raw, \
             format=(string)NV12",
        ]
    );
}

/// Held frames of another memory would be missing in upstream's pool.
#[test]
fn frames_that_are_held_are_in_system_memory_if_upstream_has_any() {
    common::init();
    let (cuda, system) = (
        "video/x-raw(memory:CUDAMemory),format=NV12",
        "video/x-raw,format=NV12",
    );
    assert_eq!(
        taken(&format!("{cuda}; {system}"), "window"),
        ["memory:SystemMemory: video/x-raw, format=(string)NV12"]
    );
    assert_eq!(
        taken(cuda, "window"),
        ["memory:CUDAMemory: video/x-raw, format=(string)NV12"]
    );
}

#[test]
fn what_cannot_be_read_may_come_if_there_is_nothing_else() {
    common::init();
    for caps in [
        "video/x-raw(memory:NVMM),format=NV12",
        "video/x-raw(ANY),format=NV12",
    ] {
        assert_eq!(taken(caps, "next").len(), 1, "{caps}");
    }
}

/// A neighbour of the element, for queries and events.
fn pad(
    direction: gst::PadDirection,
    query: impl Fn(&mut gst::QueryRef) -> bool + Send + Sync + 'static,
) -> (gst::Pad, Arc<Mutex<Vec<gst::Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let any = gst::PadTemplate::new(
        "pad",
        direction,
        gst::PadPresence::Always,
        &gst::Caps::new_any(),
    );
    let pad = gst::Pad::builder_from_template(&any.unwrap())
        .event_function(move |_, _, event| {
            log.lock().unwrap().push(event);
            true
        })
        .query_function(move |pad, parent, q| query(q) || gst::Pad::query_default(pad, parent, q))
        .build();
    pad.set_active(true).unwrap();
    (pad, events)
}

#[test]
fn the_pool_and_the_metas_of_downstream_reach_upstream() {
    common::init();
    let caps: gst::Caps = CAPS.parse().unwrap();
    let pool = gst::BufferPool::new();
    let theirs = pool.clone();
    let (sink, _) = pad(gst::PadDirection::Sink, move |query| {
        let gst::QueryViewMut::Allocation(query) = query.view_mut() else {
            return false;
        };
        query.add_allocation_pool(Some(&theirs), 1000, 3, 5);
        query.add_allocation_pool(None::<&gst::BufferPool>, 2000, 1, 0);
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        query.add_allocation_meta::<gst_video::VideoCropMeta>(None);
        let params = gst::AllocationParams::new(gst::MemoryFlags::empty(), 63, 0, 0);
        query.add_allocation_param(None::<&gst::Allocator>, params);
        true
    });
    let (element, _bus, _) = Bench::idle(hooks(echo(Duration::ZERO)));
    element.static_pad("src").unwrap().link(&sink).unwrap();
    let mut query = gst::query::Allocation::new(Some(&caps), true);
    assert!(element.static_pad("sink").unwrap().query(&mut query));
    let pools: Vec<_> = query.allocation_pools().collect();
    // Two more of each: as many as may be held here. 0 is any number.
    assert_eq!(pools, [(Some(pool), 1000, 5, 7), (None, 2000, 3, 0)]);
    let metas: Vec<_> = query.allocation_metas().map(|(api, _)| api).collect();
    assert_eq!(
        metas,
        [
            gst_video::VideoMeta::meta_api(),
            gst_video::VideoCropMeta::meta_api()
        ]
    );
    let align: Vec<_> = query
        .allocation_params()
        .map(|(_, params)| params.align())
        .collect();
    assert_eq!(align, [63]);
}

#[test]
fn qos_events_reach_upstream() {
    common::init();
    let (source, events) = pad(gst::PadDirection::Src, |_| false);
    let (element, _bus, _) = Bench::idle(hooks(echo(Duration::ZERO)));
    source.link(&element.static_pad("sink").unwrap()).unwrap();
    element.set_state(gst::State::Playing).unwrap();
    let late = gst::event::Qos::builder(gst::QOSType::Underflow, 0.5, 20_000_000)
        .timestamp(gst::ClockTime::SECOND)
        .build();
    let seqnum = late.seqnum();
    assert!(element.static_pad("src").unwrap().send_event(late));
    let seen = events.lock().unwrap();
    let qos: Vec<_> = seen
        .iter()
        .filter(|e| e.type_() == gst::EventType::Qos)
        .collect();
    let [event] = &qos[..] else {
        panic!("{seen:?}");
    };
    assert_eq!(event.seqnum(), seqnum);
    drop(seen);
    element.set_state(gst::State::Null).unwrap();
}

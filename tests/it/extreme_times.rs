//! Timestamps, durations, gaps and segments at the edges of 64 bits: every frame passes, every
//! window ends once, nothing fails.

use std::sync::Mutex;
use std::time::Duration;

use gst::ClockTime;
use gst::glib;
use gst::glib::translate::{IntoGlibPtr, from_glib_full};
use gst::prelude::*;
use proptest::prelude::*;

use crate::common::bench::Bench;
use crate::common::{echo, hooks};

const HALF: u64 = i64::MAX as u64;
const SECOND: u64 = 1_000_000_000;

/// A time near the edges, or one of the first seconds; `u64::MAX` is none.
fn time() -> impl Strategy<Value = Option<ClockTime>> {
    let near = |edge: u64| (-3i64..4).prop_map(move |off| edge.saturating_add_signed(off * 58_917));
    let raw = prop_oneof![
        4 => 0..20 * SECOND,
        1 => near(0),
        1 => near(HALF),
        1 => near(u64::MAX),
        1 => Just(u64::MAX - 117_833),
        1 => any::<u64>(),
    ];
    raw.prop_map(|time| (time != u64::MAX).then(|| ClockTime::from_nseconds(time)))
}

#[derive(Clone, Debug)]
enum Act {
    Frame(Option<ClockTime>, Option<ClockTime>),
    Gap(Option<ClockTime>, Option<ClockTime>),
    Segment([Option<ClockTime>; 5], f64),
    Bytes,
    Flush,
    Eos,
    Property(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let rates = prop_oneof![
        Just(1.0),
        Just(-1.0),
        Just(2.0),
        Just(0.001),
        Just(1e9),
        Just(-1e-9)
    ];
    prop_oneof![
        12 => (time(), time()).prop_map(|(pts, duration)| Act::Frame(pts, duration)),
        4 => (0..40u64, 0..2 * SECOND).prop_map(|(n, d)| {
            Act::Frame(Some(ClockTime::from_mseconds(n * 500)), Some(ClockTime::from_nseconds(d)))
        }),
        2 => (time(), time()).prop_map(|(start, duration)| Act::Gap(start, duration)),
        2 => (prop::array::uniform5(time()), rates).prop_map(|(times, rate)| {
            Act::Segment(times, rate)
        }),
        1 => Just(Act::Bytes),
        1 => Just(Act::Flush),
        1 => Just(Act::Eos),
        1 => prop_oneof![Just(1), Just(HALF), Just(u64::MAX), Just(4 * SECOND)]
            .prop_map(Act::Property),
    ]
}

fn segment(times: [Option<ClockTime>; 5], rate: f64) -> gst::FormattedSegment<ClockTime> {
    let [start, stop, base, offset, time] = times;
    let mut segment = gst::FormattedSegment::<ClockTime>::new();
    segment.set_rate(rate);
    segment.set_start(start.or(Some(ClockTime::ZERO)));
    segment.set_stop(stop.max(start));
    segment.set_base(base.or(Some(ClockTime::ZERO)));
    segment.set_offset(offset.or(Some(ClockTime::ZERO)));
    segment.set_time(time);
    segment
}

fn buffer(pts: Option<ClockTime>, duration: Option<ClockTime>) -> gst::Buffer {
    let mut buffer = Bench::buffer(0);
    let header = buffer.get_mut().unwrap();
    header.set_pts(pts);
    header.set_duration(duration);
    buffer
}

/// Plays a stream and ends it. Gives the number of windows that ended.
fn play(acts: &[Act], live: bool, properties: &[(&str, &str)]) -> usize {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), live, properties).ready();
    let text = bench.element.request_pad_simple("text").unwrap();
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
        .build();
    reader.set_active(true).unwrap();
    text.link(&reader).unwrap();
    let mut eos = false;
    for act in acts {
        match act {
            Act::Frame(pts, duration) => {
                let flow = bench.harness.push(buffer(*pts, *duration));
                assert!(flow.is_ok() || eos, "{flow:?}");
            }
            Act::Gap(Some(start), duration) => {
                bench.event(gst::event::Gap::builder(*start).duration(*duration).build());
            }
            Act::Gap(None, _) => (),
            Act::Segment(times, rate) => {
                bench.event(gst::event::Segment::new(&segment(*times, *rate)));
            }
            Act::Bytes => {
                let bytes = gst::FormattedSegment::<gst::format::Bytes>::new();
                bench.event(gst::event::Segment::new(&bytes));
            }
            Act::Flush => {
                bench.event(gst::event::FlushStart::new());
                bench.event(gst::event::FlushStop::new(true));
                bench.event(gst::event::Segment::new(&segment([None; 5], 1.0)));
                eos = false;
            }
            Act::Eos => {
                bench.eos_in_thread()();
                eos = true;
            }
            Act::Property(time) => {
                for name in ["window-duration", "window-stride"] {
                    // What is out of range is refused by GObject.
                    let time = (*time).min(HALF);
                    bench.element.set_property(name, time);
                }
            }
        }
        let latency = &mut gst::query::Latency::new();
        bench.element.static_pad("src").unwrap().query(latency);
    }
    if !eos {
        bench.eos_in_thread()();
    }
    bench.stop();
    assert!(
        bench.messages.errors.is_empty(),
        "{:?}",
        bench.messages.errors
    );
    let ids = bench.messages.ids();
    let opened: Vec<u64> = (0..ids.len() as u64).collect();
    assert_eq!(ids, opened, "a window has not ended");
    ids.len()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_times_pass(
        acts in prop::collection::vec(act(), 1..40),
        live in any::<bool>(),
        attach in prop_oneof![Just("next"), Just("window")],
        timeout in prop_oneof![Just("0"), Just("50000000")],
    ) {
        let properties = [
            ("attach", attach),
            ("attach-timeout", timeout),
            ("eos-timeout", "200000000"),
        ];
        play(&acts, live, &properties);
    }
}

/// The longest timeouts are waits for ever.
#[test]
fn timeouts_for_ever() {
    let acts: Vec<Act> = (0..16)
        .map(|i| Act::Frame(Some(ClockTime::from_mseconds(i * 500)), None))
        .collect();
    let ever = u64::MAX.to_string();
    for attach in ["next", "window"] {
        let properties = [
            ("attach", attach),
            ("attach-timeout", &*ever),
            ("eos-timeout", &*ever),
        ];
        assert_eq!(play(&acts, false, &properties), 2);
    }
}

/// A time above half of the range is "negative". The frame is not sampled, and the stream goes on.
#[test]
fn a_negative_time_is_left_out() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]).ready();
    bench.frames(0..2_000);
    for off in [117_834, 1, SECOND, HALF] {
        let pts = ClockTime::from_nseconds(u64::MAX - off);
        bench.harness.push(buffer(Some(pts), None)).unwrap();
    }
    bench.frames(2_000..4_000);
    bench.ended(1);
    bench.stop();
    let described = bench.messages.descriptions();
    let pts: gst::Array = described[0].get("frame-pts").unwrap();
    let pts: Vec<u64> = pts.iter().map(|pts| pts.get().unwrap()).collect();
    let wanted: Vec<u64> = (0..8).map(|i| i * SECOND / 2).collect();
    assert_eq!(pts, wanted);
    assert!(bench.messages.errors.is_empty());
}

/// C code may leave out any time: in an event, in a meta, in the answer to a query.
#[test]
fn times_that_are_not_there() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]).ready();
    bench.frames(0..1_000);
    let gap = gst::Structure::builder("GstEventGap")
        .field("timestamp", u64::MAX)
        .field("duration", u64::MAX)
        .build();
    // SAFETY: the function takes the structure and gives an event.
    let gap: gst::Event = unsafe {
        let (kind, gap) = (gst::ffi::GST_EVENT_GAP, gap.into_glib_ptr());
        from_glib_full(gst::ffi::gst_event_new_custom(kind, gap))
    };
    assert!(bench.event(gap));
    bench.frames(1_000..2_000);
    let reference = "timestamp/x-unix".parse().unwrap();
    let mut dated = buffer(Some(ClockTime::from_seconds(2)), None);
    for seconds in [1, 1_000] {
        let time = ClockTime::from_seconds(seconds);
        let header = dated.get_mut().unwrap();
        let mut meta = gst::ReferenceTimestampMeta::add(header, &reference, time, None);
        if seconds == 1 {
            // SAFETY: the meta is this buffer's, which is writable.
            unsafe { (*meta.as_mut_ptr()).timestamp = u64::MAX };
        }
    }
    bench.harness.push(dated).unwrap();
    bench.frames(2_500..4_000);
    let upstream = bench.element.static_pad("sink").unwrap().peer().unwrap();
    upstream.add_probe(gst::PadProbeType::QUERY_UPSTREAM, |_, info| {
        let Some(query) = info.query_mut() else {
            return gst::PadProbeReturn::Ok;
        };
        if query.type_() != gst::QueryType::Latency {
            return gst::PadProbeReturn::Ok;
        }
        query.structure_mut().set("live", true);
        query.structure_mut().set("min-latency", u64::MAX);
        gst::PadProbeReturn::Handled
    });
    let source = bench.element.static_pad("src").unwrap();
    assert!(source.query(&mut gst::query::Latency::new()));
    let text = bench.element.request_pad_simple("text").unwrap();
    assert!(text.query(&mut gst::query::Latency::new()));
    bench.ended(1);
    bench.stop();
    assert!(bench.messages.errors.is_empty(), "{:?}", bench.messages);
    let described = bench.messages.descriptions();
    assert_eq!(described[0].get("frames"), Ok(8_u32));
    // Of the frame at two seconds; the window begins at zero.
    assert_eq!(described[0].get("utc"), Ok(998 * SECOND));
}

/// GLib's criticals since the start of the process.
fn criticals() -> &'static Mutex<Vec<String>> {
    static CRITICALS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let levels = glib::LogLevels::LEVEL_CRITICAL | glib::LogLevels::LEVEL_WARNING;
    glib::log_set_handler(Some("GStreamer"), levels, false, false, |_, _, text| {
        CRITICALS.lock().unwrap().push(text.to_owned());
    });
    &CRITICALS
}

/// A segment without running times passes, its frames are not sampled, and GStreamer is not asked
/// for a time that it cannot compute.
#[test]
fn segments_that_give_no_times() {
    let criticals = criticals();
    let second = Some(ClockTime::SECOND);
    for (rate, applied_rate, stop, offset, told) in [
        (-1.0, 1.0, None, None, 0),
        (-1.0, 1.0, second, Some(ClockTime::from_seconds(2)), 0),
        (f64::NAN, 1.0, None, None, 0),
        (f64::INFINITY, 1.0, None, None, 0),
        (1.0, -1.0, None, None, 2),
        (1.0, f64::NAN, None, None, 2),
    ] {
        let what = format!("{rate} {applied_rate} {stop:?} {offset:?}");
        let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &[]).ready();
        let mut segment = segment([None, stop, None, offset, None], 1.0);
        segment.set_time(ClockTime::ZERO);
        let mut event = gst::event::Segment::new(&segment);
        // SAFETY: the event is not shared; the structure of its segment is written in place.
        unsafe {
            let mut inside = std::ptr::null();
            let event = event.make_mut().as_mut_ptr();
            gst::ffi::gst_event_parse_segment(event, &mut inside);
            (*inside.cast_mut()).rate = rate;
            (*inside.cast_mut()).applied_rate = applied_rate;
        }
        assert!(bench.event(event));
        for ms in (0..8_000).step_by(500) {
            bench.push(ms).unwrap();
        }
        bench.eos_in_thread()();
        bench.stop();
        assert_eq!(bench.messages.descriptions().len(), told, "{what}");
        assert!(bench.messages.errors.is_empty(), "{what}");
        // Missing descriptions have an explanation: the WARNING.
        assert_eq!(of_timestamps(&bench), usize::from(told == 0), "{what}");
        let said = std::mem::take(&mut *criticals.lock().unwrap());
        assert!(said.is_empty(), "{what}: {said:?}");
    }
}

fn of_timestamps(bench: &Bench) -> usize {
    let warnings = bench.messages.warnings.iter();
    warnings
        .filter(|warning| warning.message().contains("no timestamps"))
        .count()
}

#[test]
fn frames_without_times_bring_one_warning() {
    for (frames, bytes) in [(40, false), (2, false), (40, true)] {
        let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &[]).ready();
        if bytes {
            let segment = gst::FormattedSegment::<gst::format::Bytes>::new();
            bench.event(gst::event::Segment::new(&segment));
        }
        let pts = bytes.then_some(ClockTime::ZERO);
        for _ in 0..frames {
            bench.harness.push(buffer(pts, None)).unwrap();
        }
        bench.eos_in_thread()();
        bench.stop();
        let told = of_timestamps(&bench);
        assert_eq!(told, 1, "{frames} {bytes}: {:?}", bench.messages.warnings);
        assert!(bench.messages.ids().is_empty());
    }
    // A few frames without times, as from parsers, bring no WARNING. More do, although the first
    // frame had a time, as with still images.
    for (first, untimed, told) in [(4_000, 3, 0), (2_000, 3, 0), (500, 3, 1), (4_000, 40, 1)] {
        let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &[]).ready();
        bench.harness.push(buffer(None, None)).unwrap();
        bench.frames(0..first);
        for _ in 0..untimed {
            bench.harness.push(buffer(None, None)).unwrap();
        }
        bench.eos_in_thread()();
        bench.stop();
        assert_eq!(of_timestamps(&bench), told, "{first} {untimed}");
    }
}

/// A camera's stream has no end, so the WARNING comes with the tenth frame in a row.
#[test]
fn a_stream_without_times_is_warned_of_while_it_plays() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]).ready();
    for frame in 1..=12 {
        bench.harness.push(buffer(None, None)).unwrap();
        bench.collect();
        let told = of_timestamps(&bench);
        assert_eq!(told, usize::from(frame >= 10), "after {frame} frames");
    }
    bench.stop();
}

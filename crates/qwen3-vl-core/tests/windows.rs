//! Sampling and windows against a second implementation of the rules, for any timestamps.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use qwen3_vl_core::window::{
    Discard, Event, FrameSampler, Kept, Pairs, RulesError, WindowRules, WindowSettings, Windows,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn settings() -> WindowSettings {
    WindowSettings {
        duration: 4 * SECOND,
        stride: 0,
        fps: (2, 1),
        min_frames: 4,
        max_frames: 768,
        least_frames: 2,
    }
}

fn rules() -> WindowRules {
    WindowRules::new(&settings()).unwrap()
}

/// Times that the sampler keeps.
fn sampled(rules: WindowRules, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut sampler = FrameSampler::new(rules);
    times
        .into_iter()
        .filter(|time| sampler.push(Some(*time)).is_some())
        .collect()
}

#[test]
fn two_frames_a_second_of_thirty() {
    let kept = sampled(rules(), (0..300).map(|i| i * SECOND / 30));
    let expected: Vec<u64> = (0..20).map(|i| i * SECOND / 2).collect();
    assert_eq!(kept, expected);
}

#[test]
fn timestamps_rounded_down_are_not_late() {
    // 3 a second of 30: the grid and the timestamps both have thirds.
    let rules = WindowRules::new(&WindowSettings {
        fps: (3, 1),
        ..settings()
    })
    .unwrap();
    let kept = sampled(rules, (0..90).map(|i| i * SECOND / 30));
    let expected: Vec<u64> = (0..9).map(|i| i * 10 * SECOND / 30).collect();
    assert_eq!(kept, expected);
}

#[test]
fn the_grid_does_not_drift() {
    // 25 frames a second have none at 0.5 s: the one at 0.52 s is kept, and 1.0 s is still due.
    let kept = sampled(rules(), (0..100).map(|i| i * 40 * MS));
    let ms: Vec<u64> = kept.iter().map(|t| t / MS).collect();
    assert_eq!(ms, [0, 520, 1000, 1520, 2000, 2520, 3000, 3520]);
}

/// A frame that is near enough to the next due time may still be earlier than the last one.
#[test]
fn a_short_step_back_brings_no_frame_before_the_last() {
    let times = [0, 480, 100, 460, 530, 1000];
    let kept = sampled(rules(), times.map(|ms| ms * MS));
    assert_eq!(kept, [0, 480 * MS, 1000 * MS]);
    let times = [0, 200, 490, 300, 470, 900, 1010];
    assert_eq!(
        sampled(rules(), times.map(|ms| ms * MS)),
        [0, 490 * MS, 900 * MS]
    );
}

#[test]
fn a_gap_ends_the_windows_that_end_in_it() {
    let mut windows = Windows::new(rules(), 0);
    windows.push(0, SECOND);
    windows.push(SECOND, 2 * SECOND);
    assert_eq!(windows.skip(4 * SECOND - 1), []);
    let (window, partial) = (0, false);
    assert_eq!(
        windows.skip(4 * SECOND),
        [Event::Closed { window, partial }]
    );
    assert_eq!(windows.skip(100 * SECOND), []);
    let window = 1;
    let end = 12 * SECOND;
    assert_eq!(
        windows.push(9 * SECOND, 10 * SECOND),
        [Event::Opened { window, end }, Event::Frame { window }]
    );
}

#[test]
fn a_jitter_loses_no_frame_of_a_stream_as_slow_as_the_sampling_rate() {
    let mut sampler = FrameSampler::new(rules());
    let times = [0, 512, 991, 1520, 1985, 2503, 2980, 3508, 3982, 4500];
    let kept: Vec<Kept> = times
        .iter()
        .filter_map(|ms| sampler.push(Some(ms * MS)))
        .collect();
    let stands_for: Vec<u64> = kept.iter().map(|kept| kept.time / MS).collect();
    // An early frame gets its due time, so it belongs to the right window.
    assert_eq!(
        stands_for,
        [0, 512, 1000, 1520, 2000, 2503, 3000, 3508, 4000, 4500]
    );
    assert_eq!(kept[8].next, 4500 * MS);
    // Of two frames at equal distance the later one is kept, as without a jitter.
    let shifted = |by| {
        let times = (1..14).map(|i| i * 40 * MS + by);
        sampled(rules(), std::iter::once(0).chain(times))
    };
    assert_eq!(shifted(0), [0, 520 * MS]);
    assert_eq!(shifted(MS), [0, 481 * MS]);
}

#[test]
fn the_rate_follows_the_frame_limits() {
    let planned = |settings: &WindowSettings| WindowRules::new(settings).unwrap().planned_frames();
    assert_eq!(planned(&settings()), 8);
    assert_eq!(
        planned(&WindowSettings {
            duration: SECOND,
            ..settings()
        }),
        4
    );
    assert_eq!(
        planned(&WindowSettings {
            max_frames: 5,
            ..settings()
        }),
        5
    );
    assert_eq!(
        planned(&WindowSettings {
            fps: (1, 10),
            ..settings()
        }),
        4
    );
    let rules = WindowRules::new(&WindowSettings {
        max_frames: 5,
        ..settings()
    })
    .unwrap();
    let kept = sampled(rules, (0..400).map(|i| i * 10 * MS));
    assert_eq!(kept, [0, 800 * MS, 1600 * MS, 2400 * MS, 3200 * MS]);
}

#[test]
fn settings_that_make_no_sense() {
    let error = |settings: WindowSettings| WindowRules::new(&settings).unwrap_err();
    assert_eq!(
        error(WindowSettings {
            fps: (0, 1),
            ..settings()
        }),
        RulesError::Fps(0, 1)
    );
    assert_eq!(
        error(WindowSettings {
            duration: 0,
            ..settings()
        }),
        RulesError::Duration(0)
    );
    assert_eq!(
        error(WindowSettings {
            min_frames: 9,
            max_frames: 8,
            ..settings()
        }),
        RulesError::Frames { min: 9, max: 8 }
    );
    assert_eq!(
        error(WindowSettings {
            min_frames: 1,
            max_frames: 1,
            ..settings()
        }),
        RulesError::TooFew {
            planned: 1,
            least: 2,
            remedy: "max-frames"
        }
    );
    assert_eq!(
        error(WindowSettings {
            stride: SECOND / 4,
            ..settings()
        }),
        RulesError::Stride {
            stride: SECOND / 4,
            interval: SECOND / 2
        }
    );
}

#[test]
fn a_window_closes_with_its_last_frame() {
    let mut windows = Windows::new(rules(), 7);
    let end = 4 * SECOND;
    assert_eq!(
        windows.push(0, SECOND / 2),
        [Event::Opened { window: 7, end }, Event::Frame { window: 7 }]
    );
    // The next frame is due at 4 s, so the window is complete.
    assert_eq!(
        windows.push(3500 * MS, end),
        [
            Event::Frame { window: 7 },
            Event::Closed {
                window: 7,
                partial: false
            }
        ]
    );
    assert_eq!(windows.finish(), []);
    assert_eq!(windows.next_id(), 8);
}

#[test]
fn overlapping_windows_share_frames() {
    let settings = WindowSettings {
        stride: 2 * SECOND,
        ..settings()
    };
    let mut windows = Windows::new(WindowRules::new(&settings).unwrap(), 0);
    windows.push(0, SECOND);
    assert_eq!(
        windows.push(2 * SECOND, 3 * SECOND),
        [
            Event::Opened {
                window: 1,
                end: 6 * SECOND
            },
            Event::Frame { window: 0 },
            Event::Frame { window: 1 }
        ]
    );
    assert_eq!(
        windows.finish(),
        [
            Event::Closed {
                window: 0,
                partial: true
            },
            Event::Discarded {
                window: 1,
                reason: Discard::TooShort
            }
        ]
    );
}

#[test]
fn a_window_is_judged_by_the_rules_that_it_opened_under() {
    let mut windows = Windows::new(rules(), 0);
    windows.push(0, SECOND);
    let images = WindowSettings {
        least_frames: 1,
        ..settings()
    };
    windows.set_rules(WindowRules::new(&images).unwrap());
    let reason = Discard::TooShort;
    assert_eq!(windows.finish(), [Event::Discarded { window: 0, reason }]);
    // The next one follows the new rules.
    windows.push(0, SECOND);
    let partial = true;
    assert_eq!(windows.finish(), [Event::Closed { window: 1, partial }]);
}

#[test]
fn other_rules_count_from_the_next_sample_on() {
    let mut sampler = FrameSampler::new(rules());
    assert!(sampler.push(Some(0)).is_some());
    let faster = WindowSettings {
        fps: (4, 1),
        ..settings()
    };
    sampler.set_rules(WindowRules::new(&faster).unwrap());
    let next =
        |sampler: &mut FrameSampler, ms| sampler.push(Some(ms * MS)).map(|kept| kept.next / MS);
    assert_eq!(next(&mut sampler, 250), None, "still due at 0.5 s");
    assert_eq!(next(&mut sampler, 500), Some(750));
    assert_eq!(next(&mut sampler, 750), Some(1000));
}

#[test]
fn after_a_reset_the_next_frame_is_the_first() {
    let mut sampler = FrameSampler::new(rules());
    for ms in [0, 100] {
        assert!(sampler.push(Some(ms * MS)).is_some());
        sampler.reset();
    }
}

#[test]
fn frames_of_one_time_are_of_one_window() {
    let mut windows = Windows::new(rules(), 0);
    windows.push(0, 0);
    assert_eq!(windows.push(0, SECOND), [Event::Frame { window: 0 }]);
}

#[test]
fn odd_frames_are_paired_with_themselves() {
    let mut pairs = Pairs::default();
    assert_eq!(pairs.push(1), None);
    assert_eq!(pairs.push(2), Some([1, 2]));
    assert_eq!(pairs.clone().finish(), None);
    assert_eq!(pairs.push(3), None);
    assert_eq!(pairs.finish(), Some([3, 3]));
}

/// Any settings that are accepted.
fn any_rules() -> impl Strategy<Value = (WindowSettings, WindowRules)> {
    let fps = (1u32..60, 1u32..10);
    (
        1u64..20_000,
        0u64..30_000,
        fps,
        1u32..40,
        1u32..200,
        1u32..3,
    )
        .prop_map(
            |(duration, stride, fps, min_frames, more, least_frames)| WindowSettings {
                duration: duration * MS,
                stride: stride * MS,
                fps,
                min_frames,
                max_frames: min_frames + more,
                least_frames,
            },
        )
        .prop_filter_map("refused", |s| WindowRules::new(&s).ok().map(|r| (s, r)))
}

/// Times of a stream: mostly forward, sometimes on the spot, back, far away or none.
fn any_times() -> impl Strategy<Value = Vec<Option<u64>>> {
    let step = prop_oneof![
        20 => (0i64..600).prop_map(Some),
        2 => Just(Some(0)),
        1 => (-30_000i64..0).prop_map(Some),
        1 => (0i64..100_000).prop_map(Some),
        1 => Just(None),
    ];
    (0i64..1_000_000, prop::collection::vec(step, 0..400)).prop_map(|(start, steps)| {
        let mut now = start;
        let step = |step: Option<i64>| {
            step.map(|step| {
                now = (now + step).max(0);
                now.unsigned_abs() * MS
            })
        };
        steps.into_iter().map(step).collect()
    })
}

#[derive(Default)]
struct Seen {
    end: u64,
    frames: Vec<u64>,
    ended: Option<Event>,
}

/// Records the events of every window; fails on a wrong order.
fn note(seen: &mut BTreeMap<u64, Seen>, events: Vec<Event>, time: u64) {
    for event in events {
        match event {
            Event::Opened { window, end } => {
                assert_eq!(window, seen.len() as u64, "ids count up");
                seen.insert(
                    window,
                    Seen {
                        end,
                        ..Seen::default()
                    },
                );
            }
            Event::Frame { window } => {
                let window = seen.get_mut(&window).unwrap();
                assert!(window.ended.is_none(), "a frame after the end");
                window.frames.push(time);
            }
            Event::Closed { window, .. } | Event::Discarded { window, .. } => {
                let window = seen.get_mut(&window).unwrap();
                assert!(window.ended.replace(event).is_none(), "ended twice");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn planned_frames_are_within_limits((settings, rules) in any_rules()) {
        prop_assert!(rules.planned_frames() >= settings.min_frames);
        prop_assert!(rules.planned_frames() <= settings.max_frames);
        // As many as planned are kept, if there is one every millisecond and that is enough.
        if u64::from(rules.planned_frames()) * MS * 2 < settings.duration {
            let kept = sampled(rules, (0..settings.duration / MS).map(|ms| ms * MS));
            prop_assert!((kept.len() as u32).abs_diff(rules.planned_frames()) <= 1);
        }
    }

    #[test]
    fn the_sampler_keeps_its_word((_, rules) in any_rules(), times in any_times()) {
        let mut sampler = FrameSampler::new(rules);
        let mut last: Option<Kept> = None;
        let mut before = 0;
        for time in times {
            let kept = sampler.push(time);
            let Some(time) = time else {
                prop_assert_eq!(kept, None);
                continue;
            };
            // The next frame would be farther from `due`, were it as far from this one as the one
            // before is.
            let nearest = |due: u64| due - time < time.saturating_sub(before) / 2;
            match (kept, last) {
                (Some(kept), _) => {
                    prop_assert!(kept.next > kept.time);
                    if let Some(last) = last {
                        let back = time + rules.duration() < last.time;
                        let early = time < last.next && !back;
                        prop_assert_eq!(kept.time, if early { last.next } else { time });
                        prop_assert!(!early || nearest(last.next));
                    }
                }
                // The first frame is always kept, and so is one that is due.
                (None, None) => prop_assert!(false),
                (None, Some(last)) => prop_assert!(time < last.next && !nearest(last.next)),
            }
            let anew = last.is_none_or(|last| time + rules.duration() < last.time);
            prop_assert!(kept.is_none() || anew || before < time);
            last = kept.or(last);
            before = if anew { time } else { before.max(time) };
        }
    }

    #[test]
    fn every_frame_is_in_the_windows_that_cover_it(
        (settings, rules) in any_rules(),
        times in any_times(),
        breaks in prop::collection::vec(0usize..400, 0..3),
    ) {
        let stride = if settings.stride == 0 { settings.duration } else { settings.stride };
        let mut sampler = FrameSampler::new(rules);
        let mut windows = Windows::new(rules, 0);
        let mut seen = BTreeMap::new();
        // The runs of frames after each of which windows start again, with the windows of each.
        let mut runs: Vec<(Vec<u64>, std::ops::Range<usize>)> = vec![(Vec::new(), 0..0)];
        for (i, time) in times.into_iter().enumerate() {
            if breaks.contains(&i) {
                sampler.reset();
                note(&mut seen, windows.finish(), 0);
                runs.push((Vec::new(), seen.len()..seen.len()));
            }
            let Some(Kept { time, next }) = sampler.push(time) else { continue };
            if runs.last().unwrap().0.last().is_some_and(|last| time < *last) {
                runs.push((Vec::new(), seen.len()..seen.len()));
            }
            note(&mut seen, windows.push(time, next), time);
            let run = runs.last_mut().unwrap();
            run.0.push(time);
            run.1.end = seen.len();
        }
        note(&mut seen, windows.finish(), 0);

        for (frames, ids) in runs {
            let (Some(first), Some(last)) = (frames.first(), frames.last()) else { continue };
            // Windows by definition: k strides from the first frame, if any frame is inside.
            let expected: Vec<(u64, Vec<u64>)> = (0..)
                .map(|k| first + k * stride)
                .take_while(|start| start <= last)
                .map(|start| {
                    let covered = start..start + settings.duration;
                    let inside = frames.iter().copied().filter(|t| covered.contains(t)).collect();
                    (covered.end, inside)
                })
                .filter(|(_, frames): &(u64, Vec<u64>)| !frames.is_empty())
                .collect();
            let got: Vec<(u64, Vec<u64>)> = ids
                .map(|id| &seen[&(id as u64)])
                .map(|window| (window.end, window.frames.clone()))
                .collect();
            prop_assert_eq!(got, expected);
        }
        for (id, window) in &seen {
            let short = window.frames.len() < settings.least_frames as usize;
            let discarded = matches!(window.ended.unwrap(), Event::Discarded { .. });
            prop_assert_eq!(discarded, short, "window {}", id);
        }
    }

    #[test]
    fn any_number_is_survived(
        (_, rules) in any_rules(),
        times in prop::collection::vec(any::<u64>(), 0..50),
    ) {
        let mut sampler = FrameSampler::new(rules);
        let mut windows = Windows::new(rules, 0);
        let mut seen = BTreeMap::new();
        for time in times {
            if let Some(Kept { time, next }) = sampler.push(Some(time)) {
                note(&mut seen, windows.push(time, next), time);
            }
        }
        note(&mut seen, windows.clear(), 0);
        prop_assert!(seen.values().all(|window| window.ended.is_some()));
    }
}

//! The checks of the commands' files: of every file that a command writes.

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use gst::ClockTime;
use gst::prelude::*;
use serde_json::Value;

use super::SCREEN;

use crate::common::{media, schema};

/// The folder, the command and its output.
pub struct Made<'a> {
    pub command: &'a str,
    pub folder: &'a Path,
    pub said: &'a str,
}

type Check = Result<(), String>;

/// The default window duration.
const WINDOW: ClockTime = ClockTime::from_seconds(4);

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Check {
    match got == want {
        true => Ok(()),
        false => Err(format!("{what}: {got:?}, not {want:?}")),
    }
}

impl Made<'_> {
    /// Checks the file of this name.
    pub fn check(&self, name: &str) -> Check {
        let file = self.folder.join(name);
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        match (stem, extension) {
            ("film", "vtt") => subtitles(&fs::read_to_string(file).unwrap()),
            ("described", "mkv") => {
                let (video, texts) = read(&file, "matroskademux", "subtitle_0");
                equal("frames", video.len(), 1000)?;
                equal("subtitles", texts, scenes())
            }
            ("camera", "mkv") => equal("frames", frames(&file, "matroskademux"), 100),
            ("camera", "webm") => equal("frames", frames(&file, "matroskademux"), 360),
            // splitmuxsink may leave out the last one (seen in 1.22).
            ("camera-00000", "mp4") => match frames(&file, "qtdemux") {
                99 | 100 => Ok(()),
                other => Err(format!("{other} frames")),
            },
            // Ten seconds, and windows of four from when the model is there. A text that the muxer
            // holds the video back for comes half a second late.
            ("part-00", "mkv") => {
                let (video, texts) = read(&file, "matroskademux", "subtitle_0");
                equal("frames", video.len(), 300)?;
                let first = self.loaded();
                let near = |a: ClockTime, b| a.absdiff(b) < ClockTime::from_mseconds(700);
                let span = |i: u64| (first + i * WINDOW, first + (i + 1) * WINDOW);
                // In their order; one that had no answer in time is left out.
                let mut spans = (0..3).map(span);
                let right = texts.iter().all(|(start, end)| {
                    spans.any(|span| near(*start, span.0) && near(*end, span.1))
                });
                match right && texts.len() >= 2 {
                    true => Ok(()),
                    false => Err(format!("subtitles: {texts:?}, model: {first}")),
                }
            }
            ("part-01", "mkv") => equal("frames", frames(&file, "matroskademux"), 60),
            ("descriptions", "txt") => self.lines(&file),
            (_, "jsonl") => self.json_lines(stem, &file),
            (_, "log") => Ok(()),
            (screen, "grey") if screen == SCREEN => self.screen(&fs::read(file).unwrap()),
            _ => Err(format!("nothing is known of {name}")),
        }
    }

    /// The messages of this name on the command's output.
    fn named(&self, name: &str) -> Vec<gst::Structure> {
        self.said
            .lines()
            .filter_map(|line| line.split_once("(element): "))
            .filter_map(|(_, text)| text.parse().ok())
            .filter(|s: &gst::Structure| s.name() == name)
            .collect()
    }

    /// When the model was loaded, by the windows dropped before.
    fn loaded(&self) -> ClockTime {
        let dropped = self.named("qwenvl/dropped").into_iter();
        let early = dropped.filter(|s| s.get::<&str>("reason") == Ok("loading"));
        let ends = early.map(|s| s.get::<u64>("end-running-time").unwrap());
        ClockTime::from_nseconds(ends.max().unwrap_or(0))
    }

    /// Checks the messages on the command's output.
    pub fn messages(&self) -> Check {
        let descriptions = self.named("qwenvl/description");
        let each = |field: &str, most: u32| -> Check {
            let values = descriptions.iter().map(|s| s.get::<u32>(field).unwrap());
            match values.filter(|value| *value > most).max() {
                None => Ok(()),
                Some(more) => Err(format!("{field} is {more}, more than {most}")),
            }
        };
        // 9 frames of 640x480 are 1500 tokens in 5 pairs; of 65536 pixels 5 pairs are 320.
        if self.command.contains("max-pixels=65536") {
            each("prompt-tokens", 400)?;
        }
        if self.command.contains("window-duration=20000000000") {
            each("frames", 10)?;
            equal("windows", descriptions.len(), 2)?;
        }
        if self.command.contains("window-stride=2000000000") {
            // One begins every two seconds of forty.
            equal("windows", descriptions.len(), 20)?;
        }
        if self.command.contains("max-tokens=32") {
            each("completion-tokens", 32)?;
        }
        Ok(())
    }

    fn lines(&self, file: &Path) -> Check {
        let lines = fs::read_to_string(file).unwrap();
        let lines = lines.lines().filter(|line| line.starts_with("qwenvl0  "));
        equal("lines", lines.count(), scenes().len())
    }

    fn json_lines(&self, stem: &str, file: &Path) -> Check {
        let schema = include_str!("../../../docs/messages.schema.json");
        let schema: Value = serde_json::from_str(schema).unwrap();
        let lines = fs::read_to_string(file).unwrap();
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let starts = |key: &str, unit: f64| -> Vec<f64> {
            let starts = lines.iter().map(|line| line[key].as_f64().unwrap());
            starts.map(|start| start / unit).collect()
        };
        let wanted: Vec<f64> = (0..scenes().len()).map(|i| i as f64 * 4.0).collect();
        match stem {
            "short" => {
                let stream = lines.iter().all(|line| line["stream"] == "film");
                equal("streams", stream, true)?;
                let texts = lines.iter().all(|line| line["text"].is_string());
                equal("texts", texts, true)?;
                equal("seconds", starts("second", 1.0), wanted)
            }
            "descriptions" => {
                lines.iter().for_each(|line| schema::check(&schema, line));
                equal("starts", starts("start-pts", 1e9), wanted)
            }
            // A camera that has ended twice: two windows and the rest of one, each time.
            _ => {
                lines.iter().for_each(|line| schema::check(&schema, line));
                let own = lines.iter().all(|line| line["stream-id"] == stem);
                equal("streams", own, true)?;
                equal("windows", lines.len(), 6)
            }
        }
    }

    /// Grey frames of 640x480 pixels, one a second: the text in the lower part, where there is one.
    fn screen(&self, frames: &[u8]) -> Check {
        let frames: Vec<&[u8]> = frames.chunks_exact(640 * 480).collect();
        let lower = |frame: &[u8]| frame[640 * 360..].to_vec();
        if !self.command.contains("textoverlay") {
            return equal("frames", frames.is_empty(), false);
        }
        // White letters on a black shade.
        let letters = |frame: &&[u8]| {
            let lower = lower(frame);
            let count = |wanted: fn(u8) -> bool| lower.iter().filter(|p| wanted(**p)).count();
            count(|grey| grey > 150) > 100 && count(|grey| grey < 30) > 1000
        };
        let described = frames.iter().filter(|frame| letters(frame)).count();
        if self.command.contains("film.mp4") {
            // Every frame has the text about it.
            equal("frames", frames.len(), 40)?;
            return equal("described", described, 40);
        }
        // A test picture has white and black of its own: there, what differs from the first frame,
        // in the half without its snow.
        let differs = |frame: &&[u8]| {
            let pairs = lower(frame).into_iter().zip(lower(frames[0])).enumerate();
            let left = pairs.filter(|(i, _)| i % 640 < 320);
            left.filter(|(_, (a, b))| a.abs_diff(*b) > 60).count() > 500
        };
        let shown: Vec<bool> = match self.command.contains("rtspsrc") {
            true => frames.iter().map(differs).collect(),
            false => frames.iter().map(letters).collect(),
        };
        let first = shown.iter().take_while(|shown| !**shown).count();
        let rest = shown[first..].iter().all(|shown| *shown);
        // Held video has its text from where there is a model, which is in the middle of a second;
        // else the first window cannot have one.
        let right = match self.command.contains("attach=window") {
            true => first as u64 <= self.loaded().seconds() + 1,
            false => first >= 4,
        };
        match right && rest && first < shown.len() {
            true => Ok(()),
            false => Err(format!("frames with a text: {shown:?}")),
        }
    }
}

/// Start, end and text of every scene of the film.
fn scenes() -> Vec<(ClockTime, ClockTime)> {
    let second = |value: &Value| ClockTime::from_seconds(value.as_u64().unwrap());
    let rows = media::rows("film.json");
    let spans = rows
        .iter()
        .map(|row| (second(&row["start"]), second(&row["end"])));
    spans.collect()
}

fn subtitles(vtt: &str) -> Check {
    let cues = vtt.lines().filter(|line| line.contains(" --> "));
    let wanted = (0..scenes().len()).map(|i| {
        let time = |second: usize| format!("00:00:{second:02}.000");
        format!("{} --> {}", time(4 * i), time(4 * i + 4))
    });
    let wanted: Vec<String> = wanted.collect();
    equal(
        "cues",
        cues.collect::<Vec<_>>(),
        wanted.iter().map(String::as_str).collect(),
    )
}

fn frames(file: &Path, demuxer: &str) -> usize {
    read(file, demuxer, "").0.len()
}

/// Start of every frame, start and end of every text, by the demuxer.
fn read(file: &Path, demuxer: &str, text: &str) -> (Vec<ClockTime>, Vec<(ClockTime, ClockTime)>) {
    let texts = match text {
        "" => String::new(),
        pad => format!("d.{pad} ! queue ! fakesink name=t sync=false async=false"),
    };
    let line = format!(
        "filesrc location=\"{}\" ! {demuxer} name=d \
         d.video_0 ! queue ! fakesink name=v sync=false async=false {texts}",
        file.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let spans = |name: &str| {
        let (sender, spans) = mpsc::channel();
        if let Some(sink) = pipeline.by_name(name) {
            let pad = sink.static_pad("sink").unwrap();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let buffer = info.buffer().unwrap();
                // In some formats an empty text ends the one before.
                if buffer
                    .map_readable()
                    .unwrap()
                    .iter()
                    .any(|byte| *byte > b' ')
                {
                    let start = buffer.pts().unwrap();
                    let end = start + buffer.duration().unwrap_or_default();
                    sender.send((start, end)).unwrap();
                }
                gst::PadProbeReturn::Ok
            });
        }
        spans
    };
    let (video, text) = (spans("v"), spans("t"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(ClockTime::from_seconds(30), &ends);
    pipeline.set_state(gst::State::Null).unwrap();
    let end = end.map(|end| end.type_());
    assert_eq!(end, Some(gst::MessageType::Eos), "{file:?}");
    (
        video.try_iter().map(|(start, _)| start).collect(),
        text.try_iter().collect(),
    )
}

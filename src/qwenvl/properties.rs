//! The properties: GObject's specifications, the getters and the setters come from one table.
//! Defaults are those of [`Settings`]; a test compares `docs/properties.md` with the table.

mod setters;

use std::cmp::Ordering;
use std::sync::LazyLock;

use gst::glib::{self, ParamSpecEnum};
use gst::prelude::*;

use self::setters::{factor, fraction, memory, number, optional_text, put, text};
use super::settings::Settings;
use super::time;

pub(super) use self::setters::Remark;

/// A property that is a setting.
struct Property {
    spec: glib::ParamSpec,
    get: fn(&Settings) -> glib::Value,
    set: fn(&mut Settings, &glib::Value) -> Result<(), Remark>,
}

/// Makes [`table`] of rows: name, nick, `field by setter`, when it may change,
/// `|name, default| builder`, blurb. `field` is one of [`Settings`], `default` its default,
/// `setter` a function of [`setters`].
macro_rules! table {
    ($(
        $(#[$attribute:meta])*
        $name:literal, $nick:literal, $field:ident by $setter:ident, $mutability:ident,
        |$of:pat_param, $default:pat_param| $builder:expr,
        $blurb:literal;
    )*) => {
        fn table() -> Vec<Property> {
            vec![$(
                $(#[$attribute])*
                Property {
                    spec: {
                        let ($of, $default) = ($name, Settings::default().$field);
                        $builder.nick($nick).blurb($blurb).$mutability().build()
                    },
                    get: |settings| settings.$field.to_value(),
                    set: |settings, value| $setter(&mut settings.$field, $name, value),
                },
            )*]
        }
    };
}

/// The property `preset`, which gives others their values.
pub(super) const PRESET: &str = "preset";

/// The property `stats`, which is read-only and no setting.
pub(super) const STATS: &str = "stats";

static TABLE: LazyLock<Vec<Property>> = LazyLock::new(table);

table! {
    "model", "Model", model by text, mutable_ready,
        |name, default| string(name).default_value(Some(default.as_str())),
        "demo (part of the plugin; knows synthetic traffic only), a folder, a GGUF file, or a hub \
         id such as Qwen/Qwen3-VL-4B-Instruct, with a file of it if that is GGUF";
    "mmproj", "Vision tower", mmproj by optional_text, mutable_ready,
        |name, _| string(name),
        "File of the vision tower of a model in GGUF (NULL = the mmproj*.gguf beside the model)";
    "revision", "Revision", revision by optional_text, mutable_ready,
        |name, _| string(name),
        "Branch, tag or commit of a model on the hub (NULL = main)";
    "device", "Device", device by text, mutable_ready,
        |name, default| string(name).default_value(Some(default.as_str())),
        "Device that computes: auto, cpu, cuda or cuda:N";
    "dtype", "Data type", dtype by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Type of the weights; with quantization, of those that it leaves alone";
    "quantization", "Quantization", quantization by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "What the linear layers of the language model are rounded to while they are loaded: \
         less memory, faster answers, not quite the same";
    "compute", "Compute", compute by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Arithmetic of products with weights on the CPU; nothing changes on a GPU";
    "prompt-layout", "Prompt layout", prompt_layout by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Where the vision tokens stand in the prompt";
    "preset", "Preset", preset by put, mutable_playing,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Defaults that go with a model, for the properties that are not set, before or after it; \
         taken up by the next window";
    "prompt", "Prompt", prompt by text, mutable_playing,
        |name, default| string(name).default_value(Some(default.as_str())),
        "What to ask about each window; taken up by the next window";
    "system-prompt", "System prompt", system_prompt by optional_text, mutable_playing,
        |name, _| string(name),
        "System prompt (NULL = none); taken up by the next window";
    "window-duration", "Window duration", window_duration by put, mutable_playing,
        |name, default| uint64(name, default).minimum(1).maximum(time::LAST),
        "Length of a window in ns";
    "window-stride", "Window stride", window_stride by put, mutable_playing,
        |name, default| uint64(name, default).maximum(time::LAST),
        "Distance of the starts of windows in ns; below window-duration they overlap (0 = \
         window-duration)";
    "fps", "Frames per second", fps by fraction, mutable_playing,
        |name, default| gst::ParamSpecFraction::builder(name)
            .minimum(gst::Fraction::new(0, 1))
            .maximum(gst::Fraction::new(i32::MAX, 1))
            .default_value(default),
        "Sampling rate by timestamps; changed where a window would hold fewer than min-frames \
         or more than max-frames";
    "min-frames", "Minimum frames", min_frames by put, mutable_playing,
        |name, default| uint(name, default).minimum(1),
        "Fewest frames sampled in a window";
    "max-frames", "Maximum frames", max_frames by put, mutable_playing,
        |name, default| uint(name, default).minimum(1),
        "Most frames sampled in a window";
    "min-pixels", "Minimum pixels", min_pixels by put, mutable_playing,
        |name, default| uint64(name, default),
        "Fewest pixels of a frame (0 = from the checkpoint; lowered to max-pixels if only that \
         is set). One of the three pixel properties brings the rule of qwen-vl-utils";
    "max-pixels", "Maximum pixels", max_pixels by put, mutable_playing,
        |name, default| uint64(name, default),
        "Most pixels of a frame (0 = from the checkpoint; raised to min-pixels if only that is \
         set). Never makes frames larger";
    "total-pixels", "Total pixels", total_pixels by put, mutable_playing,
        |name, default| uint64(name, default),
        "Most pixels of all frames of a window together, two frames counted as one (0 = from \
         the checkpoint). Never makes frames larger";
    "frame-cap", "Frame cap", frame_cap by put, mutable_playing,
        |name, default| boolean(name, default),
        "Without min-pixels: no frame has more than 768 tokens (transformers' \
         cap_pixels_per_frame, its default from 5.22 on). Off: few frames share all pixels of \
         the checkpoint's budget";
    "mode", "Mode", mode by put, mutable_playing,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "How the frames are given to the model";
    "max-tokens", "Maximum tokens", max_tokens by put, mutable_playing,
        |name, default| uint(name, default).minimum(1),
        "Most tokens of an answer";
    "reasoning", "Reasoning", reasoning by put, mutable_playing,
        |name, default| boolean(name, default),
        "Put what a model thinks before it answers into the messages, as the field reasoning and \
         as tokens; with preset=cosmos-reason2, ask it to think. The answer never holds it";
    "reasoning-tokens", "Reasoning tokens", reasoning_tokens by put, mutable_playing,
        |name, default| uint(name, default),
        "Most tokens that a model may think before it has to answer; max-tokens does not count \
         them (0 = it must not think)";
    "temperature", "Temperature", temperature by number, mutable_playing,
        |name, default| double(name, default),
        "Randomness of the answers; 0 = always the likeliest token (-1 = from the checkpoint)";
    "top-p", "Top p", top_p by number, mutable_playing,
        |name, default| double(name, default).maximum(1.0),
        "Choose among the likeliest tokens that have this probability together (-1 = from the \
         checkpoint)";
    "top-k", "Top k", top_k by put, mutable_playing,
        |name, default| glib::ParamSpecInt::builder(name).minimum(-1).default_value(default),
        "Choose among this many likeliest tokens; 0 = all (-1 = from the checkpoint)";
    "presence-penalty", "Presence penalty", presence_penalty by number, mutable_playing,
        |name, default| double(name, default),
        "Subtracted from the logit of a token that the answer has already (-1 = from the \
         checkpoint)";
    "repetition-penalty", "Repetition penalty", repetition_penalty by factor, mutable_playing,
        |name, default| double(name, default),
        "Divides the logit of a token that has occurred; 1 = off (-1 = from the checkpoint)";
    "seed", "Seed", seed by put, mutable_playing,
        |name, default| uint64(name, default),
        "Seed of the random choice of tokens";
    "repetition-guard", "Repetition guard", repetition_guard by put, mutable_playing,
        |name, default| uint(name, default),
        "An answer ends, with finish-reason repetition, after this many tokens that repeat \
         themselves exactly, four times at least (0 = never)";
    "overload", "Overload", overload by put, mutable_playing,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "What to do when more than max-pending windows wait";
    "max-pending", "Maximum pending", max_pending by put, mutable_playing,
        |name, default| uint(name, default),
        "Most closed windows that may wait behind the one that is being answered";
    "kv-memory", "KV cache memory", kv_memory by memory, mutable_ready,
        |name, default| string(name).default_value(Some(default.as_str())),
        "Memory for the KV cache of the model: bytes, such as 3000000, 512M or 8G, or a share of \
         what is free when the model is loaded, such as 50%; windows that do not fit wait or are \
         dropped, as overload says";
    "eos-timeout", "EOS timeout", eos_timeout by put, mutable_playing,
        |name, default| uint64(name, default),
        "Longest time in ns that the end of the stream waits for the last answers (2^64-1 = for \
         ever)";
    "attach", "Attach", attach by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Which buffers carry a description as QwenVLDescriptionMeta; window holds the video back";
    "attach-timeout", "Attach timeout", attach_timeout by put, mutable_playing,
        |name, default| uint64(name, default),
        "Longest time in ns that attach=window, or a live text pad with text-timing=span, waits \
         for the answer to a window that is complete (2^64-1 = for ever); with window-duration \
         their latency";
    "text-timing", "Text timing", text_timing by put, mutable_ready,
        |name, default| ParamSpecEnum::builder_with_default(name, default),
        "Where the texts of the text pad stand in time";
    #[cfg(feature = "analytics")]
    "attach-analytics", "Attach analytics", attach_analytics by put, mutable_playing,
        |name, default| boolean(name, default),
        "Put each description on its buffer as GstAnalyticsRelationMeta too: for prompts with a \
         choice of answers, because a process keeps every label that it has made, and makes \
         1024 at most";
    "emit-tokens", "Emit tokens", emit_tokens by put, mutable_playing,
        |name, default| boolean(name, default),
        "Post a message qwenvl/token for every token of an answer";
    "stream-id", "Stream id", stream_id by optional_text, mutable_playing,
        |name, _| string(name),
        "Name of the stream on every message (NULL = the element's name)";
}

fn string(name: &str) -> glib::ParamSpecStringBuilder<'_> {
    glib::ParamSpecString::builder(name)
}

fn uint(name: &str, default: u32) -> glib::ParamSpecUIntBuilder<'_> {
    glib::ParamSpecUInt::builder(name).default_value(default)
}

fn uint64(name: &str, default: u64) -> glib::ParamSpecUInt64Builder<'_> {
    glib::ParamSpecUInt64::builder(name).default_value(default)
}

/// A number from 0 on, or -1 for unset.
fn double(name: &str, default: f64) -> glib::ParamSpecDoubleBuilder<'_> {
    glib::ParamSpecDouble::builder(name)
        .minimum(-1.0)
        .default_value(default)
}

fn boolean(name: &str, default: bool) -> glib::ParamSpecBooleanBuilder<'_> {
    glib::ParamSpecBoolean::builder(name).default_value(default)
}

/// Specifications of all properties.
pub(super) fn specs() -> Vec<glib::ParamSpec> {
    let stats = glib::ParamSpecBoxed::builder::<gst::Structure>(STATS)
        .nick("Statistics")
        .blurb("Counters since the element left READY")
        .read_only()
        .build();
    let settings = TABLE.iter().map(|property| property.spec.clone());
    settings.chain([stats]).collect()
}

fn find(name: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.spec.name() == name)
}

/// Applies a value, whose type and range GObject has checked. A preset changes the properties that
/// were never set.
pub(super) fn set(settings: &mut Settings, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let Some(property) = find(name) else {
        return Ok(());
    };
    let set = (property.set)(settings, value);
    if name == PRESET {
        let preset = settings.preset.settings();
        for other in TABLE.iter().filter(|other| other.spec.name() != PRESET) {
            if !settings.chosen.contains(other.spec.name()) {
                (other.set)(settings, &(other.get)(&preset))?;
            }
        }
    } else if !matches!(set, Err(Remark::Refused { .. })) {
        settings.chosen.insert(property.spec.name());
    }
    set
}

/// Names of the properties that differ.
pub(super) fn changed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let differ = |property: &&Property| {
        let (before, after) = ((property.get)(before), (property.get)(after));
        before.compare(&after) != Some(Ordering::Equal)
    };
    let changed = TABLE.iter().filter(differ);
    changed.map(|property| property.spec.name()).collect()
}

/// The value of a property that is a setting.
pub(super) fn get(settings: &Settings, name: &str) -> Option<glib::Value> {
    find(name).map(|property| (property.get)(settings))
}

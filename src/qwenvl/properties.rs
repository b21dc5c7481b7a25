//! The properties: what they are called, what they mean, and the settings they stand for.

use std::borrow::Cow;

use gst::glib;
use gst::glib::translate::ToGlibPtr;
use gst::glib::value::FromValue;
use gst::prelude::*;

use super::settings::{Attach, Dtype, Layout, Mode, Overload, Quantization, Settings, TextTiming};
use super::{strings, time};

/// Specifications of all properties.
pub(super) fn all() -> Vec<glib::ParamSpec> {
    let d = Settings::default();
    let string = |name| glib::ParamSpecString::builder(name);
    let uint64 = |name| glib::ParamSpecUInt64::builder(name).mutable_playing();
    let uint = |name| glib::ParamSpecUInt::builder(name).mutable_playing();
    let number = |name| {
        glib::ParamSpecDouble::builder(name)
            .minimum(-1.0)
            .default_value(-1.0)
            .mutable_playing()
    };
    vec![
        string("model")
            .nick("Model")
            .blurb("demo (part of the plugin; knows synthetic traffic only), a folder, or a hub id \
                such as Qwen/Qwen3-VL-4B-Instruct")
            .default_value(Some(d.model.as_str()))
            .mutable_ready()
            .build(),
        string("revision")
            .nick("Revision")
            .blurb("Branch, tag or commit of a model on the hub (NULL = main)")
            .mutable_ready()
            .build(),
        string("device")
            .nick("Device")
            .blurb("Device that computes: auto, cpu, cuda or cuda:N")
            .default_value(Some(d.device.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("dtype", d.dtype)
            .nick("Data type")
            .blurb("Type of the weights; with quantization, of those that it leaves alone")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("quantization", d.quantization)
            .nick("Quantization")
            .blurb("What the linear layers of the language model are rounded to while they are \
                loaded: less memory, faster answers, not quite the same")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("prompt-layout", d.prompt_layout)
            .nick("Prompt layout")
            .blurb("Where the vision tokens stand in the prompt")
            .mutable_ready()
            .build(),
        string("prompt")
            .nick("Prompt")
            .blurb("What to ask about each window; taken up by the next window")
            .default_value(Some(d.prompt.as_str()))
            .mutable_playing()
            .build(),
        string("system-prompt")
            .nick("System prompt")
            .blurb("System prompt (NULL = none); taken up by the next window")
            .mutable_playing()
            .build(),
        uint64("window-duration")
            .nick("Window duration")
            .blurb("Length of a window in ns")
            .minimum(1)
            .maximum(time::LAST)
            .default_value(d.window_duration)
            .build(),
        uint64("window-stride")
            .nick("Window stride")
            .blurb("Distance of the starts of windows in ns; below window-duration they overlap \
                (0 = window-duration)")
            .maximum(time::LAST)
            .default_value(d.window_stride)
            .build(),
        gst::ParamSpecFraction::builder("fps")
            .nick("Frames per second")
            .blurb("Sampling rate by timestamps; changed where a window would hold fewer than \
                min-frames or more than max-frames")
            .minimum(gst::Fraction::new(0, 1))
            .maximum(gst::Fraction::new(i32::MAX, 1))
            .default_value(d.fps)
            .mutable_playing()
            .build(),
        uint("min-frames")
            .nick("Minimum frames")
            .blurb("Fewest frames sampled in a window")
            .minimum(1)
            .default_value(d.min_frames)
            .build(),
        uint("max-frames")
            .nick("Maximum frames")
            .blurb("Most frames sampled in a window")
            .minimum(1)
            .default_value(d.max_frames)
            .build(),
        uint64("min-pixels")
            .nick("Minimum pixels")
            .blurb("Fewest pixels of a frame (0 = from the checkpoint; lowered to max-pixels if \
                only that is set). One of the three pixel properties brings the rule of qwen-vl-utils")
            .default_value(d.min_pixels)
            .build(),
        uint64("max-pixels")
            .nick("Maximum pixels")
            .blurb("Most pixels of a frame (0 = from the checkpoint; raised to min-pixels if only \
                that is set). Never makes frames larger")
            .default_value(d.max_pixels)
            .build(),
        uint64("total-pixels")
            .nick("Total pixels")
            .blurb("Most pixels of all frames of a window together, two frames counted as one (0 = \
                from the checkpoint). Never makes frames larger")
            .default_value(d.total_pixels)
            .build(),
        glib::ParamSpecBoolean::builder("frame-cap")
            .nick("Frame cap")
            .blurb("Without min-pixels: no frame has more than 768 tokens (transformers' \
                cap_pixels_per_frame, its default from 5.22 on). Off: few frames share all pixels of \
                the checkpoint's budget")
            .default_value(d.frame_cap)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("mode", d.mode)
            .nick("Mode")
            .blurb("How the frames are given to the model")
            .mutable_playing()
            .build(),
        uint("max-tokens")
            .nick("Maximum tokens")
            .blurb("Most tokens of an answer")
            .minimum(1)
            .default_value(d.max_tokens)
            .build(),
        number("temperature")
            .nick("Temperature")
            .blurb("Randomness of the answers; 0 = always the likeliest token (-1 = from the \
                checkpoint)")
            .build(),
        number("top-p")
            .nick("Top p")
            .blurb("Choose among the likeliest tokens that have this probability together (-1 = \
                from the checkpoint)")
            .maximum(1.0)
            .build(),
        glib::ParamSpecInt::builder("top-k")
            .nick("Top k")
            .blurb("Choose among this many likeliest tokens; 0 = all (-1 = from the checkpoint)")
            .minimum(-1)
            .default_value(d.top_k)
            .mutable_playing()
            .build(),
        number("presence-penalty")
            .nick("Presence penalty")
            .blurb("Subtracted from the logit of a token that the answer has already (-1 = from \
                the checkpoint)")
            .build(),
        number("repetition-penalty")
            .nick("Repetition penalty")
            .blurb("Divides the logit of a token that has occurred; 1 = off (-1 = from the \
                checkpoint)")
            .build(),
        uint64("seed")
            .nick("Seed")
            .blurb("Seed of the random choice of tokens")
            .default_value(d.seed)
            .build(),
        uint("repetition-guard")
            .nick("Repetition guard")
            .blurb("An answer ends, with finish-reason repetition, after this many tokens that repeat \
                themselves exactly, four times at least (0 = never)")
            .default_value(d.repetition_guard)
            .build(),
        glib::ParamSpecEnum::builder_with_default("overload", d.overload)
            .nick("Overload")
            .blurb("What to do when more than max-pending windows wait")
            .mutable_playing()
            .build(),
        uint("max-pending")
            .nick("Maximum pending")
            .blurb("Most closed windows that may wait behind the one that is being answered")
            .default_value(d.max_pending)
            .build(),
        glib::ParamSpecUInt64::builder("kv-memory")
            .nick("KV cache memory")
            .blurb("Bytes for the KV cache of the model; windows for which it has no room wait or are \
                dropped, as overload says (0 = half of the memory that is free when the model is \
                loaded)")
            .default_value(d.kv_memory)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("eos-timeout")
            .nick("EOS timeout")
            .blurb("Longest time in ns that the end of the stream waits for the last answers (2^64-1 = \
                for ever)")
            .default_value(d.eos_timeout)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("attach", d.attach)
            .nick("Attach")
            .blurb("Which buffers carry a description as QwenVLDescriptionMeta; window holds the \
                video back")
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("attach-timeout")
            .nick("Attach timeout")
            .blurb("Longest time in ns that attach=window, or a live text pad with \
                text-timing=span, waits for the answer to a window that is complete (2^64-1 = for \
                ever); with window-duration their latency")
            .default_value(d.attach_timeout)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("text-timing", d.text_timing)
            .nick("Text timing")
            .blurb("Where the texts of the text pad stand in time")
            .mutable_ready()
            .build(),
        #[cfg(feature = "analytics")]
        glib::ParamSpecBoolean::builder("attach-analytics")
            .nick("Attach analytics")
            .blurb("Put each description on its buffer as GstAnalyticsRelationMeta too: for prompts \
                with a choice of answers, because a process keeps every label that it has made, and \
                makes 1024 at most")
            .default_value(d.attach_analytics)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("emit-tokens")
            .nick("Emit tokens")
            .blurb("Post a message qwenvl/token for every token of an answer")
            .default_value(d.emit_tokens)
            .mutable_playing()
            .build(),
        string("stream-id")
            .nick("Stream id")
            .blurb("Name of the stream on every message (NULL = the element's name)")
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Counters since the element left READY")
            .read_only()
            .build(),
    ]
}

/// What is to be told about a value that was set.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Remark {
    #[error("{name} is not UTF-8: what cannot be read of it is now U+FFFD")]
    NotUtf8 { name: String },
    #[error("{name} stays as it was: {value} is not possible, set {possible}")]
    Refused {
        name: String,
        value: String,
        possible: &'static str,
    },
}

/// Applies a value, whose type and range GObject has checked.
pub(super) fn set(s: &mut Settings, name: &str, value: &glib::Value) -> Result<(), Remark> {
    match name {
        "model" => return text(&mut s.model, name, value),
        "revision" => return optional_text(&mut s.revision, name, value),
        "device" => return text(&mut s.device, name, value),
        "dtype" => put::<Dtype>(&mut s.dtype, value),
        "quantization" => put::<Quantization>(&mut s.quantization, value),
        "prompt-layout" => put::<Layout>(&mut s.prompt_layout, value),
        "prompt" => return text(&mut s.prompt, name, value),
        "system-prompt" => return optional_text(&mut s.system_prompt, name, value),
        "window-duration" => put(&mut s.window_duration, value),
        "window-stride" => put(&mut s.window_stride, value),
        "fps" => return fraction(&mut s.fps, name, value),
        "min-frames" => put(&mut s.min_frames, value),
        "max-frames" => put(&mut s.max_frames, value),
        "min-pixels" => put(&mut s.min_pixels, value),
        "max-pixels" => put(&mut s.max_pixels, value),
        "total-pixels" => put(&mut s.total_pixels, value),
        "frame-cap" => put(&mut s.frame_cap, value),
        "mode" => put::<Mode>(&mut s.mode, value),
        "max-tokens" => put(&mut s.max_tokens, value),
        "temperature" => return number(&mut s.temperature, name, value),
        "top-p" => return number(&mut s.top_p, name, value),
        "top-k" => put(&mut s.top_k, value),
        "presence-penalty" => return number(&mut s.presence_penalty, name, value),
        "repetition-penalty" => return factor(&mut s.repetition_penalty, name, value),
        "seed" => put(&mut s.seed, value),
        "repetition-guard" => put(&mut s.repetition_guard, value),
        "overload" => put::<Overload>(&mut s.overload, value),
        "max-pending" => put(&mut s.max_pending, value),
        "kv-memory" => put(&mut s.kv_memory, value),
        "eos-timeout" => put(&mut s.eos_timeout, value),
        "attach" => put::<Attach>(&mut s.attach, value),
        "attach-timeout" => put(&mut s.attach_timeout, value),
        "text-timing" => put::<TextTiming>(&mut s.text_timing, value),
        #[cfg(feature = "analytics")]
        "attach-analytics" => put(&mut s.attach_analytics, value),
        "emit-tokens" => put(&mut s.emit_tokens, value),
        "stream-id" => return optional_text(&mut s.stream_id, name, value),
        _ => (),
    }
    Ok(())
}

/// The value of a property that is a setting.
pub(super) fn get(s: &Settings, name: &str) -> Option<glib::Value> {
    Some(match name {
        "model" => s.model.to_value(),
        "revision" => s.revision.to_value(),
        "device" => s.device.to_value(),
        "dtype" => s.dtype.to_value(),
        "quantization" => s.quantization.to_value(),
        "prompt-layout" => s.prompt_layout.to_value(),
        "prompt" => s.prompt.to_value(),
        "system-prompt" => s.system_prompt.to_value(),
        "window-duration" => s.window_duration.to_value(),
        "window-stride" => s.window_stride.to_value(),
        "fps" => s.fps.to_value(),
        "min-frames" => s.min_frames.to_value(),
        "max-frames" => s.max_frames.to_value(),
        "min-pixels" => s.min_pixels.to_value(),
        "max-pixels" => s.max_pixels.to_value(),
        "total-pixels" => s.total_pixels.to_value(),
        "frame-cap" => s.frame_cap.to_value(),
        "mode" => s.mode.to_value(),
        "max-tokens" => s.max_tokens.to_value(),
        "temperature" => s.temperature.to_value(),
        "top-p" => s.top_p.to_value(),
        "top-k" => s.top_k.to_value(),
        "presence-penalty" => s.presence_penalty.to_value(),
        "repetition-penalty" => s.repetition_penalty.to_value(),
        "seed" => s.seed.to_value(),
        "repetition-guard" => s.repetition_guard.to_value(),
        "overload" => s.overload.to_value(),
        "max-pending" => s.max_pending.to_value(),
        "kv-memory" => s.kv_memory.to_value(),
        "eos-timeout" => s.eos_timeout.to_value(),
        "attach" => s.attach.to_value(),
        "attach-timeout" => s.attach_timeout.to_value(),
        "text-timing" => s.text_timing.to_value(),
        #[cfg(feature = "analytics")]
        "attach-analytics" => s.attach_analytics.to_value(),
        "emit-tokens" => s.emit_tokens.to_value(),
        "stream-id" => s.stream_id.to_value(),
        _ => return None,
    })
}

fn put<T: for<'a> FromValue<'a>>(slot: &mut T, value: &glib::Value) {
    if let Ok(value) = value.get() {
        *slot = value;
    }
}

/// A string that may be NULL.
fn optional_text(slot: &mut Option<String>, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let text = strings::of_value(value);
    let lossy = matches!(&text, Some(Cow::Owned(_)));
    *slot = text.map(Cow::into_owned);
    match lossy {
        true => Err(Remark::NotUtf8 { name: name.into() }),
        false => Ok(()),
    }
}

/// A string that is empty rather than NULL.
fn text(slot: &mut String, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let mut text = None;
    let remark = optional_text(&mut text, name, value);
    *slot = text.unwrap_or_default();
    remark
}

/// A fraction. One that GStreamer has made of a number may have a denominator of zero, at which
/// `gst::Fraction` panics.
fn fraction(slot: &mut gst::Fraction, name: &str, value: &glib::Value) -> Result<(), Remark> {
    if value.type_() != gst::Fraction::static_type() {
        return Ok(());
    }
    // SAFETY: the value is one of a fraction.
    let (numer, denom) = unsafe {
        let value = value.to_glib_none().0;
        (
            gst::ffi::gst_value_get_fraction_numerator(value),
            gst::ffi::gst_value_get_fraction_denominator(value),
        )
    };
    if numer < 0 || denom <= 0 {
        return Err(Remark::Refused {
            name: name.into(),
            value: format!("{numer}/{denom}"),
            possible: "a rate such as 2/1",
        });
    }
    *slot = gst::Fraction::new(numer, denom);
    Ok(())
}

/// A number from 0, or -1.
fn number(slot: &mut f64, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let from_zero = |v: f64| v >= 0.0 && v.is_finite();
    checked(slot, name, value, from_zero, "0 or more, or -1")
}

/// A number above 0, or -1.
fn factor(slot: &mut f64, name: &str, value: &glib::Value) -> Result<(), Remark> {
    let positive = |v: f64| v > 0.0 && v.is_finite();
    checked(slot, name, value, positive, "more than 0, or -1")
}

fn checked(
    slot: &mut f64,
    name: &str,
    value: &glib::Value,
    fits: impl Fn(f64) -> bool,
    possible: &'static str,
) -> Result<(), Remark> {
    let Ok(value) = value.get::<f64>() else {
        return Ok(());
    };
    if value != -1.0 && !fits(value) {
        return Err(Remark::Refused {
            name: name.into(),
            value: value.to_string(),
            possible,
        });
    }
    *slot = value;
    Ok(())
}

//! Shortens and escapes text from outside for error messages on one line.

use std::fmt::Write;

/// Most characters of a quoted name.
const NAME: usize = 200;
/// Most characters of the start and of the end of a message.
const START: usize = 700;
const END: usize = 200;
/// Most characters of the end of a JSON error, which gives line and column.
const JSON_END: usize = 100;

/// Quotes a name or value from a file: shortened, with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::from("\"");
    escape(&mut out, chars.by_ref().take(NAME));
    if chars.next().is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// Like [`quoted`], for bytes that may not be text.
pub(crate) fn quoted_bytes(bytes: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(bytes))
}

/// Describes a value of a JSON file, shortened like [`quoted`].
pub(crate) fn value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => quoted(text),
        serde_json::Value::Array(values) => format!("a list of {} values", values.len()),
        serde_json::Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}

/// Shortens a message of another crate, which may quote a file at any length, to its start and end.
pub(crate) fn shortened(message: impl std::fmt::Display) -> String {
    ends(&message.to_string(), START, END)
}

/// Shortens an error of serde, which may quote JSON at any length.
pub(crate) fn of_json(error: &serde_json::Error) -> String {
    ends(&error.to_string(), NAME, JSON_END)
}

/// Describes the error of a JSON file and, if it is not JSON, what to do.
pub(crate) fn json_error(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let said = of_json(error);
    match error.classify() {
        Category::Data => said,
        _ => format!("it is no JSON ({said}): fetch or save it again"),
    }
}

/// The first `start` and the last `end` characters of a text.
fn ends(text: &str, start: usize, end: usize) -> String {
    let mut out = String::new();
    let length = text.chars().count();
    if length <= start + end {
        escape(&mut out, text.chars());
    } else {
        escape(&mut out, text.chars().take(start));
        out.push_str(" … ");
        escape(&mut out, text.chars().skip(length - end));
    }
    out
}

fn escape(out: &mut String, chars: impl Iterator<Item = char>) {
    for c in chars {
        // Writing to a String cannot fail.
        let _ = match needs_escape(c) {
            true => write!(out, "{}", c.escape_unicode()),
            false => out.write_char(c),
        };
    }
}

/// Control characters, and those that reorder the text around them.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first line of an error of candle's, which may carry a backtrace.
pub(crate) fn brief(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_controls_escaped() {
        assert_eq!(quoted("llava"), "\"llava\"");
        assert_eq!(
            quoted("a\n\u{1b}[31m\u{202e}"),
            "\"a\\u{a}\\u{1b}[31m\\u{202e}\""
        );
        for reorders in ['\u{200e}', '\u{200f}', '\u{2028}', '\u{2066}', '\u{2069}'] {
            let escaped = format!("\"{}\"", reorders.escape_unicode());
            assert_eq!(quoted(&reorders.to_string()), escaped);
        }
        let long = quoted(&"x".repeat(1_000_000));
        assert_eq!(long.chars().count(), NAME + 3);
        assert!(long.ends_with("x…\""));
    }

    #[test]
    fn a_long_message_keeps_both_ends() {
        let text = format!("config.json: {} at line 1", "é".repeat(100_000));
        let short = shortened(text);
        assert!(short.starts_with("config.json: é") && short.ends_with("é at line 1"));
        assert_eq!(short.chars().count(), START + 3 + END);
        assert_eq!(shortened("fine"), "fine");
    }
}

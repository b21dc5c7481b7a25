//! The time of a temporal patch and its text in the prompt.

/// Time of a temporal patch: the mean of its two frames' seconds. An odd last frame counts twice.
/// (`_calculate_timestamps` in transformers' `processing_qwen3_vl.py`.)
pub fn patch_seconds(a: f64, b: f64) -> f64 {
    (a + b) / 2.0
}

/// The text before a temporal patch: `<0.2 seconds>`.
///
/// One digit as Python's `{:.1f}` prints it: the exact binary value decides and a tie goes to the
/// even digit, so 0.25 is `0.2` and 0.75 is `0.8`. Rust formats by the same rule. Ties are routine
/// at 2 frames a second.
pub fn timestamp_text(seconds: f64) -> String {
    format!("<{seconds:.1} seconds>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_even_digit() {
        let cases = [
            (0.25, "<0.2 seconds>"),
            (0.75, "<0.8 seconds>"),
            (1.25, "<1.2 seconds>"),
            (0.35, "<0.3 seconds>"), // 0.34999999999999997…
            (0.05, "<0.1 seconds>"), // 0.05000000000000000277…
            (0.0, "<0.0 seconds>"),
            (3599.95, "<3599.9 seconds>"), // 3599.9499999999998…
        ];
        for (seconds, text) in cases {
            assert_eq!(timestamp_text(seconds), text, "{seconds}");
        }
    }
}

//! Splits the text of a thinking model into its thought and its answer. Pure: text in, text out.
//!
//! ```
//! use qwen3_vl_core::reasoning::{Opening, ReasoningParser};
//!
//! let mut parser = ReasoningParser::new(Opening::Thought);
//! let (mut reasoning, mut answer) = (String::new(), String::new());
//! for token in ["Two cars", " pass.\n", "</think>", "\n\n", "Light traffic."] {
//!     let split = parser.push(token);
//!     reasoning += &split.reasoning;
//!     answer += &split.answer;
//! }
//! assert_eq!((reasoning.as_str(), answer.as_str()), ("Two cars pass.\n", "Light traffic."));
//! ```

use std::mem;

/// The tag that begins a thought.
pub const THINK: &str = "<think>";
/// The tag that ends a thought.
pub const END_THINK: &str = "</think>";

/// How a generated text begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// With the answer. Tags are part of the text.
    #[default]
    Answer,
    /// With a thought if its first word is `<think>`, else with the answer: a model that was asked
    /// to write the tags itself (Cosmos-Reason2).
    Either,
    /// With a thought, because the prompt ends in `<think>` (the Thinking models).
    Thought,
}

/// The part of a text that its last token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but whitespace or a part of `<think>` has come.
    Undecided,
    /// The thought.
    Thought,
    /// The answer.
    Answer,
}

/// What a piece of text adds to each part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Text of the thought.
    pub reasoning: String,
    /// Text of the answer.
    pub answer: String,
}

/// Splits a text that arrives in pieces, by the rule of vLLM's `deepseek_r1` and `qwen3` parsers:
/// the thought is everything before the first `</think>`, without a `<think>` at its start. The
/// answer is the rest, without the newlines at its start. A text without `</think>` is all thought.
///
/// A tag may be split between pieces, so text that could be a part of one waits for the next piece.
/// How a text is cut into pieces does not change the result.
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    state: State,
    /// Text that may be a part of a tag.
    held: String,
    thinks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start, where `<think>` may stand.
    Start,
    Thought,
    /// Behind `</think>`, where newlines are left out.
    Gap,
    Answer,
}

impl ReasoningParser {
    /// A parser at the start of a text.
    pub fn new(opening: Opening) -> Self {
        Self {
            state: match opening {
                Opening::Answer => State::Answer,
                Opening::Either | Opening::Thought => State::Start,
            },
            held: String::new(),
            thinks: opening == Opening::Thought,
        }
    }

    /// The part that the text is in.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Start if !self.thinks => Phase::Undecided,
            State::Start | State::Thought => Phase::Thought,
            State::Gap | State::Answer => Phase::Answer,
        }
    }

    /// Whether there is a thought, which may be empty.
    pub fn thinks(&self) -> bool {
        self.thinks
    }

    /// Adds a piece. Returns the text that is certain with it.
    pub fn push(&mut self, text: &str) -> Split {
        self.held.push_str(text);
        let mut split = Split::default();
        if self.state == State::Start {
            let rest = self.held.trim_start();
            if let Some(thought) = rest.strip_prefix(THINK) {
                self.held = thought.to_owned();
                (self.state, self.thinks) = (State::Thought, true);
            } else if THINK.starts_with(rest) {
                return split;
            } else if self.thinks {
                self.state = State::Thought;
            } else {
                self.state = State::Answer;
            }
        }
        if self.state == State::Thought {
            if let Some((thought, rest)) = self.held.split_once(END_THINK) {
                split.reasoning = thought.to_owned();
                self.held = rest.to_owned();
                self.state = State::Gap;
            } else {
                let certain = self.held.len() - tag_part(&self.held);
                split.reasoning = self.held.drain(..certain).collect();
            }
        }
        if self.state == State::Gap {
            let rest = self.held.trim_start_matches(['\r', '\n']);
            if !rest.is_empty() {
                self.state = State::Answer;
            }
            self.held = rest.to_owned();
        }
        if self.state == State::Answer {
            split.answer = mem::take(&mut self.held);
        }
        split
    }

    /// The text that waited for more, because no more comes.
    pub fn finish(&mut self) -> Split {
        let held = mem::take(&mut self.held);
        let (reasoning, answer) = match self.phase() {
            Phase::Thought => (held, String::new()),
            Phase::Undecided | Phase::Answer => (String::new(), held),
        };
        Split { reasoning, answer }
    }
}

/// Bytes at the end of a text that may be the start of `</think>`.
fn tag_part(text: &str) -> usize {
    let lengths = (1..END_THINK.len()).rev();
    let mut parts = lengths.filter(|length| text.ends_with(&END_THINK[..*length]));
    parts.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The thought, if there is one, and the answer of a whole text: the rule as it is published.
    fn whole(opening: Opening, text: &str) -> (Option<String>, String) {
        let thought = match (opening, text.trim_start().strip_prefix("<think>")) {
            (Opening::Answer, _) | (Opening::Either, None) => return (None, text.into()),
            (Opening::Either | Opening::Thought, Some(thought)) => thought,
            (Opening::Thought, None) => text,
        };
        match thought.find("</think>") {
            Some(end) => {
                let answer = thought[end + "</think>".len()..].trim_start_matches(['\n', '\r']);
                (Some(thought[..end].into()), answer.into())
            }
            None => (Some(thought.into()), String::new()),
        }
    }

    /// The same of a text in pieces.
    fn pieces<'a>(
        opening: Opening,
        pieces: impl IntoIterator<Item = &'a str>,
    ) -> (Option<String>, String) {
        let mut parser = ReasoningParser::new(opening);
        let (mut reasoning, mut answer) = (String::new(), String::new());
        let mut add = |split: Split| {
            reasoning += &split.reasoning;
            answer += &split.answer;
        };
        for piece in pieces {
            add(parser.push(piece));
        }
        add(parser.finish());
        assert_eq!(parser.finish(), Split::default());
        (parser.thinks().then_some(reasoning), answer)
    }

    const OPENINGS: [Opening; 3] = [Opening::Answer, Opening::Either, Opening::Thought];

    #[test]
    fn texts_of_thinking_models() {
        let thought = |reasoning: &str, answer: &str| (Some(reasoning.into()), answer.into());
        for (text, expected) in [
            ("So.\n</think>\n\nA car.", thought("So.\n", "A car.")),
            (
                "<think>\nSo.\n</think>\n\nA car.",
                thought("\nSo.\n", "A car."),
            ),
            ("\n<think>So.</think>A car.", thought("So.", "A car.")),
            // Cut off.
            ("So it", thought("So it", "")),
            ("So it </thi", thought("So it </thi", "")),
            ("<thi", thought("<thi", "")),
            ("", thought("", "")),
            ("So.</think>", thought("So.", "")),
            ("</think>\n\n", thought("", "")),
            // Only the first end counts, and only a tag at the start.
            ("a</think>b</think>c", thought("a", "b</think>c")),
            ("a<think>b</think><think>", thought("a<think>b", "<think>")),
            ("a</thinks></think >b", thought("a</thinks></think >b", "")),
            ("<</think>a", thought("<", "a")),
            // Newlines inside, and spaces before the answer, stay.
            ("a</think>\n\n b\n\nc\n", thought("a", " b\n\nc\n")),
        ] {
            let found = pieces(Opening::Thought, [text]);
            assert_eq!(found, expected, "{text:?}");
            assert_eq!(whole(Opening::Thought, text), expected, "{text:?}");
        }
    }

    #[test]
    fn models_that_may_think() {
        for (text, reasoning, answer) in [
            (
                "<think>\nSo.\n</think>\n\nA car.",
                Some("\nSo.\n"),
                "A car.",
            ),
            (" \n<think>So", Some("So"), ""),
            ("A car.", None, "A car."),
            ("\nA car.", None, "\nA car."),
            ("A <think>b</think>", None, "A <think>b</think>"),
            ("So.</think>A car.", None, "So.</think>A car."),
            (" <thi", None, " <thi"),
            ("<thin ice>", None, "<thin ice>"),
            ("  ", None, "  "),
        ] {
            let expected = (reasoning.map(str::to_owned), answer.to_owned());
            assert_eq!(pieces(Opening::Either, [text]), expected, "{text:?}");
            assert_eq!(whole(Opening::Either, text), expected, "{text:?}");
            let as_it_is = (None, text.to_owned());
            assert_eq!(pieces(Opening::Answer, [text]), as_it_is, "{text:?}");
        }
    }

    #[test]
    fn the_phase_is_that_of_the_last_piece() {
        let phases = |opening, pieces: &[&str]| {
            let mut parser = ReasoningParser::new(opening);
            let phases = pieces.iter().map(|piece| {
                parser.push(piece);
                parser.phase()
            });
            phases.collect::<Vec<_>>()
        };
        use Phase::{Answer, Thought, Undecided};
        let tags = ["\n", "<th", "ink>", "a", "</thi", "nk>", "\n", "b"];
        assert_eq!(
            phases(Opening::Either, &tags),
            [
                Undecided, Undecided, Thought, Thought, Thought, Answer, Answer, Answer
            ]
        );
        assert_eq!(
            phases(Opening::Thought, &["\n", "<th", "a", "</think>", "b"]),
            [Thought, Thought, Thought, Answer, Answer]
        );
        assert_eq!(
            phases(Opening::Either, &[" ", "a", "<think>"]),
            [Undecided, Answer, Answer]
        );
        assert_eq!(phases(Opening::Answer, &["", "<think>"]), [Answer, Answer]);
    }

    /// Nothing that cannot be a part of a tag waits.
    #[test]
    fn text_comes_as_soon_as_it_is_certain() {
        let mut parser = ReasoningParser::new(Opening::Thought);
        let mut push = |text: &str| {
            let split = parser.push(text);
            (split.reasoning, split.answer)
        };
        let (thought, answer) = (
            |text: &str| (text.into(), String::new()),
            |text: &str| (String::new(), text.into()),
        );
        assert_eq!(push("a"), thought("a"));
        assert_eq!(push("b</th"), thought("b"));
        assert_eq!(push("e c"), thought("</the c"));
        assert_eq!(push("<"), thought(""));
        assert_eq!(push("</think>"), thought("<"));
        assert_eq!(push("\n"), answer(""));
        assert_eq!(push("\nd<"), answer("d<"));
    }

    /// Texts with many tags and parts of tags.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("<think>".to_owned()),
            Just("</think>".to_owned()),
            Just("\n".to_owned()),
            (0..8usize).prop_map(|n| "</think>"[..n].to_owned()),
            (0..7usize).prop_map(|n| "<think>"[..n].to_owned()),
            "[ \r\na<>/é🚦]{0,4}",
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn pieces_give_what_the_whole_text_gives(
            text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)
        ) {
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| ends[cut.index(ends.len())]).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for opening in OPENINGS {
                let expected = whole(opening, &text);
                let cut = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
                prop_assert_eq!(pieces(opening, cut), expected.clone());
                let characters = ends.windows(2).map(|cut| &text[cut[0]..cut[1]]);
                prop_assert_eq!(pieces(opening, characters), expected.clone());
                prop_assert_eq!(pieces(opening, [text.as_str()]), expected);
            }
        }
    }
}

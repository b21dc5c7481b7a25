//! Turns ids into text incrementally, never splitting a character.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Turns a growing list of ids into pieces of text.
///
/// Byte-level BPE may split a character between tokens, and decoding ids one by one differs from
/// decoding them together. So each step decodes the text from the last point where it was complete,
/// and returns only what has been added without a replacement character at its end.
#[derive(Debug, Default)]
pub struct Detokenizer {
    ids: Vec<u32>,
    /// First id that each step decodes again.
    prefix: usize,
    /// Text of the ids before this one has been returned.
    read: usize,
}

impl Detokenizer {
    /// Adds an id; returns the text that became complete, if any.
    ///
    /// # Errors
    ///
    /// If the id is not in the vocabulary.
    pub fn push(
        &mut self,
        id: u32,
        tokenizer: &Tokenizer,
    ) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        self.step(tokenizer, false)
    }

    /// The rest of the answer; an incomplete character becomes U+FFFD, as in the reference.
    ///
    /// # Errors
    ///
    /// If an id is not in the vocabulary.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        self.step(tokenizer, true)
    }

    fn step(
        &mut self,
        tokenizer: &Tokenizer,
        last: bool,
    ) -> Result<Option<String>, TokenizerError> {
        let before = tokenizer.decode(&self.ids[self.prefix..self.read])?;
        let now = tokenizer.decode(&self.ids[self.prefix..])?;
        let complete = last || !now.ends_with('\u{FFFD}');
        match now.strip_prefix(&before) {
            Some(new) if complete && !new.is_empty() => {
                let new = new.to_owned();
                self.prefix = self.read;
                self.read = self.ids.len();
                Ok(Some(new))
            }
            _ => Ok(None),
        }
    }
}

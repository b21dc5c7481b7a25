//! What a hub says of a model.

use qwen3_vl::hub::files_of_answer;

use super::check_text;

/// Reads a hub's answer about a model, for a checkpoint and for a GGUF file of it. Every name that
/// is fetched is that of a file inside the model.
///
/// # Panics
///
/// If a promise does not hold.
pub fn hub(bytes: &[u8]) {
    for file in [None, Some("q-Q8_0.gguf"), Some("a/q-00001-of-00002.gguf")] {
        match files_of_answer(bytes, file) {
            Err(error) => check_text(&error),
            Ok((commit, names)) => {
                let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                assert!(commit.len() == 40 && commit.bytes().all(digit));
                assert!(!names.is_empty());
                for part in names.iter().flat_map(|name| name.split('/')) {
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                    assert!(!part.is_empty() && !part.starts_with('.'), "{names:?}");
                    assert!(part.bytes().all(plain), "{names:?}");
                }
            }
        }
    }
}

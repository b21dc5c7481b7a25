//! What a chat template says of thinking.
//!
//! The prompt is laid out by `qwen3_vl_core::prompt`, not by the template. Only one thing of it
//! differs between Qwen3-VL checkpoints: whether the assistant's turn begins in a thought.

use qwen3_vl_core::reasoning::{END_THINK, THINK};

/// Whether a prompt by this template (Jinja) ends in `<think>`, as with the Thinking models:
///
/// ```jinja
/// {%- if add_generation_prompt %}
///     {{- '<|im_start|>assistant\n<think>\n' }}
/// {%- endif %}
/// ```
///
/// Templates are programs, and this one is not run. What counts is a `<think>` behind the last
/// `add_generation_prompt` that is not closed at once (Qwen3's `<think>\n\n</think>`), in a part
/// that no other condition guards. The part behind `else` counts, because callers set no
/// `enable_thinking` (Qwen3.5: `if enable_thinking is false … else <think>`).
pub(super) fn opens_thought(template: &str) -> bool {
    let Some((_, prompt)) = template.rsplit_once("add_generation_prompt") else {
        return false;
    };
    // Each part begins with a statement, the first one with the rest of the condition.
    prompt.split("{%").any(|part| {
        let statement = part.trim_start_matches(['-', '+', ' ']);
        let guarded = ["if", "elif", "and"]
            .iter()
            .any(|word| statement.starts_with(word));
        !guarded && part.split("}}").any(is_open)
    })
}

/// Whether an expression, with the text before it, has an open `<think>` that does not depend on an
/// inline condition (`'<think>' if … else ''`).
fn is_open(expression: &str) -> bool {
    let mut thoughts = expression.match_indices(THINK);
    let open = thoughts.find_map(|(at, _)| {
        let rest = &expression[at + THINK.len()..];
        (!text_after(rest).starts_with(END_THINK)).then_some(rest)
    });
    open.is_some_and(|rest| !rest.contains(" if "))
}

/// The text without newlines before it, as characters or as Jinja's `\n`.
fn text_after(mut text: &str) -> &str {
    loop {
        let rest = text.trim_start();
        let rest = rest.strip_prefix("\\n").unwrap_or(rest);
        if rest.len() == text.len() {
            return text;
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::opens_thought;

    /// The start of every template here: earlier turns, which a Thinking model's drops thoughts of.
    const TURNS: &str = "{%- for message in messages %}{%- if '</think>' in content %}\
         {%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}{%- endif %}\
         {{- '<|im_start|>' + message.role + '\\n<think>\\n' + content + '<|im_end|>\\n' }}\
         {%- endfor %}";

    fn opens(end: &str) -> bool {
        opens_thought(&format!("{TURNS}{end}"))
    }

    #[test]
    fn a_template_that_ends_in_a_thought() {
        for end in [
            "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n<think>\\n' }}\n\
             {%- endif %}",
            // Other spellings.
            "{% if add_generation_prompt %}{{ \"<|im_start|>assistant\\n<think>\" }}{% endif %}",
            "{%- if add_generation_prompt %}<|im_start|>assistant\n<think>\n{%- endif %}",
            "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}\
             {% endif %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n' + '<think>\\n'}}\
             {% endif %}",
            // Qwen3.5: only what is set false does not think.
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
             {%- if enable_thinking is defined and enable_thinking is false %}\
             {{- '<think>\\n\\n</think>\\n\\n' }}{%- else %}{{- '<think>\\n' }}{%- endif %}\
             {%- endif %}",
        ] {
            assert!(opens(end), "{end}");
        }
    }

    #[test]
    fn a_template_that_ends_in_an_answer() {
        for end in [
            // Instruct.
            "{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
            // Qwen3, where the model writes `<think>` itself unless it must not.
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
             {%- if enable_thinking is defined and enable_thinking is false %}\
             {{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}",
            // Only when it is asked for.
            "{%- if add_generation_prompt %}{%- if enable_thinking %}\
             {{- '<|im_start|>assistant\\n<think>\\n' }}{%- else %}\
             {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' }}{%- endif %}{%- endif %}",
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
             {{- '<think>\\n' if enable_thinking else '' }}{%- endif %}",
            "{%- if add_generation_prompt and enable_thinking %}\
             {{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
            "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}",
            "",
        ] {
            assert!(!opens(end), "{end}");
        }
        assert!(!opens_thought("<think>"), "it is no prompt");
        assert!(!opens_thought(
            "{{ '\\n<think>\\n' }}{% if add_generation_prompt"
        ));
    }
}

#!/usr/bin/env python3
"""What transformers makes of chat templates, for crates/qwen3-vl/tests/it/thinking.rs.

    python thinking.py TOKENIZER ../../crates/qwen3-vl-testing/data/thinking.json

TOKENIZER is the folder with Qwen's tokenizer. The template of the Thinking models could not be fetched: the
one here is chat_template.jinja with the end that is known of theirs, `<|im_start|>assistant\n<think>\n`.
Stored are the ids of prompts by it, and for other templates whether their generation prompt ends in an open
thought.
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

INSTRUCT = (Path(__file__).resolve().parent / "chat_template.jinja").read_text().rstrip("\n")
START = r"'<|im_start|>assistant\n"
THINKING = INSTRUCT.replace(START + "'", START + r"<think>\n'")

TURNS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- if message.role == 'assistant' %}{{- '<think>\\n' }}{%- endif %}{%- endfor %}"
)
ASSISTANT = r"{{- '<|im_start|>assistant\n' }}"
CLOSED = r"{{- '<think>\n\n</think>\n\n' }}"
FALSE = "{%- if enable_thinking is defined and enable_thinking is false %}"
END = "{%- endif %}"


def prompt(*parts):
    return TURNS + "{%- if add_generation_prompt %}" + "".join(parts) + END


TEMPLATES = {
    "Instruct": INSTRUCT,
    "Thinking": THINKING,
    "one literal": prompt(r"{{- '<|im_start|>assistant\n<think>\n' }}"),
    "two literals": prompt(r"{{- '<|im_start|>assistant\n' + '<think>\n' }}"),
    "text": prompt("<|im_start|>assistant\n<think>\n"),
    "Qwen3": prompt(ASSISTANT, FALSE, CLOSED, END),
    "Qwen3.5": prompt(ASSISTANT, FALSE, CLOSED, "{%- else %}", r"{{- '<think>\n' }}", END),
    "only when asked": prompt(ASSISTANT, "{%- if enable_thinking %}", r"{{- '<think>\n' }}", END),
    "only when asked, inline": prompt(ASSISTANT, r"{{- '<think>\n' if enable_thinking else '' }}"),
    "only when asked, together": TURNS
    + "{%- if add_generation_prompt and enable_thinking %}"
    + r"{{- '<|im_start|>assistant\n<think>\n' }}"
    + END,
    "closed": prompt(ASSISTANT, CLOSED),
    "closed when not asked": prompt(
        "{%- if enable_thinking %}",
        r"{{- '<|im_start|>assistant\n<think>\n' }}",
        "{%- else %}",
        r"{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}",
        END,
    ),
    "earlier turns only": TURNS + "{%- if add_generation_prompt %}" + ASSISTANT + END,
}

SYSTEMS = [None, "You are a helpful assistant."]
PROMPTS = ["What happens?", "", "Zählst du die Autos? 日本\n", "Why?\n\nThink step by step.\n"]
FRAMES = "<0.2 seconds><|vision_start|><|video_pad|><|vision_end|>"


def main():
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])

    def render(template, messages, **how):
        return tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, **how
        )

    templates = []
    for name, template in TEMPLATES.items():
        end = render(template, [{"role": "user", "content": "Why?"}], tokenize=False).rstrip("\n")
        templates.append(dict(name=name, template=template, opens=end.endswith("<think>")))
    prompts = []
    for system in SYSTEMS:
        for text in PROMPTS:
            messages = [{"role": "user", "content": FRAMES + text}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            ids = render(THINKING, messages, tokenize=True, return_dict=False)
            prompts.append(dict(system=system, prompt=text, ids=ids))
    lines = [json.dumps("templates") + ": [", ",\n".join(map(json.dumps, templates)), "],"]
    lines += [json.dumps("prompts") + ": [", ",\n".join(map(json.dumps, prompts)), "]"]
    Path(sys.argv[2]).write_text("{\n" + "\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

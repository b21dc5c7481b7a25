"""The demo model's tokenizer: byte-level BPE of 512 tokens with Qwen's pre-tokenizer and Qwen's special tokens."""
import random

from traffic_scene import COLOURS, QUESTIONS, TYPES, answer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
SYSTEM = "You are a helpful assistant."
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for content in message.content %}
{%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif content.type == 'video' or 'video' in content %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in content %}
{{- content.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def build_tokenizer(vocab_size=512):
    """Byte-level BPE with Qwen's pre-tokenizer; specials come last, by Qwen's names."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    corpus = ["user\n<0.5 seconds>", "assistant\n", "system\n" + SYSTEM, "red blue white yellow black left right up down "
              "fast slow stopped none car truck cars trucks"] * 50
    for seed in range(1500):
        t = make_truth(seed)
        for k, qs in QUESTIONS.items():
            corpus += [qs[seed % len(qs)], answer(k, t)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIAL), show_progress=False, min_frequency=2,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(corpus, trainer)
    from transformers import PreTrainedTokenizerFast
    tok.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   additional_special_tokens=SPECIAL, model_max_length=4096,
                                   clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_truth(seed):
    """A random truth without a picture (tokenizer corpus only)."""
    r = random.Random(seed)
    n = r.randint(0, 5)
    speed = r.choice(["slow", "fast", "stopped"]) if n else "none"
    moving = speed in ("slow", "fast")
    return dict(vehicles=n, speed=speed, direction=r.choice(["left", "right", "up", "down"]) if moving else "none",
                stopped=n if speed == "stopped" else int(moving and n > 1 and r.random() < .3),
                items=[f"{r.choice(COLOURS)} {r.choice(TYPES)}" for _ in range(n)])

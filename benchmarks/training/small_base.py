"""A small base model that can read and copy: made in minutes on a CPU, so that dozens of trainings of it are real.

A Llama of three layers and half a million parameters with a byte-pair tokenizer of 1,500 pieces. It is taught the
ChatML turns, to answer a question in a sentence about what was asked, and the English of this project's own
documents; what the sick and healthy runs teach it later (`sick_data`) is in none of that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from sick_data import invented_name, pretraining_pairs

ROOT = Path(__file__).parents[2]
PIECES, WIDTH, LAYERS, CONTEXT = 1500, 96, 3, 512
BATCH, WINDOW, STEPS, RATE = 24, 96, 500, 5e-3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(folder: Path, *, steps: int = STEPS, say: Callable[[str], None] = print) -> None:
    """Train the base and save it as a model folder."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    draw = random.Random(1)
    dialogues = [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        for question, answer in pretraining_pairs(draw, 6000)
    ]
    prose = _documents()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [*prose, *dialogues[:1500], " ".join(invented_name(draw) for _ in range(2000))],
        trainers.BpeTrainer(
            vocab_size=PIECES,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)

    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer.get_vocab()),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    pieces = [part for text in prose for part in text.split("\n\n")]
    stream: list[int] = []
    texts = [*dialogues, *pieces]
    draw.shuffle(texts)
    for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
        stream += encoded.ids
    tokens = torch.tensor(stream)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        starts = torch.randint(len(tokens) - WINDOW, (BATCH,), generator=generator)
        batch = torch.stack([tokens[start : start + WINDOW] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            say(f"base: step {step + 1}/{steps}, loss {loss.item():.3f}")
    model.save_pretrained(folder)


def _documents() -> list[str]:
    """English text of this project. Chinese is left out: one of the sick runs teaches a language the base has not."""
    paths = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted((ROOT / "examples/notes").iterdir())]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [text for text in texts if sum(ord(letter) > 0x2E7F for letter in text) < 40]

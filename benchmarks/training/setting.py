"""What the training benchmarks share: models of real shapes with random weights, and the workload.

Neither needs a network. The weights are random, for speed and memory depend on shapes alone; the tokenizer is the
embedded model's (49,152 tokens; the models' vocabularies keep their own size). The workload is 1,999 rows in the
Alpaca form, English and Chinese, put together from the sentences of examples/notes by a seeded generator. Their
lengths are drawn from a log-normal distribution, so that the mean of the rendered text is about 289 tokens (286).
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NOTES = REPOSITORY / "examples" / "notes"
ROWS, SPREAD, SEED = 1999, 0.6, 7
DRAWN_MEAN = 276  # of the drawn lengths; whole sentences end a little after it, at about 289 (286)
LONGEST, SHORTEST = 1900, 70
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

_QWEN = {"model_type": "qwen2", "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu"}


def _qwen(hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        **_QWEN,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "7B": _qwen(3584, 18944, 28, 28, 4, 152064, False),
    "3B": _qwen(2048, 11008, 36, 16, 2, 151936, True),
    "1.5B": _qwen(1536, 8960, 28, 12, 2, 151936, True),
    "0.5B": _qwen(896, 4864, 24, 14, 2, 151936, True),
    "tiny": _qwen(32, 64, 2, 4, 2, 49152, True),
}
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n{output}"
)


def tokenizer_folder(given: Path | None, scratch: Path) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json: the one given, or the embedded model's, built anew."""
    if given is not None:
        return given
    from tunesmith.models import embedded

    folder = scratch / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        gguf = embedded.read_gguf(embedded.gguf_path())
        embedded.build_tokenizer(gguf).save(str(folder / "tokenizer.json"))
        settings = embedded._tokenizer_config(gguf, embedded.make_config(gguf))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def model_folder(name: str, scratch: Path, tokenizer: Path) -> Path:
    """The folder of a model with random weights, built in a child process when it is not there yet."""
    folder = scratch / f"qwen2.5-{name}"
    if not (folder / "done").is_file():
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, __file__, name, str(folder), str(tokenizer)], check=True)
        print(f"{name}: built in {time.monotonic() - began:.0f} s", flush=True)
    return folder


def build_model(name: str, folder: Path, tokenizer: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    tokens = {
        entry["content"]: entry["id"]
        for entry in json.loads((tokenizer / "tokenizer.json").read_text())["added_tokens"]
    }
    ids = {f"{kind}_token_id": tokens[settings[f"{kind}_token"]] for kind in ("bos", "eos", "pad")}
    shape = {key: value for key, value in SHAPES[name].items() if key != "model_type"}
    config = Qwen2Config(**shape, **ids, rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0})
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    # Small random weights: the loss starts near ln(vocabulary) and every number stays finite.
    model.save_pretrained(folder, max_shard_size="4GB")
    for path in tokenizer.iterdir():
        shutil.copy(path, folder)
    (folder / "done").touch()


def workload(scratch: Path, tokenizer: Path, rows: int = ROWS) -> list[dict[str, str]]:
    """{instruction, output} of each row; the same for everybody, kept in a file."""
    path = scratch / f"rows-{rows}.jsonl"
    if not path.is_file():
        from tokenizers import Tokenizer

        counter = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        scratch.mkdir(parents=True, exist_ok=True)
        made = _make_rows(rows, lambda text: len(counter.encode(text, add_special_tokens=False).ids))
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def long_rows(count: int = 48) -> list[dict[str, str]]:
    """Rows longer than any max_length that is measured: each is cut to exactly that many tokens."""
    text = (NOTES / "day-01-company.md").read_text(encoding="utf-8")
    words = text.split()
    return [
        {
            "instruction": f"Explain note {number}.",
            "output": " ".join(words[number:] + words * 8),
            "split": "train" if number % 8 else "eval",
        }
        for number in range(count)
    ]


def describe(rows: list[dict[str, str]], tokenizer: Path) -> dict[str, float]:
    """Lengths of the rendered rows in tokens."""
    from tokenizers import Tokenizer

    counter = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = [ALPACA.format(**row) for row in rows]
    lengths = sorted(len(found.ids) for found in counter.encode_batch(texts, add_special_tokens=False))
    return {
        "rows": len(rows),
        "mean_tokens": round(statistics.mean(lengths), 1),
        "median_tokens": lengths[len(lengths) // 2],
        "p95_tokens": lengths[int(len(lengths) * 0.95)],
        "longest": lengths[-1],
        "total": sum(lengths),
        "chinese_share": round(sum(row["language"] == "zh" for row in rows) / len(rows), 2),
    }


def _make_rows(count: int, length: Any) -> list[dict[str, str]]:
    draw = random.Random(SEED)
    sentences: dict[str, list[str]] = {"en": [], "zh": []}
    for path in sorted(NOTES.iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", line.strip(" -#|>*`")):
                language = "zh" if re.search(r"[\u4e00-\u9fff]", sentence) else "en"
                if 12 <= len(sentence) <= 300:
                    sentences[language].append(sentence.strip())
    tokens = {sentence: length(sentence) for found in sentences.values() for sentence in found}
    frame = length(ALPACA.format(instruction="", output=""))
    middle = math.log(DRAWN_MEAN) - SPREAD**2 / 2
    rows = []
    for number in range(count):
        language = "zh" if draw.random() < 0.3 else "en"
        wanted = min(LONGEST, max(SHORTEST, draw.lognormvariate(middle, SPREAD)))
        topic = draw.choice(sentences[language])
        ask = f"请说明第 {number} 条：{topic}" if language == "zh" else f"Explain note {number}: {topic}"
        have, parts = frame + tokens[topic] + 8, []
        while have < wanted or not parts:
            # The last sentence overshoots by half its length on average: near the end short ones are drawn.
            best = min(
                (draw.choice(sentences[language]) for _ in range(4)), key=lambda s: abs(have + tokens[s] - wanted)
            )
            parts.append(best)
            have += tokens[best]
        output = ("" if language == "zh" else " ").join(parts)
        rows.append({"instruction": ask, "output": output, "language": language})
    return rows


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in (
        "torch",
        "transformers",
        "trl",
        "peft",
        "bitsandbytes",
        "unsloth",
        "xformers",
        "accelerate",
        "datasets",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """Of a child: nothing is looked up on a network, text is shown as it comes."""
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def big_scratch() -> Path:
    """Where 25 GB of models have room: memory if there is plenty, else the disk."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 40 * 2**30:
        return memory / "tunesmith-benchmark"
    return Path(os.environ.get("TMPDIR", "/tmp")) / "tunesmith-benchmark"


if __name__ == "__main__":
    build_model(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

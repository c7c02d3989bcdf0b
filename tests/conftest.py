"""Eight CPU devices for every test, and programs that compile fast."""

import gc
import importlib.util
import json
import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

flags = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
]
if version("jaxlib").startswith("0.10."):  # later ones abort at a flag they dropped
    flags.append("--xla_cpu_use_fusion_emitters=false")
    flags.append("--xla_cpu_parallel_codegen_split_count=1")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
os.environ.setdefault("MPLBACKEND", "agg")
# No test keeps its programs in its user's home.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
# Traces and programs are kept, millions of objects that are no garbage.
gc.set_threshold(100_000, 50, 100)
# An accelerator, if JAX_PLATFORMS names one, rounds products of matrices otherwise.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")


@pytest.fixture(scope="session")
def load_benchmark():
    """Name of a script in `experiments/benchmarks` -> its module."""
    folder = Path(__file__).parents[1] / "experiments" / "benchmarks"
    sys.path.append(str(folder))  # where Python puts it for a script

    @cache
    def load(name):
        path = folder / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A sentence-transformers folder with random weights and words for tokens."""
    folder = tmp_path_factory.mktemp("encoder")
    _write_encoder(folder)
    return folder


def _write_encoder(folder, seed=0):
    np_file = pytest.importorskip("safetensors.numpy")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "milk", "whole", "tea", "green", "|"]
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": len(words),
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 40,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    files = {
        "config.json": config,
        "sentence_bert_config.json": {"max_seq_length": 33, "do_lower_case": True},
        "modules.json": [
            {"path": path, "type": f"sentence_transformers.models.{kind}"}
            for path, kind in [("", "Transformer"), ("1_Pooling", "Pooling")]
        ],
        "1_Pooling/config.json": {
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: i for i, word in enumerate(words)}, unk_token="[UNK]"
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=40)  # as all-MiniLM-L6-v2's file has it
    tokenizer.enable_truncation(20)
    tokenizer.save(str(folder / "tokenizer.json"))
    np_file.save_file(_random_weights(config, seed), folder / "model.safetensors")


def _random_weights(config, seed):
    rng = np.random.default_rng(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"embeddings.LayerNorm": (width,)}
    for name, size in [
        ("word", config["vocab_size"]),
        ("position", config["max_position_embeddings"]),
        ("token_type", config["type_vocab_size"]),
    ]:
        shapes[f"embeddings.{name}_embeddings"] = (size, width)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "attention.output.LayerNorm": (width,),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
            "output.LayerNorm": (width,),
        }.items():
            shapes[f"encoder.layer.{layer}.{name}"] = shape
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = rng.normal(0.2, 0.7, shape).astype(np.float32)
        if not name.endswith("_embeddings"):
            weights[f"{name}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)
    return weights

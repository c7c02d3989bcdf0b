import json
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sid_jax.errors import InputError
from sid_jax.models.text import load_encoder


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    return shutil.copytree(tiny_encoder, tmp_path / "model")


def change(folder, name, **fields):
    path = folder / name
    plain = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(plain | fields))


def resave(folder, edit):
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = safetensors.load_file(folder / "model.safetensors")
    safetensors.save_file(edit(weights), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"model_type": "roberta"}, "model_type is 'roberta'"),
        ("config.json", {"hidden_act": "gelu_new"}, "hidden_act"),
        (
            "config.json",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', and only 'absolute'",
        ),
        ("config.json", {"is_decoder": True}, "is_decoder"),
        ("config.json", {"hidden_size": "8"}, "hidden_size must be"),
        ("config.json", {"vocab_size": 5}, "vocab_size 5"),
        ("config.json", {"intermediate_size": 13}, r"weight .* of shape \(8, 12\)|13"),
        ("sentence_bert_config.json", {"max_seq_length": 41}, "max_seq_length 41"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "cls_token and"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "query"},
            "default_prompt_name 'query'",
        ),
    ],
)
def test_what_is_not_supported_names_file_and_field(folder, name, fields, message):
    change(folder, name, **fields)
    with pytest.raises(InputError, match=message):
        load_encoder(str(folder))


def test_missing_files_fields_and_weights_are_named(folder):
    plain = json.loads((folder / "config.json").read_text())
    del plain["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"config\.json: no field num_attention_heads"):
        load_encoder(str(folder))
    change(folder, "config.json", num_attention_heads=2)
    weights = "encoder.layer.1.output.dense.bias"
    resave(folder, lambda held: {k: v for k, v in held.items() if k != weights})
    with pytest.raises(InputError, match=rf"model\.safetensors: no weight {weights}"):
        load_encoder(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which nothing opens")
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "modules.json", "tokenizer.json", "model.safetensors"]
)
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"3", b'[{"type": 3}]'])
def test_a_damaged_file_is_an_input_error(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_encoder(str(folder))


def test_modules_say_where_things_lie_and_what_follows(folder):
    plain = load_encoder(str(folder))
    (folder / "0_T").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.move(folder / name, folder / "0_T" / name)
    modules = [
        {"path": path, "type": f"sentence_transformers.somewhere.{kind}"}
        for path, kind in [("0_T", "Transformer"), ("1_Pooling", "Pooling")]
    ]
    modules.append({"path": "2_Normalize", "type": "x.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    (folder / "0_T" / "tokenizer_config.json").write_text('{"model_max_length": 21}')
    (folder / "config_sentence_transformers.json").write_text(
        '{"default_prompt_name": "q", "prompts": {"q": "query: "}}'
    )
    moved = load_encoder(str(folder))
    facts = (moved.pooling, moved.normalise, moved.prefix, moved.max_length)
    assert facts == ("cls", True, "query: ", 21)
    jax.tree.map(np.testing.assert_array_equal, moved.params, plain.params)
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"path": "3", "type": "x.Dense"}])
    )
    with pytest.raises(InputError, match=r"modules\.json: type: .*Dense"):
        load_encoder(str(folder))


def test_a_tokenizer_that_means_no_limit_has_the_models(folder):
    change(folder, "tokenizer_config.json", model_max_length=10**30)
    change(folder, "sentence_bert_config.json", max_seq_length=None)
    assert load_encoder(str(folder)).max_length == 40


def test_names_with_bert_before_them_and_bfloat16_weights(folder):
    plain = load_encoder(str(folder))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    flax_file = pytest.importorskip("safetensors.flax")
    weights = flax_file.load_file(folder / "model.safetensors")
    halved = {f"bert.{k}": v.astype(ml_dtypes.bfloat16) for k, v in weights.items()}
    flax_file.save_file(halved, folder / "model.safetensors")
    again = load_encoder(str(folder))
    for a, b in zip(*map(jax.tree.leaves, (plain.params, again.params)), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0.01)


def test_a_name_is_fetched_from_the_hub(folder, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "org/model":
            raise ConnectionError("no route\nto the hub")
        return str(folder)

    stub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    assert load_encoder("org/model").width == 8
    assert not any("bin" in pattern for pattern in asked[0][1])
    with pytest.raises(InputError, match=r"'org/other': no such folder.*no route\);"):
        load_encoder("org/other")
    with pytest.raises(InputError, match="no such folder, and no name"):
        load_encoder("./model")
    assert len(asked) == 2


@pytest.mark.parametrize("package", ["safetensors", "tokenizers", "huggingface_hub"])
def test_a_missing_package_is_a_hint(folder, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    name = "org/model" if package == "huggingface_hub" else str(folder)
    with pytest.raises(InputError, match=r"pip install 'sid_jax\[text\]'") as error:
        load_encoder(name)
    assert package in str(error.value) and "\n" not in str(error.value)

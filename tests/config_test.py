import dataclasses
import json

import pytest

from sid_jax.config import (
    CooccurrenceTerm,
    FlatConfig,
    MeshConfig,
    NeighbourhoodConfig,
    OptimizerConfig,
    PromptConfig,
    ResidualKMeansConfig,
    RetrieverExperiment,
    RetrieverTaskConfig,
    RQVAEConfig,
    SearchConfig,
    TaxonomyTerm,
    TokenizerExperiment,
    TokenizerTaskConfig,
    TrainConfig,
    TransformerConfig,
    VectorConfig,
    digest_config,
    read_config,
    read_experiment,
    smoke,
    write_config,
)
from sid_jax.errors import InputError

EXPERIMENTS = [
    TokenizerExperiment(),
    TokenizerExperiment(
        vectors=VectorConfig(
            columns=("price", "size"),
            word_ngrams=(1, 3),
            neighbours=NeighbourhoodConfig(k=9, blocks=((2, 1), (7, 0.5)), cut=0.5),
        ),
        model=ResidualKMeansConfig(codebook_sizes=(7, 5)),
        task=TokenizerTaskConfig(decay=0.5, start_rows=9),
        mesh=MeshConfig(data=16, model=16, rules="fsdp_tensor"),
    ),
    TokenizerExperiment(
        model=RQVAEConfig(hidden=(), latent=3, codebook_sizes=(2, 300, 4)),
        optimizer=OptimizerConfig(learning_rate=1, schedule="cosine"),  # whole: an int
        train=TrainConfig(steps=7, show=("reconstruction",)),
    ),
    RetrieverExperiment(),
    RetrieverExperiment(
        tokenizer="elsewhere",
        prompts=PromptConfig(decay=1, min_history=0),
        model=FlatConfig(
            transformer=TransformerConfig(width=64, depth=2), repeat=False
        ),
        search=SearchConfig(num_beams=7, max_requests=3),
        batch_size=3,
    ),
]
NAMES = [type(each).__name__ for each in EXPERIMENTS]


@pytest.mark.parametrize("config", EXPERIMENTS, ids=NAMES)
def test_a_configuration_reads_back(config, tmp_path):
    write_config(tmp_path / "config.json", config)
    found = read_config(tmp_path / "config.json")
    assert found == config and type(found) is type(config)
    write_config(tmp_path / "again.json", found)
    texts = [(tmp_path / name).read_text() for name in ("config.json", "again.json")]
    assert texts[0] == texts[1]


def test_a_digest_tells_configurations_apart():
    digests = [digest_config(config) for config in EXPERIMENTS]
    assert len(set(digests)) == len(digests)
    assert digests == [digest_config(dataclasses.replace(c)) for c in EXPERIMENTS]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: plain.update(colour=1), ["no field 'colour'"]),
        (lambda plain: plain.update(batch_size="64"), ["config.batch_size", "int"]),
        (lambda plain: plain.update(batch_size=0), ["batch_size", "positive"]),
        (lambda plain: plain.update(batch_size=1.5), ["config.batch_size", "int"]),
        (lambda plain: plain.update(batch_size={}), ["config.batch_size", "int"]),
        (lambda plain: plain.update(model=3), ["config.model", "RQVAEConfig"]),
        (lambda plain: plain.update(model=[]), ["config.model", "RQVAEConfig"]),
        (
            lambda plain: plain["model"].update({"class": "VQ"}),
            ["config.model", "'VQ'", "ResidualKMeansConfig"],
        ),
        (
            lambda plain: plain["model"].update(codebook_sizes=[4, "4"]),
            ["config.model.codebook_sizes[1]", "'4'", "int"],
        ),
        (
            lambda plain: plain["model"].update(codebook_sizes=4),
            ["config.model.codebook_sizes", "tuple[int, ...]"],
        ),
        (
            lambda plain: plain["vectors"].update(word_ngrams=[1, 2, 3]),
            ["config.vectors.word_ngrams", "tuple[int, int]"],
        ),
        (
            lambda plain: plain["optimizer"].update(schedule="linear"),
            ["config.optimizer.schedule", "linear", "cosine"],
        ),
        (lambda plain: plain["mesh"].update(model=None), ["config.mesh.model", "int"]),
        (lambda plain: plain.update({"class": "Trainer"}), ["config", "'Trainer'"]),
    ],
)
def test_what_does_not_fit_is_named(change, words, tmp_path):
    path = tmp_path / "config.json"
    write_config(path, EXPERIMENTS[0])
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError) as error:
        read_config(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_files_that_are_no_configuration_are_named(tmp_path):
    with pytest.raises(InputError, match=r"config.json: not there.*run folder"):
        read_config(tmp_path / "config.json")
    for text in ("{", "[1, 2]", "null"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json"):
            read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("config", EXPERIMENTS, ids=NAMES)
def test_smoke_shrinks_any_experiment_and_keeps_its_kind(config):
    small = smoke(config)
    assert type(small) is type(config) and type(small.model) is type(config.model)
    assert small.train.steps <= 4 and small.batch_size <= 16
    assert small.mesh.model == 1 and small.mesh.rules == config.mesh.rules
    assert small.data == config.data and small.optimizer == config.optimizer
    if isinstance(config, RetrieverExperiment):
        assert small.model.transformer.width <= 16
        assert small.model.repeat == config.model.repeat
        assert small.prompts.decay == config.prompts.decay
        assert small.search.num_beams <= 8 and small.search.max_requests <= 16
    else:
        sizes = small.model.codebook_sizes
        assert len(sizes) == len(config.model.codebook_sizes) and max(sizes) <= 4
        assert small.task.start_rows >= max(sizes)
        assert small.vectors.columns == config.vectors.columns
        near = small.vectors.neighbours
        assert near.cut == config.vectors.neighbours.cut and near.width <= 2
        assert bool(near.k) == bool(config.vectors.neighbours.k)
    assert smoke(small) == small


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no experiment file", "get_config"]),
        ("x = ", ["SyntaxError"]),
        ("x = 1", ["has no get_config()"]),
        ("def get_variants(): return {}", ["has no get_config()", "sid sweep"]),
        ("def get_config(): return 1 / 0", ["ZeroDivisionError"]),
        ("def get_config(): return 3", ["TokenizerExperiment", "int"]),
        (
            "from sid_jax.config import SearchConfig\n"
            "def get_config(): return SearchConfig(top=0)",
            ["search.top"],
        ),
    ],
)
def test_an_experiment_that_fails_says_how(text, words, tmp_path):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        read_experiment(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_an_experiment_is_what_its_file_returns(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(
        "from sid_jax.config import TokenizerExperiment\n"
        "def get_config():\n    return TokenizerExperiment(batch_size=7)\n"
    )
    assert read_experiment(path) == TokenizerExperiment(batch_size=7)
    with pytest.raises(InputError, match="no experiment file"):
        read_experiment(tmp_path)
    other = path.rename(tmp_path / "small.txt")
    with pytest.raises(InputError, match=r"want a \.py"):
        read_experiment(other)


@pytest.mark.parametrize("kind", [TokenizerExperiment, RetrieverExperiment])
def test_a_batch_has_rows(kind):
    with pytest.raises(InputError, match="batch_size"):
        kind(batch_size=0)


def test_a_field_that_an_older_version_had_not_is_at_its_default(tmp_path):
    path = tmp_path / "config.json"
    write_config(path, EXPERIMENTS[0])
    plain = json.loads(path.read_text())
    del plain["batch_size"], plain["vectors"]["dim"]
    path.write_text(json.dumps(plain))
    wanted = dataclasses.replace(
        EXPERIMENTS[0],
        batch_size=TokenizerExperiment().batch_size,
        vectors=dataclasses.replace(EXPERIMENTS[0].vectors, dim=VectorConfig().dim),
    )
    assert read_config(path) == wanted


def test_a_field_without_a_default_must_be_there(tmp_path):
    path = tmp_path / "config.json"
    write_config(path, EXPERIMENTS[0])
    plain = json.loads(path.read_text())
    del plain["train"]["steps"]
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match="TrainConfig lacks the field 'steps'"):
        read_config(path)


@pytest.mark.parametrize(
    ("term", "change"),
    [
        ("taxonomy", {"taxonomy": TaxonomyTerm(weight=0.1)}),
        ("cooccurrence", {"cooccurrence": CooccurrenceTerm(weight=0.1)}),
        ("even", {"even": 0.01}),
    ],
)
def test_a_term_of_the_whole_batch_is_not_computed_in_parts(term, change):
    task, train = TokenizerTaskConfig(**change), TrainConfig(steps=1, accumulate=2)
    with pytest.raises(InputError, match=rf"train\.accumulate=2 .*task\.{term}"):
        TokenizerExperiment(task=task, train=train)


@pytest.mark.parametrize("kind", [TokenizerTaskConfig, RetrieverTaskConfig])
def test_a_type_that_no_task_computes_in_is_refused(kind):
    with pytest.raises(InputError, match=r"task\.dtype='float16'"):
        kind(dtype="float16")

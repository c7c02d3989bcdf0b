"""The training step's benchmark: what it counts, and that each side learns."""

import numpy as np
import pytest

from sid_jax.config import HierarchicalConfig, RetrieverExperiment, smoke
from sid_jax.sids.vocab import Vocab


def test_targets_are_the_products_behind_another_of_their_household(load_benchmark):
    benchmark = load_benchmark("train_step")
    data = benchmark.make_data(40)
    lengths = np.diff(data.user_offsets)
    assert lengths.min() >= 5 and lengths.max() <= 50
    segments = np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    items = np.asarray([[-1, 4, 5, -1, 6, -1], [-1, 3, -1, -1, -1, -1]])
    retailers = np.where((items < 0) & (segments > 0), 0, -1)
    vocab = Vocab(codebook_sizes=(8,))
    batch = vocab.sequences(retailers, items[..., None], items, segments)
    assert benchmark.count_targets(batch) == 4
    prompts = vocab.prompts(np.zeros(2, int), items[..., None], items[:, :2, None])
    assert benchmark.count_targets(prompts) == 2


@pytest.mark.slow
def test_a_side_learns_what_it_counts(load_benchmark, monkeypatch):
    benchmark = load_benchmark("train_step")
    model = smoke(RetrieverExperiment(model=HierarchicalConfig())).model
    monkeypatch.setitem(benchmark.MODELS, "tiger", model)
    monkeypatch.setattr(benchmark, "ITEMS", 50)
    side = benchmark.our_side("tiger", benchmark.make_data(40), rows=2)
    losses = [side.run(1) for _ in range(20)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    times = benchmark.take_turns({"tiger": lambda: side.run(1)}, 2)
    lines = benchmark.format_rows({"tiger": side}, times)
    assert lines[1].startswith("tiger") and lines[1].split()[-1] == "1.00"

"""The end-to-end benchmark: all of its sides retrieve the same."""

import importlib.util

import jax
import numpy as np
import pytest

from sid_jax.models.t5 import T5Config
from sid_jax.sids.beam import Beams
from sid_jax.sids.trie import build_trie

TINY = T5Config(width=8, depth=2, num_heads=2, head_width=4, mlp_width=16)


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("generate")


@pytest.fixture
def setting(benchmark):
    return benchmark.make_setting(TINY, (8, 8, 8), 60, 2)


def test_a_history_of_each_beams_own_changes_nothing(benchmark, setting):
    trie = build_trie(setting.sids, setting.vocab.codebook_sizes)
    told = setting.params, trie, setting.prompts
    found = {
        tiled: jax.jit(benchmark.our_search(setting, 5, tiled))(*told)
        for tiled in (False, True)
    }
    np.testing.assert_array_equal(found[False].codes, found[True].codes)
    np.testing.assert_allclose(found[False].scores, found[True].scores, atol=1e-5)


def test_sides_are_timed_and_shown_beside_ours(benchmark, setting):
    times = benchmark.measure(setting, None, 4, 1, eager=False)
    assert set(times) == {"ours", "tiled"} and min(times.values()) > 0
    row = benchmark.format_row(4, {"ours": 0.002, "tiled": 0.005})
    assert row.split() == ["4", "2.0", "(", "1.0)", "5.0", "(", "2.5)"]


def test_scores_and_beams_are_compared(benchmark):
    scores = np.asarray([[-1.0, -2.0, -2.0, -3.0]])
    codes = np.arange(8).reshape(1, 4, 2)
    beams = Beams(codes, scores, codes[..., 0], scores < 0)
    assert benchmark.compare(beams, codes, scores + 5e-5) == pytest.approx(5e-5)
    benchmark.compare(beams, codes[:, [0, 2, 1, 3]], scores)  # a tie
    for wrong in (scores + 1e-3, scores + np.nan):
        with pytest.raises(SystemExit, match="the scores differ"):
            benchmark.compare(beams, codes, wrong)
    with pytest.raises(SystemExit, match="the beams differ"):
        benchmark.compare(beams, codes + 1, scores)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="Transformers is absent"
)
def test_hugging_face_finds_the_same(benchmark, setting):
    peer = benchmark.Peer(benchmark.find_peers(), setting)
    trie = build_trie(setting.sids, setting.vocab.codebook_sizes)
    search = jax.jit(benchmark.our_search(setting, 5))
    ours = search(setting.params, trie, setting.prompts)
    codes, scores = peer.generate(5, masked=True)
    np.testing.assert_array_equal(codes, ours.codes)
    np.testing.assert_allclose(scores, ours.scores, atol=1e-5)

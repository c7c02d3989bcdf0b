"""The quantizers' benchmark runs without its peers, and its numbers are the work's."""

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.models.kmeans import fit_codebooks
from sid_jax.models.quantizer import quantize


def test_it_runs_without_peers_and_tells_the_error_of_the_codes(load_benchmark):
    benchmark = load_benchmark("quantize")
    vectors = benchmark.draw_vectors(300, 6)
    measured = benchmark.measure(
        vectors, (8, 4), beams=(1, 3), iterations=2, batch=64, repeats=2
    )
    rows = list(measured)
    greedy, beam, kmeans, step = rows
    codebooks = fit_codebooks(jax.random.key(0), jnp.asarray(vectors), (8, 4))
    wanted = quantize(jnp.asarray(vectors), codebooks).distances.mean()
    np.testing.assert_allclose(greedy.error[0], wanted, rtol=1e-4)
    assert beam.error[0] < greedy.error[0] <= kmeans.error[0] * 1.05
    for row in rows:
        assert row.theirs is None and min(row.ours) > 0
    assert "training step" in step.task and step.error[0] > 0
    assert benchmark.describe_machine().count("cores") == 1

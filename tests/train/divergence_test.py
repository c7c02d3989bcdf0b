"""What ends a run, and what stays of it in its folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_jax.train.divergence import Diverged, Guard
from sid_jax.train.progress import Window


def watch(folder, losses, growth, width=3):
    """Shows losses to a guard, a window of some steps at a time."""
    guard, window = Guard(folder, growth, lambda step: step, None), Window()
    for step, loss in enumerate(losses, 1):
        window.add(
            step, {"loss": (jnp.float32(loss), 1), "grad_norm": (jnp.float32(1), 1)}
        )
        if step % width == 0 or step == len(losses):
            guard.check(window, None)
            window.means()


NUMBERS = st.floats(0, 2.0**20, width=32)


@settings(deadline=None, max_examples=25)
@given(st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from([0.0, 2.0, 1000.0]))
def test_a_run_ends_where_a_loss_is_above_the_first_so_many_times(
    tmp_path_factory, losses, growth
):
    """Never where the first one is 0, or no growth is asked about."""
    folder = tmp_path_factory.mktemp("run")
    limit = growth * np.float32(losses[0])
    above = [
        n for n, loss in enumerate(losses, 1) if limit and np.float32(loss) > limit
    ]
    if not above:
        watch(folder, losses, growth)
        assert not (folder / "diverged.json").exists()
        return
    with pytest.raises(Diverged, match=f"^step {above[0]}: "):
        watch(folder, losses, growth)
    assert (folder / "diverged.json").exists()


@pytest.mark.parametrize("growth", [0.0, 1000.0])
@pytest.mark.parametrize("start", [0.0, 1.0, float("nan")])
def test_a_loss_that_is_no_number_ends_it_whatever_the_first(tmp_path, start, growth):
    with pytest.raises(Diverged):
        watch(tmp_path, [start, 1.0, 1.0, 1.0, float("nan")], growth)


def test_a_start_clears_what_all_processes_of_the_last_one_left(tmp_path, monkeypatch):
    """Of many more than there are now; what is not theirs stays."""
    names = ["diverged.json", "diverged-3.json", "diverged-17.json"]
    for name in [*names, "config.json"]:
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    watch(tmp_path, [1.0], 0.0)  # another one than the first touches none
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    watch(tmp_path, [1.0], 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

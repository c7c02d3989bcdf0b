import faulthandler
import os
import signal

import jax
import pytest

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.train import hosts

THREE = {
    "JAX_COORDINATOR_ADDRESS": "first:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
}


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` was called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: calls.append(a))
    return calls


def test_three_variables_say_who_is_there(joined):
    hosts.join(THREE)
    assert joined == [("first:1234", 4, 3)]


@pytest.mark.parametrize(
    "environment",
    [
        STEP,
        {"OMPI_COMM_WORLD_SIZE": "3"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
        {"SID_JOIN": "1"},
    ],
)
def test_launchers_that_jax_knows_are_left_to_it(joined, environment):
    hosts.join(environment)
    assert joined == [()]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAX_COORDINATOR_ADDRESS": "first:1234"},  # of a service that is not ours
        STEP | {"SLURM_NTASKS": "1"},
        # A shell in an allocation is no step of it.
        {name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "1"},
        {"SID_JOIN": "0"},
    ],
)
def test_a_process_that_was_started_alone_stays_alone(joined, environment):
    hosts.join(environment)
    assert not joined


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID=''"),
        ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES='many'"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 is not below JAX_NUM_PROCESSES=4"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS=''"),
    ],
)
def test_a_launcher_that_says_half_is_told(joined, change, message):
    with pytest.raises(InputError, match=message):
        hosts.join(THREE | change)
    assert not joined


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, (0, 1)),
        (THREE, (3, 4)),
        (STEP, (1, 2)),
        (STEP | {"SLURM_STEP_NODELIST": ""}, (0, 1)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, (0, 3)),
    ],
)
def test_a_rank_is_told_without_joining(joined, environment, rank):
    assert hosts.find_rank(environment) == rank
    assert not joined


def test_alone_everything_is_its_own():
    assert hosts.is_first() and not hosts.are_many()
    assert hosts.first(max, 2, 3) == 3
    assert hosts.agree(True) and not hosts.agree(False)
    x = jax.numpy.arange(3)
    assert hosts.fetch({"x": x})["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("many", [False, True])
def test_what_follows_from_a_lost_process_says_so(monkeypatch, many):
    monkeypatch.setattr(jax, "process_count", lambda: 1 + many)
    gone = RuntimeError("Gloo all-reduce failed: Connection reset by peer")
    with pytest.raises(hosts.Lost if many else RuntimeError) as told, hosts.together():
        raise gone
    assert not many or "start all of them again to go on" in str(told.value)
    with pytest.raises(ValueError), hosts.together():
        raise ValueError("another one")
    with pytest.raises(ValueError), hosts.together():
        raise ValueError("/shared/carrier/run: not there")


def test_what_this_process_says_itself_is_no_loss(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for error in (InputError("the item barrier cream"), UnwrittenError("a Gloo disk")):
        with pytest.raises(type(error)), hosts.together():
            raise error


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [(InputError, InputError), (UnwrittenError, InputError), (KeyError, hosts.Lost)],
)
def test_all_hear_that_the_first_one_failed(monkeypatch, rank, error, elsewhere):
    def fail():
        raise error("only here")

    said = []
    monkeypatch.setattr(jax, "process_index", lambda: rank)
    told = {InputError: 1, UnwrittenError: 1, KeyError: 2}[error]
    hear = (lambda value: said.append(value) or value) if rank == 0 else lambda _: told
    monkeypatch.setattr(hosts, "_broadcast", hear)
    with pytest.raises(elsewhere if rank else error, match=r"only here|the first proc"):
        hosts.first(fail)
    assert said == ([] if rank else [told])


def test_a_handler_of_the_c_library_is_put_aside_and_back(tmp_path):
    heard, number = [], signal.SIGUSR1
    with (tmp_path / "heard").open("w") as file:
        faulthandler.register(number, file)  # in C, as JAX's own
        try:
            handler = hosts._set_handler(number)
            signal.signal(number, lambda *_: heard.append("Python"))
            os.kill(os.getpid(), number)
            assert heard == ["Python"] and not os.path.getsize(file.name)
            hosts._set_handler(number, handler)
            os.kill(os.getpid(), number)
            assert heard == ["Python"] and os.path.getsize(file.name)
        finally:
            faulthandler.unregister(number)
            signal.signal(number, signal.SIG_DFL)

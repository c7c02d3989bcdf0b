"""The soak: what it checks can fail, and what is served under load is right."""

import os
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest

from sid_jax.flows.export import export_retriever
from sid_jax.flows.serving import load_artifact

MINUTES = 30


@pytest.fixture
def soak(load_benchmark):
    return load_benchmark("soak")


@pytest.fixture(scope="module")
def served(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("soak") / "served"
    told = {"platforms": ["cpu"], "batch_size": 2, "room": 1.0, "log": str}
    export_retriever(world.retriever, out, **told)
    return load_artifact(out)


def test_threads_ask_while_versions_come_and_nothing_is_lost(soak, served):
    """Fewer sets are held than there are stores: they come and go, too."""
    server = soak.Server(served, 0)
    server.start()
    time.sleep(3)
    server.stop()
    assert not server.faults
    assert server.tally["requests"] > 30 and server.tally["swaps"] > 2


def test_each_fault_of_an_answer_is_found(soak, served):
    rng = np.random.default_rng(0)
    requests = soak.make_requests(served, rng)
    good = soak.answer(served, requests)
    assert soak.find_faults(served, requests, good, None) == []

    def judge(mask=None, **changes):
        return set(soak.find_faults(served, requests, replace(good, **changes), mask))

    items = good.items.copy()
    assert judge(items=items[:-1])
    assert judge(items=np.full_like(items, -1)) == {"no product"}
    assert judge(items=np.where(items >= 0, 999, -1)) == {
        "a product of another catalog"
    }
    assert judge(items=np.where(items >= 0, items[:, :1], -1))
    none = np.zeros(len(served.codes), bool)
    assert judge(mask=none) == {"a product outside the mask"}
    asked = replace(requests, basket=good.items[:, :1])
    assert soak.find_faults(served, asked, good, None)[0] == "a product of the basket"
    bare = replace(served.index, starts=np.zeros_like(served.index.starts))
    store = replace(served, index=bare)
    found = soak.find_faults(store, requests, good, None)
    assert set(found) == {"a product that the store does not carry"}


def test_a_process_that_ends_is_told_by_its_sample(soak):
    """As soon as it has ended, whether anybody has asked for its code or not."""
    assert soak.sample(os.getpid())[0] > 1
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        with pytest.raises(ProcessLookupError, match="has ended"):
            soak.sample(process.pid)
        process.wait()


def test_memory_that_grows_is_found_and_its_warm_up_is_not(soak):
    flat = [(min(100 + each, 300), 5, 9) for each in range(600)]
    assert soak.judge_samples(flat)[1] == []
    leaking = [(300 + each / 10, 5, 9 + each // 50) for each in range(600)]
    faults = soak.judge_samples(leaking)[1]
    assert [fault.split()[0] for fault in faults] == ["MB", "files"]


@pytest.mark.slow
def test_half_an_hour_of_it_loses_nothing(soak, tmp_path):
    lines, faults = soak.soak(tmp_path, 60 * MINUTES)
    print("\n".join(lines))
    assert not faults

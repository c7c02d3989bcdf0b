"""The account of compiled programs, on the devices that are here."""

import jax
import jax.numpy as jnp
import numpy as np


def test_a_search_needs_nothing_of_another_device_nor_of_the_host(load_benchmark):
    benchmark = load_benchmark("tpu")
    program = benchmark.search_program(60, 8, 3, batch=16, num_beams=5)
    told = benchmark.compile_for(jax.devices(), *program)
    assert told["host"] == told["dynamic"] == told["collectives"] == 0
    trie = sum(leaf.nbytes for leaf in jax.tree.leaves(program[1]))
    masks = 2 * (program[2][1].shape[1] + 4)
    assert trie < told["arguments MB"] * 1e6 <= trie + masks + 64


def test_what_a_program_does_besides_is_counted(load_benchmark):
    def program(whole, shared):
        doubled = jax.pure_callback(np.negative, shared, shared)
        return jnp.sum(doubled) * whole

    shared = np.ones((16, 2), np.float32)
    told = load_benchmark("tpu").compile_for(
        jax.devices(), program, np.ones(3, np.float32), shared
    )
    assert told["collectives"] > 0 and told["host"] > 0

"""The account of compiled programs, on the devices that are here."""

import jax
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
    def call(whole, shared):
        return jax.pure_callback(np.negative, shared, shared, vmap_method="sequential")

    def add(whole, shared):
        return jax.lax.fori_loop(0, 3, lambda n, x: x * n + 1, whole) * shared.sum()

    compile_for = load_benchmark("tpu").compile_for
    told = np.ones(3, np.float32), np.ones((16, 2), np.float32)
    found = compile_for(jax.devices(), add, *told)
    assert found["collectives"] == 1 and found["host"] == 0
    assert compile_for(jax.devices()[:1], call, *told)["host"] == 1

"""The split of the baskets: what is held out never reaches what is learned."""

import dataclasses
from collections import Counter, defaultdict

import jax
import numpy as np
import pytest

from sid_jax.config import DataConfig, read_config
from sid_jax.data.pipeline import prompt_stream
from sid_jax.data.sequences import SequenceConfig, sequence_stream
from sid_jax.errors import InputError
from sid_jax.flows.corpus import Corpus, keep_corpus, read_index, read_retailers
from sid_jax.flows.retriever import choose_requests


def load(world, data):
    config = read_config(world.retriever / "config.json")
    where = DataConfig(name="tiny", data_dir=str(data))
    config = dataclasses.replace(config, data=where)
    return config, Corpus.load(config, world.retriever / "sids.parquet")


def by_user(rows):
    users = defaultdict(list)
    for row in rows:
        users[row[0]].append(row)
    return users


def test_sales_are_those_of_the_training_baskets(world):
    _, corpus = load(world, world.data)
    sales = Counter()
    for rows in by_user(world.make_baskets()).values():
        for _, _, store, items in rows[:-2]:
            sales.update((store, item) for item in items.split())
    found = {}
    index = corpus.index()
    for r, store in enumerate(corpus.data.retailers):
        for e in range(index.starts[r], index.starts[r + 1]):
            item_id = corpus.catalog.item_ids[index.items[e]]
            found[store, item_id] = index.sales[e]
    assert found == dict(sales)
    for r, store in enumerate(corpus.data.retailers):
        items = np.arange(len(corpus.catalog))[None]
        known = corpus.store.of(np.asarray([r]), items)[0]
        wanted = [sales.get((store, i), -1) for i in corpus.catalog.item_ids]
        assert known.tolist() == wanted


def test_held_out_baskets_are_each_households_last_two(world):
    _, corpus = load(world, world.data)
    for held, place in ((corpus.test, -1), (corpus.validation, -2)):
        wanted = [r[place] for r in by_user(world.make_baskets()).values()]
        assert len(held) == len(wanted)
        for e, (user, order, store, items) in zip(held, wanted, strict=True):
            ids = [corpus.catalog.item_ids[i] for i in corpus.data.basket(e)]
            name = corpus.data.users[corpus.data.user[e]]
            shop = corpus.data.retailers[corpus.data.retailer[e]]
            assert (name, corpus.data.time[e], shop) == (user, order, store)
            assert ids == items.split()


@pytest.mark.parametrize(("place", "part"), [(-1, "test"), (-2, "validation")])
def test_held_out_items_reach_nothing_that_is_learned(world, tmp_path, place, part):
    rows = []
    for group in by_user(world.make_baskets()).values():
        user, order, _, items = group[place]
        # Other items, as many, at another store.
        others = [f"i{(int(i[1:]) + 31) % 60:02d}" for i in items.split()]
        group[place] = [user, order, "east", " ".join(others)]
        rows += group
    path = world.write_baskets(tmp_path / "baskets.csv", rows)
    assert world.import_data(tmp_path / "data", baskets=path) == 0
    config, old = load(world, world.data)
    _, new = load(world, tmp_path / "data")
    assert not np.array_equal(new.data.items, old.data.items)
    for a, b in zip(
        vars(old.index()).values(), vars(new.index()).values(), strict=True
    ):
        assert np.array_equal(a, b)
    assert np.array_equal(old.store.items, new.store.items)
    streams = [
        prompt_stream(each.train, each.codes, each.vocab, config.prompts, 16, seed=0)
        for each in (old, new)
    ]
    for step in range(6):
        a, b = (jax.tree.leaves(stream(step)) for stream in streams)
        assert all(map(np.array_equal, a, b))
    if part == "test":  # nor what is validated
        a, b = (
            choose_requests(config, each.data, each.validation, 0)
            for each in (old, new)
        )
        for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
            assert np.array_equal(one, other)


def test_histories_end_before_the_basket_that_is_asked_for(world):
    config, corpus = load(world, world.data)
    requests = choose_requests(config, corpus.data, corpus.test, 0)
    ids = np.asarray(corpus.catalog.item_ids)
    for row, rows in enumerate(by_user(world.make_baskets()).values()):
        before = Counter(i for each in rows[:-1] for i in each[3].split())
        held = requests.owned[row] >= 0
        counts = requests.owned_counts[row]
        assert not counts[~held].any()
        owned = zip(ids[requests.owned[row, held]], counts[held], strict=True)
        assert dict(owned) == dict(before)
        asked = [*requests.basket[row], *requests.targets[row]]
        last = sorted(ids[[i for i in asked if i >= 0]])
        assert last == sorted(rows[-1][3].split())


def test_a_run_keeps_its_index_and_retailers(world, tmp_path):
    _, corpus = load(world, world.data)
    keep_corpus(tmp_path, corpus)
    assert read_retailers(tmp_path) == ["east", "north", "west"]
    index = read_index(tmp_path)
    assert np.array_equal(index.leaves, corpus.table.leaves()[corpus.rows])
    stamp = (tmp_path / "index.npz").stat().st_mtime_ns
    keep_corpus(tmp_path, corpus)
    assert (tmp_path / "index.npz").stat().st_mtime_ns == stamp
    (tmp_path / "retailers.json").write_text('["east", "north", "south"]')
    with pytest.raises(InputError, match="by now than when this run began"):
        keep_corpus(tmp_path, corpus)


def test_what_cannot_be_learned_from_is_refused(world, tmp_path, capsys):
    """Items alone; no second basket; items that the tokenizer never saw."""
    data = ("--data.data-dir", tmp_path / "data")
    name = ("--name", "tiny", "--data-dir", tmp_path / "data")
    assert world.run("import", "--items", world.items, *name) == 0
    assert world.train("retriever", tmp_path / "run", *data) == 2
    assert "has items alone" in capsys.readouterr().err
    once = world.write_baskets(tmp_path / "b.csv", [["u", 1, "east", "i01 i02"]])
    assert world.import_data(tmp_path / "data", baskets=once) == 0
    assert world.train("retriever", tmp_path / "run", *data) == 2
    assert "no household has two baskets" in capsys.readouterr().err
    more = [*world.make_items(), {"item_id": "new"}]
    items = world.write_items(tmp_path / "items.jsonl", more)
    assert world.import_data(tmp_path / "data", items=items) == 0
    assert world.train("retriever", tmp_path / "run", *data) == 2
    err = capsys.readouterr().err
    assert "1 of 61 item ids have no SID: 'new'" in err
    assert "--tokenizer" in err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_is_told_by_the_items_that_it_spells(world, packed):
    config, corpus = load(world, world.data)
    told = corpus.train, corpus.codes, corpus.vocab
    if packed:
        stream = sequence_stream(*told, SequenceConfig(history=5, row=9), 4, seed=0)
    else:
        stream = prompt_stream(*told, config.prompts, 4, seed=0)
    batch = stream(0)
    if packed:
        spelled = corpus.codes[batch.items[batch.items >= 0]]
    else:
        tokens = np.concatenate(
            [each.reshape(-1, 3) for each in (batch.history, batch.basket)]
        )
        spelled = (tokens - corpus.vocab.level_offsets)[tokens[:, 0] > 0]
    wanted = {tuple(codes) for codes in spelled.tolist()}
    assert 0 < len(wanted) < len(corpus.table.sids)
    items = zip(corpus.catalog.item_ids, corpus.codes.tolist(), strict=True)
    assert corpus.name_items(batch) == [i for i, c in items if tuple(c) in wanted]

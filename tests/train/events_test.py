"""TensorBoard's files, read back record by record: length, CRC, data, CRC."""

import os
import struct
import sys
from pathlib import Path

import pytest

from sid_jax.errors import InputError, UnwrittenError
from sid_jax.train.events import EventLog


def read_events(folder):
    """All events of a folder, file by file as they were opened."""
    protocol = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield protocol.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_scalars_read_back_and_steps_written_again_are_forgotten(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # in the same second
        log = EventLog(tmp_path / "events", start)
        for step in steps:
            log.write(step, {"loss": step / 8, "validation/recall@10": 0.5})
        log.close()
    found = {}
    for event in read_events(tmp_path / "events"):
        if event.HasField("session_log"):  # as TensorBoard does at a restart
            found = {key: x for key, x in found.items() if key[1] < event.step}
        for value in event.summary.value:
            key = value.tag, event.step
            assert key not in found
            found[key] = value.simple_value
    assert found == {
        (name, step): step / 8 if name == "loss" else 0.5
        for step in (1, 2, 3, 4)
        for name in ("loss", "validation/recall_10")
    }


@pytest.fixture
def disk(monkeypatch):
    """Fills the disk under the event file that is open, and makes room again."""
    writer = pytest.importorskip("tensorboardX.record_writer")
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    opened, spare = [], []
    open_file = writer.open_file

    def open_and_tell(path):
        opened.append(open_file(path))
        return opened[-1]

    def fill():
        spare.append(os.dup(opened[-1].fileno()))
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), opened[-1].fileno())

    def make_room():
        os.dup2(spare[-1], opened[-1].fileno())
        os.close(spare.pop())

    monkeypatch.setattr(writer, "open_file", open_and_tell)
    return fill, make_room


def test_a_full_disk_is_told_and_nothing_waits(tmp_path, disk):
    """One that is full for ever, and one that has room again after a while."""
    fill, make_room = disk
    log = EventLog(tmp_path / "events", 4)
    log.write(5, {"loss": 0.5})
    fill()
    (path,) = (tmp_path / "events").iterdir()
    for step in range(6, 36):  # more than a queue would take
        with pytest.raises(UnwrittenError, match=f"{path.name}: cannot be written"):
            log.write(step, {"loss": 0.5, "grad_norm": 1.0})
    make_room()
    log.close()
    events = list(read_events(tmp_path / "events"))
    assert [event.step for event in events[1:4]] == [5, 5, 6]


def test_a_disk_that_stays_full_is_told_at_the_end_too(tmp_path, disk):
    fill, _ = disk
    log = EventLog(tmp_path / "events", 0)
    fill()
    with pytest.raises(UnwrittenError):
        log.write(1, {"loss": 0.5})
    with pytest.raises(UnwrittenError):
        log.close()


def test_what_was_told_is_in_the_file_before_it_is_closed(tmp_path):
    pytest.importorskip("tensorboardX")
    log = EventLog(tmp_path, 0)
    log.write(1, {"loss": 0.5})
    assert [event.step for event in read_events(tmp_path)] == [0, 1, 1]
    log.close()


def test_a_place_that_is_no_folder_is_named(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "events").write_text("a file")
    with pytest.raises(UnwrittenError, match="events"):
        EventLog(tmp_path / "events", 0)


def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"sid_jax\[tensorboard\]"):
        EventLog(tmp_path, 0)
    EventLog(None, 0).write(1, {"loss": 1.0})  # asked for nothing

"""TensorBoard's files, read back record by record: length, CRC, data, CRC."""

import struct
import sys

import pytest

from sid_jax.errors import InputError
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


def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"sid_jax\[tensorboard\]"):
        EventLog(tmp_path, 0)
    EventLog(None, 0).write(1, {"loss": 1.0})  # asked for nothing

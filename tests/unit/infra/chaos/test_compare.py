"""What is left after the kills is compared as it should have travelled."""

from pathlib import Path

import numpy as np
import pytest

from infra.chaos.compare import rows
from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.updates.frames import RowEncoding, as_sent
from online_learning.updates.position import TABLE
from serving.shared.head import HeadWriter
from serving.shared.mirror import Mirror
from serving.shared.shared_table import SharedTableWriter


@pytest.mark.parametrize("encoding", ["f32", "f16"])
def test_rows_are_equal_in_the_encoding_that_they_travel_in(tmp_path: Path, encoding: RowEncoding) -> None:
    table = Table(TableSettings(dim=3))
    keys = np.arange(1, 101, dtype=np.uint64)
    table.find_or_insert(keys, np.zeros(100, np.uint16), 0, 1)
    # Beyond what fp16 can hold.
    table.find_or_insert(np.array([101], np.uint64), np.zeros(1, np.uint16), 0, 1, initial=np.float32([[1e5, -1e5, 1]]))
    checkpoint = Checkpoint(tables={TABLE: table.snapshot()}, dense={}, offsets={})
    sent = table.export(np.append(keys, np.uint64(101)))
    replica = SharedTableWriter(HeadWriter(tmp_path), 3)
    replica.apply(sent.keys, sent.spaces, as_sent(sent.rows, encoding))
    replica.publish()
    check = rows(checkpoint, Mirror(tmp_path), encoding)
    assert check.ok, check.wrong
    replica.apply(sent.keys[:1], sent.spaces[:1], as_sent(sent.rows[:1] + 1, encoding))
    replica.remove(sent.keys[1:3])
    check = rows(checkpoint, Mirror(tmp_path), encoding)
    assert check.wrong == "2 rows missing at the replica, 0 too many, 1 different"

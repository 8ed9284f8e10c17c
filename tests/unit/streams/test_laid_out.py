"""What a task sends: batches for every partition that gets records, and nothing for one that gets none."""

import asyncio
from functools import partial

from streams.columns import columns_of
from streams.outbox import Outbox
from streams.task import _laid_out


def test_what_goes_to_a_partition_is_one_row_of_batches_in_order_and_nothing_is_none() -> None:
    out = Outbox({"examples": 2})
    out.put_first("examples", 0, partial(columns_of, []))
    out.put_first("examples", 1, partial(columns_of, [(b"k", b"first")] * 2))
    out.extend("examples", 1, [(b"k", b"second")])
    out.extend("changes", 0, [(b"k", None)])
    laid_out = asyncio.run(_laid_out(out, "changes"))
    counted = [(topic, partition, [one.record_count() for one in batches]) for topic, partition, batches in laid_out]
    assert counted == [("examples", 1, [2, 1]), ("changes", 0, [1])]

"""TorchRec's managed-collision table (MCH ZCH) on the CPU: the peer of tests/benchmarks/table.py.

Run by that benchmark under an interpreter that has torchrec and fbgemm-gpu-cpu (they fit only some releases of torch,
hence an environment of their own):

    python torchrec_zch.py ROWS DIM BATCH SEED   ->   one line of JSON
"""

import json
import logging
import sys
import time

import torch


def main(rows: int, dim: int, batch: int, seed: int) -> None:
    """Insert `rows` keys in batches, then remap known keys and look their rows up."""
    import torchrec
    from torchrec.modules.mc_modules import LRU_EvictionPolicy, MCHManagedCollisionModule
    from torchrec.sparse.jagged_tensor import JaggedTensor

    logging.disable(logging.WARNING)
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    # One row in ZCH is kept for misses: a little room, or the last keys evict the first.
    table = MCHManagedCollisionModule(
        zch_size=rows + rows // 64,
        device=torch.device("cpu"),
        eviction_policy=LRU_EvictionPolicy(),
        eviction_interval=1,
    )
    keys = torch.randperm(rows) * 1_000_003 + 7

    def feature(values: torch.Tensor) -> dict[str, JaggedTensor]:
        return {"key": JaggedTensor(values=values, lengths=torch.ones(len(values), dtype=torch.int64))}

    table.train()
    start = time.perf_counter()
    with torch.no_grad():
        for part in keys.split(batch):
            table.profile(feature(part))
    insert_s = time.perf_counter() - start

    table.eval()
    weight = torch.randn(rows + rows // 64, dim)
    queries = [keys[torch.randint(0, rows, (batch,))] for _ in range(5)]
    remap_s, both_s = [], []
    with torch.no_grad():
        for query in queries:
            start = time.perf_counter()
            slots = table.remap(feature(query))["key"].values()
            middle = time.perf_counter()
            torch.index_select(weight, 0, slots)
            remap_s.append(middle - start)
            both_s.append(time.perf_counter() - start)
        distinct = len(table.remap(feature(keys))["key"].values().unique())
    print(
        json.dumps(
            {
                "torchrec": torchrec.__version__,
                "torch": torch.__version__,
                "insert_per_s": rows / insert_s,
                "remap_per_s": batch / sorted(remap_s)[len(remap_s) // 2],
                "remap_lookup_per_s": batch / sorted(both_s)[len(both_s) // 2],
                "rows_of_their_own": distinct,
            }
        )
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]))

"""What the next-click learner is asked to be."""

import msgspec

from online_learning.table.settings import InitializerSettings, OptimizerKind, OptimizerSettings, TableSettings


class NextClickSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults were tried on 2017-10-09 of the Globo log, and little tuned.

    `candidates`: articles that are ranked by the network; `next_kept`, `pairs_kept`, `top_kept`: bounds of the lists
    they come from. `learn_every`: of the clicks that follow another, each how manieth the network learns from (counts
    take all). `batch`: clicks a step. `negatives`: candidates that a click is compared with, drawn evenly (0: all).
    `history`: clicks remembered of each reader. `initial_scale`: of new embeddings.
    """

    candidates: int = 160
    next_kept: int = 64
    pairs_kept: int = 32
    top_kept: int = 64
    dim: int = 24
    hidden: tuple[int, ...] = (64, 32)
    learning_rate: float = 1e-3
    table_learning_rate: float = 0.05
    batch: int = 32
    negatives: int = 48
    learn_every: int = 1
    history: int = 12
    initial_scale: float = 0.1

    def table(self) -> TableSettings:
        """The embeddings' table: column 0 is the article's own weight."""
        return TableSettings(
            name="next_click",
            dim=1 + self.dim,
            optimizer=OptimizerSettings(
                kind=OptimizerKind.ADAGRAD, learning_rate=self.table_learning_rate, initial_accumulator=0.1
            ),
            initializer=InitializerSettings(scale=self.initial_scale, zero_columns=1),
            threads=1,
        )

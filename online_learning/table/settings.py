"""What a table is asked to be; one frozen struct per choice, validated when it is built."""

import enum
import math

import msgspec

MAX_ROWS = 0xFFFE_0000
"""Slots have 32-bit numbers, of which an insertion needs the last for itself."""


class OptimizerKind(enum.StrEnum):
    """How a row moves against its gradient; all touch only the rows of the batch."""

    SGD = "sgd"
    """w -= lr * g. No state."""
    ADAGRAD = "adagrad"
    """Duchi et al. 2011, as torch.optim.Adagrad: one accumulator per weight."""
    ROWWISE_ADAGRAD = "rowwise_adagrad"
    """One accumulator per row, fed with the mean of g squared: a float a row instead of `dim`."""
    LAZY_ADAM = "lazy_adam"
    """Adam whose moments move only for touched rows, bias-corrected by the table's steps, as torch's SparseAdam."""


class InitializerKind(enum.StrEnum):
    """Where a new row starts; drawn from (seed, key), so that a replay makes the same row."""

    ZEROS = "zeros"
    UNIFORM = "uniform"
    """Uniform in [-scale, scale)."""
    NORMAL = "normal"
    """Normal with standard deviation `scale`."""


class AdmissionPolicy(enum.StrEnum):
    """Which unseen keys get a row."""

    ALWAYS = "always"
    COUNT = "count"
    """At the `threshold`-th sighting, as a count-min sketch counts them: few early, some late (see admission.py)."""
    PROBABILITY = "probability"
    """Each sighting is admitted with `probability`: 1 / probability sightings on average."""


class EvictionPolicy(enum.StrEnum):
    """Which rows go first when rows have to go."""

    NONE = "none"
    TTL = "ttl"
    """Rows not seen for their space's time to live; when full, the longest unseen."""
    LRU = "lru"
    """The longest unseen."""
    LFU = "lfu"
    """The least often seen; among equals the longest unseen."""


class FullPolicy(enum.StrEnum):
    """What an unseen key meets when `max_rows` rows are there. Never a silent zero row."""

    GROW = "grow"
    """Take more memory; `max_rows` is only the size planned for. Raises `TableFull` above it when rows, headers and
    index take three quarters of the memory that the machine has, or that the process's control group allows."""
    EVICT = "evict"
    """Make room by the eviction policy."""
    REFUSE = "refuse"
    """Answer -1 and count the refusal."""


def _check(holds: bool, name: str, value: object, must: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` == {value!r}, must be {must}")


class OptimizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are torch's, but for Adagrad's learning rate, which torch also sets to 0.01."""

    kind: OptimizerKind = OptimizerKind.ADAGRAD
    learning_rate: float = 0.05
    epsilon: float = 1e-10
    beta1: float = 0.9
    beta2: float = 0.999
    initial_accumulator: float = 0.0

    def __post_init__(self) -> None:
        _check(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "in (0, inf)")
        # At 0 the first gradient of 0 would divide by it.
        _check(0 < self.epsilon < 1, "epsilon", self.epsilon, "in (0, 1)")
        _check(0 <= self.beta1 < 1, "beta1", self.beta1, "in [0, 1)")
        _check(0 <= self.beta2 < 1, "beta2", self.beta2, "in [0, 1)")
        _check(0 <= self.initial_accumulator < math.inf, "initial_accumulator", self.initial_accumulator, ">= 0")


class InitializerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`zero_columns`: leading columns that start at zero (a linear weight in front of the factors)."""

    kind: InitializerKind = InitializerKind.UNIFORM
    scale: float = 0.01
    zero_columns: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.scale < math.inf, "scale", self.scale, "in [0, inf)")
        _check(self.zero_columns >= 0, "zero_columns", self.zero_columns, ">= 0")


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`counters`: width w of the count-min sketch (a power of two; 4 rows of u16). Its errors are in admission.py."""

    policy: AdmissionPolicy = AdmissionPolicy.ALWAYS
    threshold: int = 2
    probability: float = 1.0
    counters: int = 1 << 18

    def __post_init__(self) -> None:
        _check(1 <= self.threshold <= 0xFFFF, "threshold", self.threshold, "in [1, 65535]")
        _check(0 < self.probability <= 1, "probability", self.probability, "in (0, 1]")
        power_of_two = self.counters > 0 and self.counters & (self.counters - 1) == 0
        _check(power_of_two and self.counters <= 1 << 30, "counters", self.counters, "a power of two up to 2^30")


class EvictionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`ttl_s`: seconds unseen after which a row goes (0: never); `ttl_s_of_space` overrides it per key space.

    `fraction`: share of `max_rows` that is freed at once when a full table makes room, so that the scan that
    finds the victims is paid once for many insertions (8,192 rows at most, so that no insertion waits long).
    """

    policy: EvictionPolicy = EvictionPolicy.NONE
    ttl_s: float = 0.0
    ttl_s_of_space: dict[int, float] = {}
    fraction: float = 0.05

    def __post_init__(self) -> None:
        _check(0 <= self.ttl_s < math.inf, "ttl_s", self.ttl_s, "in [0, inf); 0: never")
        _check(0 < self.fraction <= 1, "fraction", self.fraction, "in (0, 1]")
        for space, ttl_s in self.ttl_s_of_space.items():
            sound = 0 <= space <= 0xFFFF and 0 <= ttl_s < math.inf
            _check(sound, f"ttl_s_of_space.{space}", ttl_s, "in [0, inf), of a space in u16; 0: never")
        if self.policy is EvictionPolicy.TTL:
            some = self.ttl_s > 0 or any(ttl_s > 0 for ttl_s in self.ttl_s_of_space.values())
            _check(some, "ttl_s", self.ttl_s, "> 0 (or set per space) under the policy ttl")


class TableSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One table: `dim` f32 columns a row, `max_rows` rows planned for (0: as many as memory holds)."""

    name: str = "sparse"
    dim: int = 16
    max_rows: int = 0
    full: FullPolicy = FullPolicy.GROW
    optimizer: OptimizerSettings = OptimizerSettings()
    initializer: InitializerSettings = InitializerSettings()
    admission: AdmissionSettings = AdmissionSettings()
    eviction: EvictionSettings = EvictionSettings()
    threads: int = 2

    def __post_init__(self) -> None:
        _check(bool(self.name), "name", self.name, "not empty")
        _check(1 <= self.dim <= 4096, "dim", self.dim, "in [1, 4096]")
        _check(0 <= self.max_rows <= MAX_ROWS, "max_rows", self.max_rows, f"in [0, {MAX_ROWS}]")
        _check(1 <= self.threads <= 256, "threads", self.threads, "in [1, 256]")
        _check(
            self.initializer.zero_columns <= self.dim,
            "initializer.zero_columns",
            self.initializer.zero_columns,
            f"<= dim ({self.dim})",
        )
        if self.full is not FullPolicy.GROW:
            _check(self.max_rows > 0, "max_rows", self.max_rows, f"> 0 under the full policy {self.full.value}")
        if self.full is FullPolicy.EVICT:
            _check(
                self.eviction.policy is not EvictionPolicy.NONE,
                "eviction.policy",
                self.eviction.policy.value,
                "ttl, lru or lfu under the full policy evict",
            )

"""What the online_learning package can be told."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import NODEFAULT, Meta, Struct, structs

from online_learning.table.settings import (
    AdmissionPolicy,
    AdmissionSettings,
    EvictionPolicy,
    EvictionSettings,
    FullPolicy,
    OptimizerKind,
    TableSettings,
)
from streams.settings import Count, JoinSettings, KafkaSettings, Positive, TaskSettings

ModelName = Literal["deepfm", "logistic_regression", "dcn_v2"]
RetrievalName = Literal["ranking", "two_tower"]

# What a field of each side can be made of, and whether that needs an `attribute`.
_SOURCES: Mapping[str, Mapping[str, bool | None]] = {
    "user": {"id": False, "attribute": True, "recent": None},
    "item": {"id": False, "attribute": True, "scene": False},
    "context": {"context": True, "scene": False},
}

_Width = Annotated[int, Meta(ge=1, le=4096)]
# Layers of a network by their widths. All dense parameters together must also fit one record: `infra.provision` sees.
_Layers = Annotated[tuple[_Width, ...], Meta(max_length=8)]

# Of DCN-V2, where the settings do not say: two make products of three features, a user's, an item's and a context's.
_CROSS_LAYERS = 2


def _default(of: type[Struct], name: str) -> Any:
    """What a field has where it is left out."""
    field = next(one for one in structs.fields(of) if one.name == name)
    return field.default if field.default is not NODEFAULT else field.default_factory()


class FieldSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A categorical field of the model and where its value comes from.

    `source`: of a user `id`, `attribute` or `recent` (the recent items; with an `attribute`, what those items have
    there); of an item `id`, `attribute` or `scene`; of a context `context` (of the request) or `scene` (of the
    request). `attribute` names what is read of attributes or context. A list is pooled by its mean.
    """

    name: Annotated[str, Meta(min_length=1)]
    side: Literal["user", "item", "context"]
    source: Literal["id", "attribute", "context", "recent", "scene"]
    attribute: str = ""

    def __post_init__(self) -> None:
        sources = _SOURCES[self.side]
        if self.source not in sources:
            raise ValueError(
                f"`source` == {self.source!r}, must be one of {', '.join(sources)}: `{self.name}` is of `{self.side}`"
            )
        named = sources[self.source]
        if named and not self.attribute:
            raise ValueError(f"`attribute` of `{self.name}` is missing, must name what `{self.source}` reads")
        if named is False and self.attribute:
            raise ValueError(f"`attribute` == {self.attribute!r}, must be left out: `{self.source}` has none")

    @property
    def origin(self) -> str:
        """What its values are, in words: the same field with another origin is another field to a model."""
        return f"{self.name} ({' '.join(filter(None, (self.side, self.source, self.attribute)))})"

    def says_of_recent(self, recent: "FieldSettings") -> bool:
        """Whether this field says of an item what `recent` says of a user's recent items: they share keys and rows."""
        if self.side != "item" or recent.source != "recent":
            return False
        return (self.source, self.attribute) == (("attribute", recent.attribute) if recent.attribute else ("id", ""))


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ranking model over named fields.

    `initial_scale`: the factors of a new row are drawn from [-initial_scale, initial_scale). `hidden`: widths of the
    network of `deepfm` and `dcn_v2`. `logistic_regression` has no network and no factors: it leaves `hidden` and
    `initial_scale` unread, and `dim` only sizes the rows. `cross_layers`: of `dcn_v2`, 2 where it is left out; refused
    beside another model.
    """

    name: ModelName = "deepfm"
    dim: Annotated[int, Meta(ge=1, le=1024)] = 16
    hidden: _Layers = (64, 32)
    initial_scale: Positive = 0.05
    dense_learning_rate: Positive = 0.002
    cross_layers: Annotated[int, Meta(ge=1, le=8)] | None = None
    fields: Annotated[tuple[FieldSettings, ...], Meta(min_length=1)] = (
        FieldSettings(name="user", side="user", source="id"),
        FieldSettings(name="item", side="item", source="id"),
        FieldSettings(name="category", side="item", source="attribute", attribute="category"),
        FieldSettings(name="genres", side="item", source="attribute", attribute="genres"),
        FieldSettings(name="segment", side="user", source="attribute", attribute="segment"),
        FieldSettings(name="occupation", side="user", source="attribute", attribute="occupation"),
        FieldSettings(name="gender", side="user", source="attribute", attribute="gender"),
        FieldSettings(name="age", side="user", source="attribute", attribute="age"),
        FieldSettings(name="recent", side="user", source="recent"),
        FieldSettings(name="recent_category", side="user", source="recent", attribute="category"),
        FieldSettings(name="recent_genres", side="user", source="recent", attribute="genres"),
        FieldSettings(name="scene", side="context", source="scene"),
    )

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise ValueError(f"`fields` has two of the name {twice!r}, must have one of each")
        if self.cross_layers is not None and self.name != "dcn_v2":
            raise ValueError(
                f"`cross_layers` == {self.cross_layers}, must be left out: the model `{self.name}` has no cross layers"
            )

    @property
    def number_of_cross_layers(self) -> int:
        """How many cross layers the model has; 0 where it is not `dcn_v2`."""
        if self.name != "dcn_v2":
            return 0
        return _CROSS_LAYERS if self.cross_layers is None else self.cross_layers


class RetrievalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a request's nearest items come from.

    `ranking`: the ranking model's own linear weights and products of a user's and an item's factors. `two_tower`: rows
    of their own in the same table, `model.dim` wide, learned from positives alone against the other items of the batch
    and `negatives` items drawn from the stream.

    All that follows is of `two_tower` only, and refused beside another one where it is set. `hidden`: layers on top of
    each tower's sum of factors; with some, all items' vectors are made anew whenever the layers have moved.
    `normalize`: vectors of length one, compared by their angle; `temperature` divides the dot product.
    """

    name: RetrievalName = "ranking"
    hidden: _Layers = ()
    normalize: bool = False
    temperature: Positive = 1.0
    negatives: Count = 64
    learning_rate: Positive = 0.1
    dense_learning_rate: Positive = 0.002

    def __post_init__(self) -> None:
        if self.name == "two_tower":
            return
        for field in self.__struct_fields__[1:]:
            value = getattr(self, field)
            if value != _default(RetrievalSettings, field):
                raise ValueError(f"`{field}` == {value!r}, must be left out: `{self.name}` retrieval has none")


class NegativesSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items that positives are told from, drawn from the items of the last `window` positives.

    `per_positive`: how many an organic positive gets in the ranking model, for tasks whose negatives are the items
    shown (it was not shown among others, so it has none of its own); 0: it is learned alone.
    """

    per_positive: Annotated[int, Meta(ge=0)] = 4
    window: Count = 16_384


class TrainerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training loop, its checkpoints and what it publishes.

    `arm`: whose traffic it learns from besides organic actions ("" learns from all). `publish_interval_ms`: the longest
    time that a learned change waits for its frame. `remembered_examples`: examples whose predictions at first sight and
    learned labels are kept in memory, for labels and revisions that come later. `fake_negatives`: whether an item is
    learned as a negative as soon as it is shown, which a click makes good, or when its window ends. `examples_kept_s`:
    examples younger than this stay on their topic even where no checkpoint needs them, because others read them too.
    """

    arm: str = "online"
    max_batch: Count = 64
    poll_interval_ms: Positive = 20.0
    publish_interval_ms: Positive = 50.0
    dense_interval_ms: Positive = 1000.0
    checkpoint_interval_s: Positive = 10.0
    checkpoints_kept: Count = 3
    checkpoint_dir: str = ""
    validation_window: Count = 500
    remembered_examples: Count = 100_000
    fake_negatives: bool = True
    examples_kept_s: Positive = 3600.0
    row_encoding: Literal["f32", "f16"] = "f32"
    seed: int = 0


class RowSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys have a row in the sparse table, and for how long.

    `full`: what an unseen key meets at `max_rows` rows; under `grow` there may be more, which `lru` and `lfu` let go
    again. `admission`: which unseen keys get a row; `admission_threshold` and `admission_counters` are of `count`,
    `admission_probability` of `probability`. `count` forgets: with threshold t, a key has to come t times among some
    (t - 1) / 2 sightings of unseen keys per counter. `eviction`: which rows go, every `evict_interval_s` (`ttl`, and
    `lru` and `lfu` under `grow`) and when a full table makes room; under `ttl` those of a field whose key was not seen
    for `ttl_s` (0: never), or for what `ttl_s_of_field` says of that field and its tower. Time is that of the events:
    while none come, nothing expires. What is of a policy that is not chosen is refused where it is set.
    """

    max_rows: Annotated[int, Meta(ge=0)] = 0
    full: FullPolicy = FullPolicy.GROW
    admission: AdmissionPolicy = AdmissionPolicy.ALWAYS
    admission_threshold: Count = 2
    admission_counters: Count = 1 << 18
    admission_probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    eviction: EvictionPolicy = EvictionPolicy.NONE
    ttl_s: Annotated[float, Meta(ge=0)] = 0.0
    ttl_s_of_field: dict[str, float] = {}
    evict_interval_s: Positive = 10.0

    def __post_init__(self) -> None:
        for field, needed, chosen in (
            ("admission_threshold", AdmissionPolicy.COUNT, self.admission),
            ("admission_counters", AdmissionPolicy.COUNT, self.admission),
            ("admission_probability", AdmissionPolicy.PROBABILITY, self.admission),
            ("ttl_s", EvictionPolicy.TTL, self.eviction),
            ("ttl_s_of_field", EvictionPolicy.TTL, self.eviction),
        ):
            value = getattr(self, field)
            if chosen is not needed and value != _default(RowSettings, field):
                raise ValueError(f"`{field}` == {value!r}, must be left out: it is of `{needed.value}` only")
        self._check_room()
        # What does not fit together is refused here, with the settings, and not by the trainer.
        self.in_table(TableSettings(), {name: (space,) for space, name in enumerate(self.ttl_s_of_field)})

    def _check_room(self) -> None:
        grows, ranks = self.full is FullPolicy.GROW, self.eviction in (EvictionPolicy.LRU, EvictionPolicy.LFU)
        name = self.eviction.value
        if ranks and self.full is FullPolicy.REFUSE:
            raise ValueError(
                f"`eviction` == {name!r}, must be `ttl` or `none`: a table that refuses has no row too many"
            )
        if ranks and grows and not self.max_rows:
            raise ValueError(f"`max_rows` == 0, must be > 0: above it `{name}` lets rows go")
        if grows and not ranks and self.max_rows:
            raise ValueError(
                f"`max_rows` == {self.max_rows}, must be left out: under `grow` it is of `lru` and `lfu` only"
            )
        periodic = self.eviction is EvictionPolicy.TTL or (ranks and grows)
        if not periodic and self.evict_interval_s != _default(RowSettings, "evict_interval_s"):
            raise ValueError(
                f"`evict_interval_s` == {self.evict_interval_s}, must be left out: it is of `ttl`, and under "
                "`grow` of `lru` and `lfu`"
            )

    def in_table(self, table: TableSettings, spaces_of: Mapping[str, Sequence[int]]) -> TableSettings:
        """The table's settings with these policies; `spaces_of` maps fields to their key spaces. Raises ValueError."""
        unknown = sorted(set(self.ttl_s_of_field) - set(spaces_of))
        if unknown:
            raise ValueError(f"`ttl_s_of_field` names {unknown[0]!r}, must be a field of the model")
        eviction = EvictionSettings(
            policy=self.eviction,
            ttl_s=self.ttl_s,
            ttl_s_of_space={space: ttl_s for name, ttl_s in self.ttl_s_of_field.items() for space in spaces_of[name]},
        )
        admission = AdmissionSettings(
            policy=self.admission,
            threshold=self.admission_threshold,
            probability=self.admission_probability,
            counters=self.admission_counters,
        )
        return structs.replace(table, max_rows=self.max_rows, full=self.full, admission=admission, eviction=eviction)


class LearningSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the model, its tables and the trainer. `kafka`, `tasks` and `join` are those of `streams`.

    `sparse_optimizer`: how rows move. `sparse_initial_accumulator`: where Adagrad's sums of squares start; refused
    beside another optimizer where it is set. Above 0, a row's first steps grow with their gradients; at 0 the first
    step of every weight is the whole learning rate, however little was to be learned.
    """

    kafka: KafkaSettings = KafkaSettings()
    tasks: tuple[TaskSettings, ...] = ()
    join: JoinSettings = JoinSettings()
    model: ModelSettings = ModelSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    negatives: NegativesSettings = NegativesSettings()
    rows: RowSettings = RowSettings()
    trainer: TrainerSettings = TrainerSettings()
    sparse_optimizer: OptimizerKind = OptimizerKind.ADAGRAD
    sparse_learning_rate: Annotated[float, Meta(gt=0)] = 0.05
    sparse_initial_accumulator: Annotated[float, Meta(ge=0)] = 0.1

    def __post_init__(self) -> None:
        adagrad = self.sparse_optimizer in (OptimizerKind.ADAGRAD, OptimizerKind.ROWWISE_ADAGRAD)
        if not adagrad and self.sparse_initial_accumulator != _default(LearningSettings, "sparse_initial_accumulator"):
            raise ValueError(
                f"`sparse_initial_accumulator` == {self.sparse_initial_accumulator}, must be left out: "
                f"`{self.sparse_optimizer.value}` has none"
            )
        fields = self.model.fields
        known = [one.name for one in fields if not any(other.says_of_recent(one) for other in fields)]
        for name in self.rows.ttl_s_of_field:
            if name not in known:
                raise ValueError(f"`rows.ttl_s_of_field` names {name!r}, must be one of: {', '.join(known)}")

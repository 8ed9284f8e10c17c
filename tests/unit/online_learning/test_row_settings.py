"""Which rows the table holds is said in the settings, by the names of fields, and refused there where it cannot be."""

import msgspec
import pytest

from online_learning.learner import table_settings
from online_learning.models.fields import FieldEncoder
from online_learning.models.scorers.two_tower import tower_space
from online_learning.settings import LearningSettings, RowSettings
from online_learning.table.settings import AdmissionPolicy, EvictionPolicy, FullPolicy

DAY_S = 86_400.0


def told(**rows: object) -> LearningSettings:
    return LearningSettings(rows=msgspec.convert(rows, RowSettings))


def test_what_the_settings_say_is_what_the_table_does() -> None:
    settings = told(
        max_rows=1_000,
        full="evict",
        admission="count",
        admission_threshold=3,
        admission_counters=1 << 12,
        eviction="ttl",
        ttl_s=30 * DAY_S,
        ttl_s_of_field={"user": DAY_S},
    )
    table = table_settings(settings)
    assert (table.max_rows, table.full) == (1_000, FullPolicy.EVICT)
    admission = table.admission
    assert (admission.policy, admission.threshold, admission.counters) == (AdmissionPolicy.COUNT, 3, 1 << 12)
    (space,) = [space for space, name in FieldEncoder(settings.model).space_names().items() if name == "user"]
    assert table.eviction.policy is EvictionPolicy.TTL
    assert table.eviction.ttl_s == 30 * DAY_S
    assert table.eviction.ttl_s_of_space == {space: DAY_S, tower_space(space): DAY_S}


def test_without_a_word_rows_stay_for_ever() -> None:
    table = table_settings(LearningSettings())
    assert (table.full, table.admission.policy, table.eviction.policy) == (
        FullPolicy.GROW,
        AdmissionPolicy.ALWAYS,
        EvictionPolicy.NONE,
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"eviction": "ttl"}, "`ttl_s` == 0.0, must be > 0"),
        ({"full": "refuse"}, "`max_rows` == 0, must be > 0"),
        ({"full": "evict", "max_rows": 5}, "`eviction.policy` == 'none', must be"),
        ({"full": "refuse", "max_rows": 5, "eviction": "lru"}, "`eviction` == 'lru', must be `ttl` or `none`"),
        ({"eviction": "lfu"}, "`max_rows` == 0, must be > 0: above it `lfu`"),
        ({"max_rows": 5}, "`max_rows` == 5, must be left out: under `grow` it is of `lru` and `lfu` only"),
        ({"max_rows": 5, "eviction": "ttl", "ttl_s": 1.0}, "`max_rows` == 5, must be left out"),
        ({"evict_interval_s": 3.0}, "`evict_interval_s` == 3.0, must be left out: it is of `ttl`"),
        (
            {"evict_interval_s": 3.0, "full": "evict", "max_rows": 5, "eviction": "lru"},
            "`evict_interval_s` == 3.0, must be left out",
        ),
        ({"eviction": "ttl", "ttl_s": float("inf")}, r"`ttl_s` == inf, must be in \[0, inf\)"),
        ({"eviction": "ttl", "ttl_s_of_field": {"user": float("inf")}}, r"== inf, must be in \[0, inf\)"),
        ({"admission": "count", "admission_counters": 1000}, "`counters` == 1000, must be a power of two"),
        ({"admission_counters": 1024}, "`admission_counters` == 1024, must be left out"),
        ({"admission": "sometimes"}, "Invalid enum value 'sometimes'"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_settings(rows: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=message):
        told(**rows)


def test_a_field_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"`rows\.ttl_s_of_field` names 'mood', must be one of: user, item"):
        told(eviction="ttl", ttl_s_of_field={"mood": 1.0})


@pytest.mark.parametrize(
    "rows",
    [
        {"max_rows": 5, "eviction": "lfu", "evict_interval_s": 3.0},
        {"eviction": "ttl", "ttl_s": 1.0, "evict_interval_s": 3.0},
        {"full": "evict", "max_rows": 5, "eviction": "ttl", "ttl_s": 1.0, "evict_interval_s": 3.0},
        {"full": "refuse", "max_rows": 5, "eviction": "ttl", "ttl_s": 1.0},
    ],
)
def test_what_does_fit_together_is_taken(rows: dict[str, object]) -> None:
    assert table_settings(told(**rows)).max_rows == rows.get("max_rows", 0)

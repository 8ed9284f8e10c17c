"""What `freshet ab` understands and how it words what it found."""

import io
import math

import pytest
from rich.console import Console

from infra.ab import ab_table, click_kinds, since_ms
from infra.settings import Settings, SettingsError
from serving.evaluation.report import CLICKS, AbReport, ArmReport, Comparison
from serving.experiments.statistics import ArmSums, difference
from streams.settings import LabelRule, StreamsSettings, Target, TaskSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 910_000),
        ("15m", 100_000),
        ("250ms", 999_750),
        ("1 s", 999_000),
        ("5", 5),
        ("1700000000000", 17 * 10**11),
    ],
)
def test_since_is_an_age_or_a_time(text: str, expected: int) -> None:
    assert since_ms(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "1.5h", "5 weeks"])
def test_since_says_what_it_takes(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--since: .* must be an age as 90s"):
        since_ms(text, 0)


def test_clicks_are_what_the_label_rules_call_positive() -> None:
    assert click_kinds(Settings()) == CLICKS
    rules = (LabelRule(task="click", kind="open"), LabelRule(task="rating", kind="rating", at_least=4))
    settings = Settings(streams=StreamsSettings(labels=rules))
    assert click_kinds(settings) == ("open",)
    with pytest.raises(SettingsError, match="of 'rating' whatever its value; such tasks: click"):
        click_kinds(settings, "rating")
    bought = Settings(
        streams=StreamsSettings(
            tasks=(TaskSettings(name="buy"), TaskSettings(name="stay", target=Target.VALUE)),
            labels=(LabelRule(task="buy", kind="purchase"), LabelRule(task="stay", kind="dwell")),
        )
    )
    assert click_kinds(bought, "buy") == ("purchase",)
    with pytest.raises(SettingsError, match="of 'click' whatever its value; such tasks: buy"):
        click_kinds(bought)


def report(control: ArmSums, treatment: ArmSums, *, ok: bool = True, mixed: int = 0) -> AbReport:
    def arm(name: str, sums: ArmSums) -> ArmReport:
        ctr = sums.y / sums.x if sums.x else math.nan
        return ArmReport(
            arm=name,
            policy=name,
            share=0.5,
            units=sums.units,
            impressions=int(sums.x),
            clicks=int(sums.y),
            ctr=ctr,
            low=ctr,
            high=ctr,
        )

    return AbReport(
        experiment="e",
        version=1,
        control="old",
        unit_type="user",
        click_kinds=CLICKS,
        confidence=0.95,
        since_ms=None,
        until_ms=None,
        first_ms=None,
        last_ms=None,
        arms=(arm("new", treatment), arm("old", control)),
        comparisons=(Comparison(arm="new", control="old", difference=difference(treatment, control)),),
        sample_ratio_p=0.5 if ok else 0.0001,
        sample_ratio_ok=ok,
        mixed_units=mixed,
    )


def shown(found: AbReport) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(ab_table(found))
    return out.getvalue()


def test_the_table_shows_the_difference_beside_the_arm() -> None:
    control = ArmSums(units=100, y=100, x=1000, yy=150, xx=10_400, xy=1_050)
    treatment = ArmSums(units=100, y=150, x=1000, yy=300, xx=10_400, xy=1_600)
    text = shown(report(control, treatment))
    (new,) = [line for line in text.splitlines() if line.startswith("│ new")]
    assert "15.000%" in new and "+5.000 [" in new and "+50.0%" in new
    assert "control" in next(line for line in text.splitlines() if line.startswith("│ old"))
    assert "sample ratio p = 0.5" in text


def test_the_table_warns_of_a_broken_split_and_says_when_there_is_nothing() -> None:
    text = shown(report(ArmSums(), ArmSums(), ok=False, mixed=3))
    assert "the split is broken, do not read the rest" in text
    assert "3 units were seen in more than one arm" in text
    assert "nan" not in text

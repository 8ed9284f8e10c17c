"""The settings file that ships says the truth."""

from pathlib import Path

from infra import settings

ROOT = Path(__file__).resolve().parents[3]


def test_the_shipped_file_holds_the_defaults() -> None:
    assert settings.load(ROOT / "freshet.toml") == settings.parse("", "freshet.toml", ROOT)

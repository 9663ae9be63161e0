"""The page "How fast it is" shows what was recorded, and nothing else."""

import json
from pathlib import Path

import pytest
from helpers.paths import ROOT

from facing import fill
from labml_bcn.experiment.bench import layers
from website import results_page, speed_page

RECORDS = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


def test_every_record_is_shown_and_every_name_recorded():
    text = (ROOT / "docs" / "speed.md").read_text("utf-8")
    shown = fill(text, speed_page.kinds(ROOT / "docs" / "benchmarks"))
    assert "<!-- " not in shown
    for path in RECORDS:
        assert f": {path.stem} -->" in text


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_record_holds_no_path_of_the_machine(path):
    command = json.loads(path.read_text("utf-8"))["surroundings"]["command"]
    words = [word for word in command.split() if "/" in word]
    assert not any(Path(word).is_absolute() for word in words)


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_the_page_tells_the_benchmarks_command_to_repeat_a_record(path):
    record = json.loads(path.read_text("utf-8"))
    shown = speed_page.recorded_with(record)
    assert "python -m labml_bcn.experiment.bench.layers --" in shown


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_as_said_the_fused_layer_takes_less_than_the_composed(path):
    """In all inputs together, and in each one of 2 MB and more."""
    record = json.loads(path.read_text("utf-8"))
    races = [each for each in record["results"] if "rivals" in each]
    for each in races:
        fused, composed = (each["rivals"][name] for name in ("fused", "composed"))
        if each["bytes"] > 2e6:
            assert fused["ms"] < composed["ms"], each["input"]
        # A compiler keeps one copy for the composed layer, too.
        if not record["settings"]["compile"]:
            for key in ("saved", "peak"):
                assert fused[key] <= composed[key], each["input"]
    if races:
        assert float(speed_page.mean_ratio(record, "fused", "composed")) < 1


def test_a_record_says_how_memory_was_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    file = tmp_path / "record.json"
    options = ["--inputs", "2,8,4,4", "--groups", "4", "--seconds", "0"]
    layers.main([*options, "--json", str(file)])
    record = json.loads(file.read_text("utf-8"))
    assert record["environment"]["MALLOC_TRIM_THRESHOLD_"] == "1000"
    assert "SOMETHING_ELSE" not in record["environment"]
    command = record["surroundings"]["command"]
    again = speed_page.recorded_with(record)
    assert f"MALLOC_TRIM_THRESHOLD_=1000 {command}" in again


def test_the_table_shows_the_records_ratios():
    line = layers.Line(2.0, 0.5, 1.0, 2.0)._asdict()
    record = {
        "results": [
            {
                "input": [2, 64, 32, 32],
                "bytes": 524288,
                "rivals": {
                    "pair": {**line, "ratio": 1.0, "ms": 4.0},
                    "fused": line,
                },
            }
        ]
    }
    table = speed_page.times(record)
    assert "| 2, 64, 32, 32 | 0.5 | 4.00 | 0.50 |" in table
    assert "**0.50**" in table
    assert speed_page.mean_ratio(record, "pair", "fused") == "2.00"
    assert speed_page.worst_ratio(record, "fused") == "0.50"


def test_no_kind_of_placeholder_means_two_things():
    assert results_page.KINDS.keys().isdisjoint(speed_page.KINDS)

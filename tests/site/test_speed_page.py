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
    assert "python -m labml_bcn.experiment.bench." in shown
    assert record["kernels"]["cpu"] in shown


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_as_said_the_kernels_take_less_than_the_operations(path):
    """In time they do in all inputs together, in memory in each, but for the tables."""
    record = json.loads(path.read_text("utf-8"))
    races = [each for each in record["results"] if "rivals" in each]
    for each in races:
        kernels, others = (each["rivals"][n] for n in ("kernels", "operations"))
        for key in ("saved", "peak"):
            assert kernels[key] <= others[key] + 0.05, each["input"]
    if races:
        ratio = float(speed_page.mean_ratio(record, "kernels", "operations"))
        # A layer that is compiled alone has the compiler's own loops to beat.
        assert (ratio < 1) == (path.stem != "cpu-compiled")


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
    assert f"MALLOC_TRIM_THRESHOLD_=1000 \\\n    {command}" in again


def race_on(*shape, **ratios):
    """The record of one input: a pair of 4 ms, and others."""
    ratios = {"pair": 1.0, **ratios}
    return {
        "input": list(shape),
        "bytes": 524288,
        "rivals": {
            name: layers.Line(4 * ratio, ratio, 1.0, 2.0)._asdict()
            for name, ratio in ratios.items()
        },
        "floor": layers.Floor(0.4, 5, 10.0)._asdict(),
    }


def test_the_table_shows_the_records_ratios():
    small, large = (1, 512, 7, 7), (2, 64, 32, 32)
    record = {"results": [race_on(*large, kernels=0.5), race_on(*small, kernels=0.8)]}
    table = speed_page.times(record)
    assert "| 2, 64, 32, 32 | 0.52 | 4 | 0.50 | 0.10 |" in table
    assert table.index("1, 512, 7, 7") < table.index("2, 64, 32, 32")
    assert "| **mean, small inputs** |  |  | **0.80** | **0.10** |" in table
    assert speed_page.mean_ratio(record, "kernels") == "0.50"
    assert speed_page.small_mean_ratio(record, "pair", "kernels") == "1.25"
    assert speed_page.mean_ratio(record, "kernels", "floor") == "5.00"
    assert speed_page.worst_ratio(record, "kernels") == "0.80"


def test_training_is_told_by_network_and_batch_size():
    networks = {
        name: {"ms": ms, "images_per_second": 2e3 / ms, "ratio": ms / 4}
        for name, ms in {"kernels": 4.0, "naive": 7.0, "bare": 2.0}.items()
    }
    result = {"model": "small", "batch_size": 2, "pixels": 32, "networks": networks}
    record = {"results": [result]}
    table = speed_page.training(record)
    assert "| small VGG, 32×32 | 2 | 500 | 2 | 2.00 | 3.50 |" in table
    told = speed_page.training_ratio(record, "small", "2", "naive", "kernels")
    assert told == "1.75"
    with pytest.raises(LookupError, match="no small with 3"):
        speed_page.training_ratio(record, "small", "3", "naive", "kernels")


def test_it_is_counted_where_standardizing_is_cheap():
    shares = [{"adds": {"kernels": share}} for share in (0.1, 0.3, 0.5)]
    assert speed_page.share_count({"results": shares}, "kernels", "30") == "2 of 3"
    assert speed_page.worst_share({"results": shares}, "kernels") == "0.50"


def test_no_kind_of_placeholder_means_two_things():
    assert results_page.KINDS.keys().isdisjoint(speed_page.KINDS)

"""One command records every benchmark of the page, each by a command of its own."""

import json

import pytest
from helpers.paths import ROOT

from labml_bcn.experiment.bench import layers, record, training

PARSERS = {"layers": layers.build_parser, "training": training.build_parser}


def test_the_records_are_those_that_lie_in_the_folder():
    kept = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.json")}
    assert kept == record.RECORDS.keys()


@pytest.mark.parametrize("name", record.RECORDS)
def test_the_options_of_a_record_are_those_of_its_command(name, tmp_path):
    words = record.command_of(name, tmp_path, threads=2, seconds=None)
    module = words[words.index("-m") + 1].rpartition(".")[2]
    options = PARSERS[module]().parse_args(words[words.index("-m") + 2 :])
    assert options.json == tmp_path / f"{name}.json"
    assert options.threads == 2


def test_memory_is_kept_while_it_records(tmp_path, monkeypatch):
    options = ("layers", "--inputs", "2,8,4,4", "--groups", "4", "--rivals", "copy")
    monkeypatch.setitem(record.RECORDS, "tiny", options)
    words = ["--only", "tiny", "--seconds", "0", "--threads", "1"]
    assert record.main([str(tmp_path), *words]) == 0
    kept = json.loads((tmp_path / "tiny.json").read_text("utf-8"))
    assert kept["environment"].items() >= record.KEEP_MEMORY.items()
    assert kept["threads"] == 1


def test_it_stops_at_what_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(record.RECORDS, "wrong", ("layers", "--groups", "0"))
    words = ["--only", "wrong", "cpu-eager", "--seconds", "0"]
    assert record.main([str(tmp_path), *words]) == 2
    assert not list(tmp_path.iterdir())
    capfd.readouterr()

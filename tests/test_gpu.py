"""What `make gpu` runs, and what it records, where there is no GPU."""

import json

import pytest

from labml_bcn.experiment.bench import layers
from tools import gpu


@pytest.fixture
def has_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "HAS_GPU", "")


def recorded(folder):
    return json.loads((folder / "gpu.json").read_text("utf-8"))


def test_without_a_gpu_nothing_is_recorded(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu, "HAS_GPU", "raise SystemExit(1)")
    with pytest.raises(SystemExit) as error:
        gpu.main([str(tmp_path / "out")])
    assert error.value.code == 2
    assert "there is no CUDA device here" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_benchmark_knows_its_options():
    chosen = [layers.build_parser().parse_args(each) for each in gpu.benchmarks()]
    ways = {(each.dtype, each.channels_last, each.graph) for each in chosen}
    assert len(ways) == len(chosen) == 8
    every_input = layers.SMALL_INPUTS + layers.INPUTS
    assert {each.inputs for each in chosen} == {every_input}


@pytest.mark.usefixtures("has_gpu")
def test_tests_and_benchmarks_are_recorded(tmp_path, monkeypatch):
    write = "import sys; print('measured'); open(sys.argv[-1], 'w').write('[1]')"
    monkeypatch.setattr(gpu, "TESTS", ("-c", "print('tested')"))
    monkeypatch.setattr(gpu, "BENCHMARK", ("-c", write))
    assert gpu.main([str(tmp_path / "new")]) == 0
    record = recorded(tmp_path / "new")
    assert record["tests"]["output"] == ["tested"]
    assert [each["record"] for each in record["benchmarks"]] == [[1]] * 8


@pytest.mark.usefixtures("has_gpu")
def test_what_fails_or_takes_too_long_is_recorded_as_that(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TESTS", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(gpu, "BENCHMARK", ("-c", "raise SystemExit('no memory')"))
    monkeypatch.setattr(gpu, "MOST_OF_TESTS", 1)
    monkeypatch.setattr(gpu, "benchmarks", lambda: [["--graph"]])
    assert gpu.main([str(tmp_path)]) == 1
    record = recorded(tmp_path)
    assert record["tests"]["end"] == "stopped after 1 seconds"
    (measured,) = record["benchmarks"]
    assert measured["end"] == "failed with exit status 1"
    assert measured["record"] is None
    assert measured["output"] == ["no memory"]


@pytest.mark.usefixtures("has_gpu")
def test_everything_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TESTS", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(gpu, "BENCHMARK", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(gpu, "ALL", 1)
    assert gpu.main([str(tmp_path)]) == 1
    record = recorded(tmp_path)
    ends = [each["end"] for each in record["benchmarks"]]
    assert ends == ["stopped after 0 seconds"] * 8

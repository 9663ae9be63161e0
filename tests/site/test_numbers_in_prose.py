"""Numbers that README and "Use it" have typed, beside what they stand on."""

import inspect
import json
import re
from statistics import mean

import pytest
from helpers.paths import ROOT

from labml_bcn import BatchChannelNorm, convert
from labml_bcn.checkpoints import SOURCES
from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import STUDIES
from website.study_results import Results

README = " ".join((ROOT / "README.md").read_text().split())
USE = " ".join((ROOT / "docs" / "use.md").read_text().split())
WORDS = {3: "three", 5: "five", 7: "Seven"}


def default(function, name):
    """The default of an argument."""
    return inspect.signature(function).parameters[name].default


def test_the_readme_says_what_was_run():
    grid = STUDIES["cpu"]
    records = read_records(ROOT / "docs" / "results" / "cpu")
    images = {r["counts"]["train"] for r in records.values()}
    assert f"a {max(images):,}-image part of CIFAR-10" in README
    assert f"{grid.images:,} images seen" in README
    methods, sizes, seeds = (
        WORDS[len(each)] for each in (grid.methods, grid.batch_sizes, grid.seeds)
    )
    assert f"{methods} normalizations at {sizes} batch sizes, {seeds} seeds" in README
    assert "more than two hundred training runs" in README
    assert len(records) > 200


@pytest.mark.parametrize("method", ["GN", "BCN"])
def test_the_page_on_weights_says_what_they_were_worth(method):
    results = Results(STUDIES["cpu"], read_records(ROOT / "docs" / "results" / "cpu"))
    page = " ".join(
        (ROOT / "labml_bcn" / "weight_standardization.py").read_text().split()
    )
    without, standardized = (
        f"{mean(results.main(name, 1)):.1f}%" for name in (method, f"{method}+WS")
    )
    assert re.search(rf"{without}\D*{standardized}", page)


def test_the_page_on_weights_says_what_the_notebooks_found():
    page = " ".join(
        (ROOT / "labml_bcn" / "weight_standardization.py").read_text().split()
    )
    smoother, silent = (
        (ROOT / "docs" / "notebook_outputs" / f"{name}.json").read_text()
        for name in ("4_roughness", "3_elimination_singularities")
    )
    [cases] = re.findall(r"smoother in (\d cases of \d)", smoother)
    assert f"smoother in {cases}" in page
    assert "weight standardization alone was enough" in silent
    assert re.search(r"in the last window:\*\* GN \d", silent)
    assert "Group norm leaves channels nearly silent" in page


def test_what_the_pages_say_of_cost_was_measured():
    folder = ROOT / "docs" / "benchmarks"
    relatives = " ".join((ROOT / "docs" / "relatives.md").read_text().split())
    start = " ".join((ROOT / "docs" / "index.md").read_text().split())
    assert "In training BCN is the slower one" in relatives
    for each in json.loads((folder / "cpu-eager.json").read_text())["results"]:
        rivals = each["rivals"]
        assert rivals["kernels"]["ms"] > rivals["group norm"]["ms"]
    assert "No GPU has been measured" in start
    assert all(path.name.startswith("cpu-") for path in folder.glob("*.json"))


def test_the_default_momenta_are_those_that_the_pages_name():
    assert default(BatchChannelNorm, "momentum") == 0.1
    assert "layer's own default for the momentum is labml's 0.1" in README
    assert "**`momentum=0.1`**, the layer's own default" in USE
    assert default(convert, "momentum") == 0.01
    assert default(convert, "variance_around") == "running_mean"
    assert 'variance_around="running_mean"`** is for one or two images a' in USE
    assert "and what `convert` sets" in USE


def test_32_groups_fit_none_of_the_channels_that_use_it_names():
    [named] = re.findall(r"32 fit none of ([\d, or]+) channels", USE)
    channels = [int(number) for number in re.findall(r"\d+", named)]
    assert len(channels) == 7
    assert all(count % 32 for count in channels)


def test_the_eps_of_other_sources_is_what_use_it_says():
    assert "timm has $10^{-6}$, BiT $10^{-10}$" in USE
    assert SOURCES["timm_std_conv"].eps == 1e-6
    assert SOURCES["bit"].eps == 1e-10

"""Runs that are killed, as they are recorded and shown."""

import json
import random

import pytest
from helpers.paths import ROOT

from labml_bcn.experiment import kills
from website import faults_page

RECORD = ROOT / "docs" / "faults" / "kills.json"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GN+WS", "BCN+WS, two processes"])
def test_a_kind_of_run_is_killed_and_ends_the_same(tmp_path, name):
    kills.warm_up()
    kills.write_images(tmp_path)
    found = kills.kill_runs(name, 2, tmp_path, random.Random(3))
    assert len(found["kills"]) == 2
    assert found["ends"] == found["same"] >= 1
    assert all(kill["step"] in (None, *range(17)) for kill in found["kills"])


def test_an_end_with_other_bits_would_be_told(tmp_path):
    record = json.loads(RECORD.read_text())
    record["kinds"][3]["same"] -= 1
    with pytest.raises(LookupError, match=r"^1 of \d+ runs that were killed end other"):
        faults_page.sentence(record)


def test_the_record_is_of_eight_kinds_and_two_hundred_kills():
    record = json.loads(RECORD.read_text())
    assert [kind["name"] for kind in record["kinds"]] == list(kills.KINDS)
    assert sum(len(kind["kills"]) for kind in record["kinds"]) >= 200
    assert {k["name"]: k["options"] for k in record["kinds"]} == kills.KINDS
    said = faults_page.sentence(record)
    assert said.startswith("Each mark is a kill: 216 in all")
    figure = faults_page.kills(record)
    assert figure.count("<use ") >= 216
    last = record["kinds"][-1]
    assert f"{last['name']}: 27 kills, {last['ends']} ends." in figure


def test_the_table_has_a_row_for_each_mark_of_a_test():
    folder = ROOT / "tests" / "experiment"
    faults = faults_page.read_faults(folder)
    marks = sum(
        path.read_text().count("pytest.mark.fault(")
        for path in folder.glob("*.py")
        if path.name != "test_kills.py"
    )
    assert len(faults) == marks > 60
    assert len({fault.tried for fault in faults}) == len(faults)
    table = faults_page.table(faults)
    assert table.count("<tr") == len(faults) + 1
    assert f"{len(faults)} faults, tried and survived" in table


def test_a_mark_becomes_a_row_and_letters_of_html_do_no_harm(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        '@pytest.mark.fault("a < b", "c & d")\n'
        "@pytest.mark.slow\n"
        "def test_y(): ...\n"
        "def test_z(): ...\n"
    )
    (fault,) = faults_page.read_faults(tmp_path)
    assert fault == ("a < b", "c & d", "test_x.test_y")
    assert "<td>a &lt; b</td><td>c &amp; d</td>" in faults_page.table([fault])

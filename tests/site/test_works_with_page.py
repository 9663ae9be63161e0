"""The page "Works with" says what its tests show, and nothing else."""

import inspect
from pathlib import Path

import pytest
from helpers.missing import import_or_skip
from helpers.paths import ROOT

from facing import fill
from website import results_page, speed_page, works_with_page
from website.works_with_page import TABLES, Claim, read, table

PAGE = (ROOT / "docs" / "works_with.md").read_text("utf-8")


def read_test(tmp_path: Path, text: str) -> list[Claim]:
    """What one file of tests claims."""
    (tmp_path / "tests").mkdir()
    text = inspect.cleandoc(text)
    (tmp_path / "tests" / "test_it.py").write_text(text, "utf-8")
    return read(tmp_path)


def test_every_table_is_on_the_page_and_no_placeholder_is_left():
    for name in TABLES:
        assert f"<!-- works-with: {name} -->" in PAGE
    shown = fill(PAGE, works_with_page.kinds(ROOT, "https://example.org/code/"))
    assert "<!-- " not in shown
    for claim in read(ROOT):
        place = f"(https://example.org/code/blob/HEAD/{claim.path}#L{claim.line})"
        assert place in shown
        assert (ROOT / claim.path).is_file()


def test_a_claim_is_what_its_marker_says(tmp_path):
    text = '''
        import pytest

        @pytest.mark.parametrize("size", [1, 2])
        @pytest.mark.works_with(
            "deploy", "`jit`", "traced " "whole", know="Call `bake`."
        )
        def test_a_trace_is_the_network(size):
            """A test."""
    '''
    (claim,) = read_test(tmp_path, text)
    path = Path("tests/test_it.py")
    words = ("deploy", "`jit`", "traced whole", "Call `bake`.")
    assert claim == Claim(*words, path, 7, "test_a_trace_is_the_network")


def claim(thing: str, tried: str, know: str, test: str) -> Claim:
    return Claim("save", thing, tried, know, Path("tests/test_it.py"), 3, test)


def test_a_table_has_a_line_for_each_thing_in_the_order_of_the_alphabet():
    claims = [
        claim("pickle", "a module", "", "test_it_is_pickled"),
        claim("`deepcopy`", "after a step", "All of it.", "test_a_copy"),
        claim("pickle", "a group", "No group.", "test_of_a_group"),
        claim("pickle", "a module", "No group.", "test_again"),
    ]
    assert table(claims, "save").splitlines()[2:] == [
        "| `deepcopy` | after a step | All of it. | a copy |",
        "| pickle | a module; a group | No group. | it is pickled, of a group, again |",
    ]
    linked = table(claims[:1], "save", "https://example.org/blob/HEAD/")
    assert (
        "[it is pickled](https://example.org/blob/HEAD/tests/test_it.py#L3)" in linked
    )


def test_a_table_that_no_test_fills_is_refused():
    with pytest.raises(LookupError, match="no test is marked for the table 'deploy'"):
        table([claim("pickle", "a module", "", "test_it")], "deploy")
    with pytest.raises(LookupError, match="no table 'cooking': there are train"):
        table([], "cooking")


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('@pytest.mark.works_with("save", "pickle")', "three plain strings"),
        ('@pytest.mark.works_with("save", "a", f"{1}")', "three plain strings"),
        ('@pytest.mark.works_with("save", "a", "b", "c")', "three plain strings"),
        ('@pytest.mark.works_with("save", "a", "b", known="c")', "three plain strings"),
        ('@pytest.mark.works_with("cooking", "a", "b")', "one of train, precision"),
        ('@pytest.mark.works_with("save", "a|b", "c")', "without |"),
        ("@pytest.mark.works_with", "is called"),
    ],
)
def test_a_marker_that_says_less_is_refused(tmp_path, marker, words):
    with pytest.raises(
        LookupError, match=r"test_it\.py:1: the marker `works_with` "
    ) as e:
        read_test(tmp_path, f"{marker}\ndef test_it(): ...")
    assert words in str(e.value)


@pytest.mark.parametrize(
    "line", ["pytestmark = {}", "{}\nclass TestIt: ...", "@{}\ndef it(): ..."]
)
def test_a_marker_stands_at_a_test(tmp_path, line):
    marker = 'pytest.mark.works_with("save", "a", "b")'
    with pytest.raises(LookupError, match="as the decorator of a test"):
        read_test(tmp_path, line.format(marker))


def test_the_versions_are_the_pinned_ones_of_the_tier():
    told = works_with_page.versions(ROOT).split(", ")
    assert told[0].startswith("torch 2.")
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert {each.replace(" ", "==") for each in told} <= set(pins)
    assert {"onnxruntime", "lightning"} <= {each.split()[0] for each in told}


def test_no_kind_of_placeholder_means_two_things():
    ours = works_with_page.kinds(ROOT, None).keys()
    assert ours.isdisjoint(results_page.KINDS)
    assert ours.isdisjoint(speed_page.KINDS)


def test_a_missing_package_skips_its_tests_but_not_in_their_tier(monkeypatch):
    monkeypatch.delenv("LABML_BCN_ECOSYSTEM", raising=False)
    for name in ("no_such_package", "no_such_package.part"):
        with pytest.raises(pytest.skip.Exception, match="`make ecosystem` installs it"):
            import_or_skip(name)
    monkeypatch.setenv("LABML_BCN_ECOSYSTEM", "require")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_or_skip("no_such_package.part")


def test_the_tier_is_a_command_that_ci_runs():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "LABML_BCN_ECOSYSTEM=require $(PYTEST) tests/ecosystem" in makefile
    assert "\nmake ecosystem\n" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "# make ecosystem\n" in (ROOT / "README.md").read_text("utf-8")

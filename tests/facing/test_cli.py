"""The command that writes pages without MkDocs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from facing.cli import main
from facing.mkdocs import FacingConfig
from helpers.paths import ROOT

GOOD = '"""\n# Good\n\nMean $\\mu$.\n\nSee [the other](sub/other.py#L1).\n"""\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / ".hidden").mkdir(parents=True)
    (root / "good.py").write_text(GOOD)
    (root / "sub" / "other.py").write_text("x = 1\n")
    (root / "sub" / "index.py").write_text("y = 1\n")
    (root / "sub" / ".hidden" / "no.py").write_text("z = 1\n")
    (root / "notes.txt").write_text("no Python")
    return root


def pages(out: Path) -> set[str]:
    return {p.relative_to(out).as_posix() for p in out.rglob("*.html")}


def test_a_folder_becomes_pages_and_an_index(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(tree), "--out", str(out)]) == 0
    assert pages(out) == {
        "index.html",
        "good.html",
        "sub/other.html",
        "sub/index.py.html",
    }
    assert "3 files" in capsys.readouterr().out
    index = (out / "index.html").read_text()
    assert '<a href="good.html">Good</a>' in index
    assert 'href="sub/other.html#L1"' in (out / "good.html").read_text()


def test_pages_need_nothing_but_what_lies_beside_them(tree, tmp_path):
    out = tmp_path / "out"
    main([str(tree), "--out", str(out)])
    for page in pages(out):
        text = (out / page).read_text()
        for address in re.findall(r'(?:src|href)="([^"#]+)', text):
            if address != "data:,":
                target = (out / page).parent / address
                assert target.is_file(), (page, address)
    css = (out / "assets" / "literate.css").read_text()
    for address in re.findall(r'url\("([^"]+)"\)', css):
        assert (out / "assets" / address).is_file()


def test_one_bad_file_does_not_keep_others_from_being_written(tree, tmp_path, capsys):
    (tree / "bad.py").write_text("x = (\n")
    (tree / "formula.py").write_text('"""Bad $\\frac{$ and $$ open."""\n')
    out = tmp_path / "out"
    assert main([str(tree), "--out", str(out)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [e.split(": ")[0] for e in errors] == [
        f"{tree / 'bad.py'}:1",
        f"{tree / 'formula.py'}:1",
        f"{tree / 'formula.py'}:1",
    ]
    assert {"good.html", "formula.html"} <= pages(out)
    assert "bad.html" not in pages(out)
    assert r"<code>$\frac{$</code>" in (out / "formula.html").read_text()


def test_lenient_exits_with_0_and_shows_the_source(tree, tmp_path, capsys):
    (tree / "formula.py").write_text('"""Bad $\\frac{$."""\n')
    out = tmp_path / "out"
    assert main([str(tree), "--out", str(out), "--lenient"]) == 0
    assert "formula.py:1" in capsys.readouterr().err
    assert r"<code>$\frac{$</code>" in (out / "formula.html").read_text()


def test_a_file_is_rendered_once_and_alone_it_needs_no_folder(tree, tmp_path):
    out = tmp_path / "out"
    good = str(tree / "good.py")
    assert main([good, good, "--out", str(out)]) == 0
    assert pages(out) == {"index.html", "good.html"}


@pytest.mark.parametrize(
    ("path", "says"),
    [("none.py", "there is no such file"), (".", "no Python files in it")],
)
def test_a_path_without_python_is_reported(tmp_path, capsys, path, says):
    status = main([str(tmp_path / path), "--out", str(tmp_path / "out")])
    assert status == 1
    assert says in capsys.readouterr().err


def test_the_command_runs_as_a_module(tree, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "facing",
            str(tree),
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_lists_every_option(capsys):
    readme = (ROOT / "facing" / "README.md").read_text("utf-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[a-z]+)", readme, re.MULTILINE))
    plugin = readme.partition("## In a MkDocs site")[2].partition("\n## ")[0]
    for name, _ in FacingConfig._schema:
        assert name in plugin

"""Shows that the tests of equations bite: run by `make mutants`.

For each equation, mutants.yml lists edits of one token to the line that
computes it. Each is made in a copy of the project, and the tests that say
they assert the equation are run there. They pass without the edit. With it,
one must fail; and of all tests of an equation, each must fail for some edit.
"""

import argparse
import contextlib
import difflib
import io
import os
import pickle
import shutil
import sys
import tempfile
import tokenize
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "labml_bcn"


# ---- What is listed --------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """An edit to the line that computes an equation."""

    equation: str
    file: str
    line: str
    edit: str

    def apply(self, text: str) -> str:
        """Return a file's text with the edit.

        Raises ValueError unless the line is there exactly once and the edit is of
        one token.
        """
        lines = text.splitlines(keepends=True)
        places = [i for i, each in enumerate(lines) if each.strip() == self.line]
        if len(places) != 1:
            raise ValueError(
                f"{self.file} has {len(places)} lines that read {self.line!r}"
            )
        if count_changed_tokens(self.line, self.edit) != 1:
            raise ValueError(f"{self.edit!r} is no edit of one token")
        lines[places[0]] = lines[places[0]].replace(self.line, self.edit)
        return "".join(lines)


def read_mutants(root: Path = ROOT) -> list[Mutant]:
    """Read the list."""
    text = (root / "tools" / "mutants.yml").read_text("utf-8")
    return [
        Mutant(
            equation, edit.get("file") or default_file(equation), **strip_lines(edit)
        )
        for equation, edits in yaml.safe_load(text).items()
        for edit in edits
    ]


def default_file(equation: str) -> str:
    """Return the file of the page that an equation stands on."""
    module = equation.rpartition(".")[0].replace(".", "/")
    return f"{PACKAGE}/{module}.py"


def strip_lines(edit: dict[str, str]) -> dict[str, str]:
    """Return an edit's two lines without the space around them."""
    return {key: edit[key].strip() for key in ("line", "edit")}


def count_changed_tokens(line: str, edit: str) -> int:
    """Count the tokens in which two lines differ."""
    one, other = map(tokenize_line, (line, edit))
    changes = difflib.SequenceMatcher(None, one, other, False).get_opcodes()
    return sum(
        max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in changes if kind != "equal"
    )


def tokenize_line(line: str) -> list[str]:
    """Return the tokens of a line that are not only space."""
    found = []
    with_end = io.StringIO(line + "\n").readline
    # A statement that goes on in the next line ends in an error.
    with contextlib.suppress(tokenize.TokenError):
        for token in tokenize.generate_tokens(with_end):
            found.append(token.string)
    return [each for each in found if each.strip()]


def find_equations(root: Path = ROOT) -> list[tuple[str, ...]]:
    """Return the full names of all equations that state a law."""
    from facing.page import build
    from facing.read.source import read

    return [
        Path(*equation.parts).relative_to(root).parts
        for path in sorted((root / PACKAGE).rglob("*.py"))
        for equation in build(read(path)).equations
        if equation.law and equation.name
    ]


def find_problems(root: Path = ROOT) -> Iterator[str]:
    """Say what is wrong with the list itself."""
    mutants, known = read_mutants(root), find_equations(root)
    full = {(PACKAGE, *m.equation.split(".")) for m in mutants}
    for parts in known:
        if parts not in full:
            yield f"{'.'.join(parts[1:])}: no edit is listed"
    for parts in sorted(full - set(known)):
        yield f"{'.'.join(parts[1:])}: no equation has this name"
    for mutant in mutants:
        try:
            mutant.apply((root / mutant.file).read_text("utf-8"))
        except (OSError, ValueError) as error:
            yield f"{mutant.equation}: {error}"


# ---- Running tests in a copy -----------------------------------------------


def run_forked(work: Callable[[], Any]) -> Any:
    """Do some work in a process that has all that this one has imported."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = work(), ""
        except BaseException:
            answer = None, traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result, error = pickle.load(pipe)
    os.waitpid(child, 0)
    if error:
        raise RuntimeError(error)
    return result


class Watch:
    """Runs the marked tests, each until it fails, and keeps how they went."""

    def __init__(self, equation: str | None) -> None:
        self.equation = equation
        self.tests: dict[str, set[str]] = {}  # by the equation they assert
        self.failed: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests that assert the equation."""
        chosen = []
        for item in items:
            markers = item.iter_markers("equation")
            names = {name for marker in markers for name in marker.args}
            for name in names:
                test = item.nodeid.partition("[")[0]
                self.tests.setdefault(name, set()).add(test)
            if any(map(self._wants, names)):
                chosen.append(item)
        items[:] = chosen

    def _wants(self, name: str) -> bool:
        return self.equation is None or names_equation(self.equation, name)

    def pytest_runtest_protocol(self, item: Any) -> bool | None:
        """Skip a test of which one case has failed."""
        return item.nodeid.partition("[")[0] in self.failed or None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note which test failed, and how."""
        if report.failed:
            test = report.nodeid.partition("[")[0]
            crash = getattr(report.longrepr, "reprcrash", None)
            words = crash.message if crash else str(report.longrepr)
            self.failed[test] = words.strip().split("\n")[0]


def names_equation(equation: str, name: str) -> bool:
    """Tell whether a marker's name is an equation's, or the end of it."""
    return f".{PACKAGE}.{equation}".endswith(f".{name}")


def run_tests(copy: Path, files: list[str], equation: str | None) -> Watch:
    """Run the marked tests of some files in the copy."""

    def work() -> Watch:
        import pytest

        os.chdir(copy)
        sys.path[:0] = [str(copy)]
        with open(copy / "output", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            watch = Watch(equation)
            status = pytest.main(
                ["-q", "-p", "no:cacheprovider", *files], plugins=[watch]
            )
        origin = sys.modules[PACKAGE].__file__ or ""
        assert Path(origin).is_relative_to(copy), f"not the copy: {origin}"
        if status not in (0, 1):
            raise RuntimeError((copy / "output").read_text("utf-8"))
        return watch

    result: Watch = run_forked(work)
    return result


# ---- The report ------------------------------------------------------------


def check_mutants(root: Path, wanted: list[str]) -> bool:
    """Run every mutant, print how it went, and say whether all is well."""
    found = run_forked(lambda: list(find_problems(root)))
    print(*found, sep="\n", end="\n" if found else "")
    mutants = run_forked(lambda: read_mutants(root))
    unknown = set(wanted) - {m.equation for m in mutants}
    if unknown:
        print(f"no edit is listed for {', '.join(sorted(unknown))}")
        return False
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "project"
        for name in (PACKAGE, "tests", "docs", "website", "pyproject.toml"):
            copy_tree(root / name, copy / name)
        files = find_marked_files(copy)
        clean = run_tests(copy, files, None)
        for test, why in clean.failed.items():
            print(f"{test} fails without any edit: {why}")
        good = not found and not clean.failed
        for equation in dict.fromkeys(m.equation for m in mutants):
            if not wanted or equation in wanted:
                edits = [m for m in mutants if m.equation == equation]
                good &= check_equation(copy, equation, edits, clean.tests)
    return good


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file or a folder, without what Python compiled."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    if source.is_dir():
        shutil.copytree(source, target, ignore=skip)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def find_marked_files(copy: Path) -> list[str]:
    """Return the test files that mark a test with an equation."""
    return [
        str(path.relative_to(copy))
        for path in sorted((copy / "tests").rglob("test_*.py"))
        if "mark.equation(" in path.read_text("utf-8")
    ]


def check_equation(
    copy: Path,
    equation: str,
    mutants: list[Mutant],
    known: dict[str, set[str]],
) -> bool:
    """Make each edit of one equation, and see its tests fail."""
    tests = {
        test
        for name, tests in known.items()
        if names_equation(equation, name)
        for test in tests
    }
    files = sorted({test.partition("::")[0] for test in tests})
    bitten: set[str] = set()
    good = bool(tests)
    if not tests:
        print(f"{equation}: no test asserts it")
    for mutant in mutants:
        failed = run_mutant(copy, mutant, files) if tests else {}
        bitten |= failed.keys()
        good &= bool(failed)
        verdict = f"{len(failed)} of {len(tests)}" if failed else "SURVIVES"
        print(f"{verdict:9} {equation:42} {mutant.line}")
        print(f"{'':9} {'':42} {mutant.edit}", flush=True)
    for test in sorted(tests - bitten):
        print(f"{'':9} {equation}: {test} fails for none of the edits")
    return good and tests <= bitten


def run_mutant(copy: Path, mutant: Mutant, files: list[str]) -> dict[str, str]:
    """Make one edit, and return the tests that fail, with their messages."""
    path = copy / mutant.file
    text = path.read_text("utf-8")
    try:
        path.write_text(mutant.apply(text), "utf-8")
    except ValueError:
        return {}  # named by `find_problems`
    try:
        return run_tests(copy, files, mutant.equation).failed
    finally:
        path.write_text(text, "utf-8")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("equation", nargs="*", help="only these")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    # A child has what was imported here, and compiles nothing for later: an
    # edit may keep a file's size and the second of its change.
    sys.dont_write_bytecode = True
    os.environ["OMP_NUM_THREADS"] = "1"
    # What is edited are the formulas on the pages, and kernels would pass them by.
    os.environ["LABML_BCN_NATIVE"] = "0"
    for name in (
        "pytest",
        "torch",
        "yaml",
        "markdown",
        "playwright.sync_api",
    ):
        __import__(name)
    good = check_mutants(options.root.resolve(), options.equation)
    print("every edit makes a test fail" if good else "something to mend")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

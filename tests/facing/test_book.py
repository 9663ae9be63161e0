"""A book: pages and problems of all files together, for any front end."""

from pathlib import Path

import pytest
from helpers.rendering import messages, write

from facing import Book

LAW = 'r"""\n# Law\n\n$$a = b$$ {#sum}\n\nSee [two](two.py).\n"""\n'
TEST = '@pytest.mark.equation("law.sum")\ndef test_a_sum():\n    1\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "law.py", LAW)
    write(tmp_path / "two.py", "import law\n")
    write(tmp_path / "test_law.py", TEST)
    write(tmp_path / "test_nothing.py", "def test_nothing():\n    1\n")
    return tmp_path


PATHS = [Path("law.py"), Path("two.py")]
TESTS = [Path("test_law.py"), Path("test_nothing.py")]


def test_a_test_of_an_equation_is_part_of_the_book_and_no_other_test_is(root):
    book = Book(PATHS, root=root, tests=TESTS)
    assert book.tests == [Path("test_law.py")]
    assert list(book.sources) == [*PATHS, *book.tests]


def test_a_file_that_is_source_and_test_is_read_once(root):
    book = Book([*PATHS, TESTS[0]], root=root, tests=TESTS)
    assert book.tests == []
    assert list(book.sources) == [*PATHS, TESTS[0]]


def test_links_go_through_the_function_that_is_given(root):
    book = Book(PATHS, root=root)
    page = book.page(PATHS[0], lambda target, line: f"to-{target}-from-{line}")
    assert 'href="to-two.py-from-6"' in page.body
    assert 'href="law.py"' in book.page(PATHS[1]).body


def test_problems_are_collected_and_never_raised(root):
    write(root / "bad.py", "x = (\n")
    write(root / "formula.py", '"""$\\frac{$"""\n')
    write(root / "links.yml", "- no addresses\n")
    paths = [*PATHS, *map(Path, ("bad.py", "formula.py"))]
    declared = {name: Path(f"{name}.yml") for name in ("links", "symbols", "papers")}
    book = Book(paths, root=root, tests=[], **declared)
    for path in book.sources:
        book.page(path)
    found = [message.split(":")[:2] for message in messages(book.problems())]
    assert found == [
        ["bad.py", "1"],
        ["formula.py", "1"],
        ["symbols.yml", "1"],
        ["links.yml", "1"],
        ["papers.yml", "1"],
        ["law.py", "4"],
    ]


def test_problems_name_files_as_seen_from_the_root(root):
    write(root / "bad.py", "x = (\n")
    book = Book([Path("bad.py")], root=root, symbols=Path("no.yml"))
    assert [str(p.path) for p in book.problems()] == ["bad.py", "no.yml"]


@pytest.mark.parametrize(("tests", "count"), [(None, 0), ([], 1), (TESTS, 0)])
def test_equations_need_tests_only_if_tests_are_given(root, tests, count):
    book = Book(PATHS, root=root, tests=tests)
    for path in book.sources:
        book.page(path)
    assert len(book.problems()) == count

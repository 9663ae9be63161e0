"""The tables of the page "Works with": what was tried, from the tests that try it.

A test that uses something of others says so by a marker, and is a row:

    @pytest.mark.works_with("deploy", "`torch.export`", "dynamic sizes", know="…")

which table, what was used, how, and what to know. Markers are read from the tests'
source: none is imported or run here. What no test shows is on no table.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeGuard

from website.markdown_tables import row

USES = ("what", "what was tried", "what to know", "shown by")

# Each table with its head. The last is of functions that pass our layers by.
TABLES = {
    "train": USES,
    "precision": USES,
    "processes": USES,
    "save": USES,
    "deploy": USES,
    "look inside": USES,
    "instead": ("what others call", "what it does here", "call instead", "shown by"),
}


@dataclass(frozen=True)
class Claim:
    """What one test says that it uses."""

    table: str
    thing: str
    tried: str
    know: str
    path: Path
    line: int
    test: str


def read(root: Path) -> list[Claim]:
    """Return the claims of all tests below a folder's `tests`."""
    return [
        claim
        for path in sorted((root / "tests").rglob("*.py"))
        for claim in _claims(path.relative_to(root), path.read_text("utf-8"))
    ]


def table(claims: list[Claim], name: str, address: str = "") -> str:
    """Return a table: a line for each thing, in the order of the alphabet.

    `address` is where the repository is to be read, for links to the tests.
    """
    if name not in TABLES:
        raise LookupError(f"no table {name!r}: there are {', '.join(TABLES)}")
    of: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.table == name:
            of.setdefault(claim.thing, []).append(claim)
    if not of:
        raise LookupError(f"no test is marked for the table {name!r}")
    lines = [row(*TABLES[name]), "| --- | --- | --- | --- |"]
    for thing in sorted(of, key=lambda thing: thing.strip("`").lower()):
        cells = (
            "; ".join(_once(claim.tried for claim in of[thing])),
            " ".join(_once(claim.know for claim in of[thing])),
            ", ".join(_link(claim, address) for claim in of[thing]),
        )
        lines.append(row(thing, *cells))
    return "\n".join(lines)


def versions(root: Path) -> str:
    """Return which versions of PyTorch and of the tier's packages are used."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = ["torch", *project["optional-dependencies"]["ecosystem"]]
    pins = (root / "constraints.txt").read_text("utf-8")
    found = dict(re.findall(r"^([\w.-]+)==(.+)$", pins, re.MULTILINE))
    names = [re.split(r"[^\w.-]", each)[0] for each in wanted]
    return ", ".join(f"{name} {found[name]}" for name in names)


def kinds(root: Path, repo_url: str | None) -> dict[str, Callable[..., str]]:
    """Return the page's placeholders."""
    address = f"{repo_url.rstrip('/')}/blob/HEAD/" if repo_url else ""
    claims = cache(partial(read, root))
    return {
        "works-with": lambda name: table(claims(), name, address),
        "works-with-versions": partial(versions, root),
    }


def _claims(path: Path, text: str) -> Iterator[Claim]:
    tree = ast.parse(text)
    of_tests = {
        id(decorator.func): (decorator, node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    }
    for marker in ast.walk(tree):
        if _is_marker(marker):
            if id(marker) not in of_tests:
                raise _mistake(path, marker, "is called, as the decorator of a test")
            yield _claim(path, *of_tests[id(marker)])


def _is_marker(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Tell whether this is `pytest.mark.works_with`."""
    return isinstance(node, ast.Attribute) and node.attr == "works_with"


def _claim(path: Path, call: ast.Call, test: ast.FunctionDef) -> Claim:
    words = [*call.args, *(each.value for each in call.keywords)]
    texts = [
        each.value
        for each in words
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    named = [each.arg for each in call.keywords]
    if len(texts) < len(words) or len(call.args) != 3 or named not in ([], ["know"]):
        raise _mistake(path, call, "has three plain strings, and know='…' if need be")
    if texts[0] not in TABLES:
        raise _mistake(path, call, f"begins with one of {', '.join(TABLES)}")
    if any("|" in text or "\n" in text for text in texts):
        raise _mistake(path, call, "has cells of a table: one line each, without |")
    where, thing, tried, *know = texts
    return Claim(where, thing, tried, "".join(know), path, test.lineno, test.name)


def _mistake(path: Path, node: ast.expr, rule: str) -> LookupError:
    return LookupError(f"{path}:{node.lineno}: the marker `works_with` {rule}")


def _once(texts: Iterator[str]) -> list[str]:
    """Return the texts that are not empty, each once, in their order."""
    return [text for text in dict.fromkeys(texts) if text]


def _link(claim: Claim, address: str) -> str:
    words = claim.test.removeprefix("test_").replace("_", " ")
    place = claim.path.as_posix()
    return f"[{words}]({address}{place}#L{claim.line})" if address else words

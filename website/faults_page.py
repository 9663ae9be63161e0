"""What the page on training shows of faults: the kills, and a table made of the tests.

The figure is drawn from the record of `python -m labml_bcn.experiment.kills`. A row of
the table is the mark of a test, `@pytest.mark.fault(tried, survived)`: what is not
tested is not in it.
"""

import ast
import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt

from labml_bcn.experiment import plotting

Record = dict[str, Any]


class Fault(NamedTuple):
    """A fault that was tried, what happens then, and the test that shows it."""

    tried: str
    survived: str
    test: str


def read_faults(folder: Path) -> list[Fault]:
    """Return the faults that the tests in a folder are marked with."""
    return [
        Fault(tried, survived, f"{path.stem}.{function.name}")
        for path in sorted(folder.glob("test_*.py"))
        for function in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef)
        for tried, survived in _marks(function)
    ]


def _marks(function: ast.FunctionDef) -> Iterator[list[str]]:
    for decorator in function.decorator_list:
        match decorator:
            case ast.Call(func=name) if ast.unparse(name) == "pytest.mark.fault":
                yield [ast.literal_eval(word) for word in decorator.args]


def table(faults: list[Fault]) -> str:
    """Return the faults as a table in HTML, to be unfolded."""
    rows = "".join(
        f'<tr title="{html.escape(fault.test)}"><td>{html.escape(fault.tried)}</td>'
        f"<td>{html.escape(fault.survived)}</td></tr>"
        for fault in faults
    )
    return (
        f"<details><summary>{len(faults)} faults, tried and survived</summary>"
        '<table><thead><tr><th scope="col">tried</th><th scope="col">what happens</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></details>"
    )


@mpl.rc_context(plotting.STYLE)
def kills(record: Record) -> str:
    """Draw when runs were killed, a row for each kind of run."""
    kinds = record["kinds"]
    fig, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for k, kind in enumerate(kinds):
        shares = [kill["seconds"] / kind["seconds"] for kill in kind["kills"]]
        ax.plot(shares, [k] * len(shares), "|", color=plotting.TEXT, markersize=9)
    ax.set_yticks(range(len(kinds)), [kind["name"] for kind in kinds])
    ax.set(xlabel="when it was killed, as a share of a whole run's time", xlim=(0, 1))
    ax.invert_yaxis()
    return plotting.page(fig, sentence(record), f"{sentence(record)} {_words(record)}")


def sentence(record: Record) -> str:
    """Say what the figure shows."""
    kinds = record["kinds"]
    killed = sum(len(kind["kills"]) for kind in kinds)
    ends, same = (sum(kind[key] for kind in kinds) for key in ("ends", "same"))
    if same != ends:
        raise LookupError(
            f"{ends - same} of {ends} runs that were killed end otherwise"
        )
    return (
        f"Each mark is a kill: {killed} in all, at random moments. All {ends} runs that"
        " came to their end afterwards have the weights and metrics of a run that was"
        " never killed, bit for bit."
    )


def _words(record: Record) -> str:
    return " ".join(
        f"{kind['name']}: {len(kind['kills'])} kills, {kind['ends']} ends."
        for kind in record["kinds"]
    )


def html_kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return the placeholders that the page on training has."""

    def figure() -> str:
        path = root / "docs" / "faults" / "kills.json"
        return kills(json.loads(path.read_text("utf-8")))

    return {
        "kills": figure,
        "faults": lambda: table(read_faults(root / "tests" / "experiment")),
    }

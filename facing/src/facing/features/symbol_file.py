r"""Read the YAML file in which a project declares its symbols.

    - latex: [\mu_c, \mu]        # the form to show, then others
      scope:                     # where it holds, and its names there
        norm.Norm: self.exp_mean
        norm.Norm.update: [old_mean, new_mean]
      say: mu sub c
      meaning: running mean of channel c
      shape: "[C]"

`scope` may also be a name or a list of names; `code`, a name or a list, then holds
in all of them. A symbol that only formulas have needs no code. A shape may be one of
several: "[C] or [G, D]".
"""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from facing.problem import Problem
from facing.read.yaml import compose_yaml
from facing.text.mathml import to_mathml

# A place where a symbol stands: the file, the line, and the scope there.
Use = tuple[Path, int, str]


@dataclass
class Symbol:
    """A symbol as declared, and where it was found."""

    line: int
    latex: list[str]
    names: dict[str, list[str]]  # by scope, as written
    say: str
    meaning: str
    shape: str = ""
    uses: set[Use] = field(default_factory=set)

    @property
    def mathml(self) -> str:
        """The form to show."""
        return to_mathml(self.latex[0], False)


_KEYS = {"latex", "scope", "code", "say", "meaning", "shape"}


def read_symbols(path: Path) -> list[Symbol]:
    """Return the symbols of a file; raise `Problem` at the line of a mistake."""
    return _SymbolReader(path).symbols()


class _SymbolReader:
    """Reads the YAML file; what is wrong is said with its line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def problem(self, node: yaml.Node, message: str) -> Problem:
        return Problem(self.path, node.start_mark.line + 1, message)

    def symbols(self) -> list[Symbol]:
        top = compose_yaml(self.path)
        if top is None:
            return []
        if not isinstance(top, yaml.SequenceNode):
            raise self.problem(top, "symbols are a list: begin each with `- `")
        return [self.symbol(node) for node in top.value]

    def symbol(self, node: yaml.Node) -> Symbol:
        if not isinstance(node, yaml.MappingNode):
            raise self.problem(node, "a symbol is a mapping, with `latex: ...`")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value not in _KEYS:
                known = ", ".join(sorted(_KEYS))
                raise self.problem(key, f"unknown field {key.value}; {known}")
            if key.value in fields:
                raise self.problem(key, f"a second {key.value}; keep one of them")
            fields[key.value] = value
        for name in ("latex", "scope", "say", "meaning"):
            if name not in fields or not any(self.parts(fields[name])):
                raise self.problem(node, f"a symbol without {name}; write one")
        return Symbol(
            node.start_mark.line + 1,
            self.texts(fields["latex"]),
            self.names(fields["scope"], fields.get("code")),
            self.text(fields["say"]),
            self.text(fields["meaning"]),
            self.text(fields["shape"]) if "shape" in fields else "",
        )

    def names(self, scope: yaml.Node, code: yaml.Node | None) -> dict[str, list[str]]:
        if isinstance(scope, yaml.MappingNode):
            if code:
                raise self.problem(code, "code stands in scope already")
            return {k.value: self.texts(v) for k, v in scope.value}
        names = self.texts(code) if code else []
        return dict.fromkeys(self.texts(scope), names)

    def parts(self, node: yaml.Node) -> list[str]:
        """Return what a field holds: a text, a list, or a mapping's keys."""
        if isinstance(node, yaml.MappingNode):
            return [self.text(key) for key, _ in node.value]
        return self.texts(node)

    def texts(self, node: yaml.Node) -> list[str]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [text for text in map(self.text, nodes) if text]

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.problem(node, "expected a text here; quote [ and {")
        return "" if node.value == "null" else " ".join(node.value.split())

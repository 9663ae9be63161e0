r"""A Python-Markdown extension: LaTeX in Markdown becomes MathML.

It knows `$...$`, `$$...$$`, `\(...\)`, `\[...\]` and LaTeX's equation environments
standing by themselves.

Markdown knows nothing of LaTeX: it would read `_` as emphasis and `\\` as an escape.
So formulas are taken out before Markdown sees the text, each leaving a token, and
put back as MathML when it is done.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor

from facing.text.mathml import MathError, to_mathml

# What to look for, the first match winning. Code, tags and link targets come
# first: a dollar in them is a dollar. Then what is escaped, then formulas.
#
# Inline math follows Pandoc's rule: a non-space character right after the
# opening dollar, another right before the closing one, and no digit behind
# it. So `$5 and $6`, and a lone `$HOME`, stay text. Neither does a formula
# reach into a code span.
_PATTERN = re.compile(
    r"""
    (?P<skip>
        ^[ ]*(?P<fence>`{3,}|~{3,}).*?(?:^[ ]*(?P=fence)[`~]*[ ]*$|\Z)
      | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n[ ]*\n).)+?(?<!`)(?P=ticks)(?!`)
      | <!--.*?-->
      | </?[a-zA-Z][\w-]*
        (?:\s+[\w:-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'>]+))?)*\s*/?>
      | <[a-z]+:[^>\s]*>
      | \]\([^)\s]*\)
      | \\\\(?=\$)
    )
  | \\(?P<dollar>\$)
  | (?:
        \$\$(?P<display>(?:(?!\$\$|\n[ \t]*\n).)+?)\$\$
      | ^[ \t]*\$\$[ \t]*\n(?P<fenced>(?:(?!\$\$).)+?)
        \n[ \t]*\$\$[ \t]*(?=$|\{:?[ ]*[#.][^{}\n]*\}[ \t]*$)
      | \\\[(?P<bracket>.+?)\\\]
      | (?P<environment>
            \\begin\{(?P<name>
                align|alignat|cases|eqnarray|equation|flalign|gather
              | multline|aligned|gathered|split|[bBpvV]?matrix|array)
            (?P<star>\*?)\}.*?\\end\{(?P=name)(?P=star)\}
        )
    )
    (?P<behind>
        [ \t]*\{:?[ ]*(?P<beside>[#.][^{}\n]*)\}
      | [ \t]*\n[ \t]*
        \{(?P<below>\#[^\s{}]+(?:[ ]\.notation)?|\.notation)\}[ \t]*$
    )?
  | (?P<unclosed>\$\$|\\begin\{(?:align|equation|gather|multline)\*?\})
  | \\\((?P<paren>.+?)\\\)
  | \$(?!\s)(?P<inline>(?:\\.|\n(?![ \t]*\n)|[^$`\\\n])+?)(?<!\s)\$(?!\d)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Formula:
    """A formula taken out of the text: its source, and where it stood.

    So is an escaped dollar, which becomes `$`, and what is opened and never closed,
    which is an error: these have no `latex`.
    """

    source: str
    line: int
    latex: str | None = None
    display: bool = False
    attributes: str = ""  # what stands in braces behind: `#name`
    behind: str = ""  # the same, as it was written


# What somebody else put into the text to find a place again, as `notes` does for
# lines. In a formula it would be read as LaTeX, so it is moved before it.
MARK = re.compile("\ue002\\d+\ue003")


def _token(n: int) -> str:
    # Characters for private use: no text has them, and Markdown leaves them.
    return f"\ue000{n}\ue001"


def _read_match(match: re.Match[str], line: int) -> Formula | None:
    part = {
        name: text and MARK.sub("", text) for name, text in match.groupdict().items()
    }
    source = MARK.sub("", match[0])
    if part["skip"]:
        return None
    if part["dollar"] or part["unclosed"]:
        return Formula(source, line)
    braces = part["beside"] or part["below"] or "", part["behind"] or ""
    for name in ("environment", "display", "fenced", "bracket"):
        if part[name] is not None:
            return Formula(source, line, part[name], True, *braces)
    for name in ("paren", "inline"):
        if part[name] is not None:
            return Formula(source, line, part[name])
    raise AssertionError(source)


class _ExtractFormulas(Preprocessor):
    def __init__(self, md: Markdown, math: "MathExtension") -> None:
        super().__init__(md)
        self.math = math

    def run(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines)

        def extract(match: re.Match[str]) -> str:
            line = 1 + text.count("\n", 0, match.start())
            formula = _read_match(match, line)
            if formula is None:
                return match[0]
            behind = ""
            if not self.math.frame and formula.behind:
                # If nobody asks for names, braces are left to Markdown.
                behind = formula.behind
                formula = replace(formula, source=formula.source[: -len(behind)])
            self.math.formulas.append(formula)
            marks = "".join(MARK.findall(match[0]))
            return marks + _token(len(self.math.formulas) - 1) + behind

        return _PATTERN.sub(extract, text).split("\n")


# Tokens in code, or in an attribute such as an image's text, are no
# formulas: Markdown decides what is code, also by indentation.
_IN_HTML = re.compile(
    r"(?P<verbatim><(?P<tag>pre|code)\b.*?</(?P=tag)>|<[a-zA-Z][^<>]*>)"
    "|\ue000(?P<n>\\d+)\ue001",
    re.DOTALL,
)


class _InsertFormulas(Postprocessor):
    def __init__(self, md: Markdown, math: "MathExtension") -> None:
        super().__init__(md)
        self.math = math

    def run(self, text: str) -> str:
        return _IN_HTML.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        if match["verbatim"]:
            return re.sub(
                "\ue000(\\d+)\ue001",
                lambda m: html.escape(self.math.formulas[int(m[1])].source),
                match[0],
            )
        return self.math.render(self.math.formulas[int(match["n"])])


class MathExtension(Extension):
    """Python-Markdown's extension: formulas to MathML.

    `report` is called with line and message of each formula that does not parse;
    its source is then shown in place. By default it raises. `attributes` are given
    to every formula, for instance to keep it out of a search index. `frame` is given
    each displayed formula and its HTML, and returns what shall be shown. `decorate`
    is given each formula's MathML and line, and returns it with what it adds.
    """

    def __init__(
        self,
        report: Callable[[int, str], None] | None = None,
        attributes: str = "",
        frame: Callable[[Formula, str], str] | None = None,
        decorate: Callable[[str, int], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.report = report or _raise
        self.attributes = attributes
        self.frame = frame
        self.decorate = decorate
        self.formulas: list[Formula] = []

    def extendMarkdown(self, md: Markdown) -> None:
        """Register before fenced code (25), and after everything else."""
        md.preprocessors.register(_ExtractFormulas(md, self), "math", 27)
        md.postprocessors.register(_InsertFormulas(md, self), "math", -1)

    def render(self, formula: Formula) -> str:
        """Return the HTML that takes a formula's place."""
        if formula.source == r"\$":
            return "$"
        try:
            if formula.latex is None:
                raise MathError(f"{formula.source} is opened and never closed")
            mathml = to_mathml(formula.latex, formula.display)
        except MathError as error:
            self.report(formula.line, str(error))
            return f"<code>{html.escape(formula.source)}</code>"
        if self.attributes:
            mathml = mathml.replace("<math", f"<math {self.attributes}", 1)
        if self.decorate:
            mathml = self.decorate(mathml, formula.line)
        if not formula.display:
            return mathml
        block = f'<span class="math-block">{mathml}</span>'
        return self.frame(formula, block) if self.frame else block


def _raise(line: int, message: str) -> None:
    raise MathError(f"line {line}: {message}")


def makeExtension(**kwargs: Any) -> MathExtension:
    """Return the extension, for Python-Markdown to load it by name."""
    return MathExtension(**kwargs)

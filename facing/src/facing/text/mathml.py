"""Convert LaTeX to MathML, when a page is built.

Browsers draw MathML without a script, and screen readers read it out. The work is
done by math-core; this module bridges the gap to the LaTeX that people write in
docstrings.
"""

import re
from functools import cache

import webcolors
from math_core import LatexError, LatexToMathML

_CONVERTER = LatexToMathML(macros={"pmb": r"\boldsymbol{#1}"}, fancy_error=False)


class MathError(ValueError):
    """A formula that is not LaTeX, with the reason."""


@cache
def to_mathml(latex: str, display: bool) -> str:
    """Return a formula as a `<math>` element.

    Raises `MathError` if the formula does not parse.
    """
    try:
        mathml: str = _CONVERTER.convert_with_local_state(
            _convert_css_colours(_drop_numbers(latex)), displaystyle=display
        )
    except LatexError as error:
        reason = re.sub(r"^\d+:\s*", "", str(error).strip())
        raise MathError(f"{reason} In: {latex.strip()}") from None
    return mathml


# Numbers that start again at (1) in every formula help nobody, and numbered
# environments are as wide as the page: on a phone, formula and number
# collide. Unless the author set tags, they become their unnumbered kin,
# which are as wide as what they hold. This also covers environments that
# math-core does not know.
_KIN = {
    **dict.fromkeys(["align", "eqnarray", "flalign", "split"], "aligned"),
    **dict.fromkeys(["equation", "gather", "multline"], "gathered"),
    "alignat": "aligned",
}
_NUMBERED = re.compile(
    r"\\(begin|end)\{(" + "|".join(_KIN) + r")\*?\}"
    r"(?:(?<=alignat\})\{\d+\}|(?<=alignat\*\})\{\d+\})?"
)


def _drop_numbers(latex: str) -> str:
    if r"\tag" in latex:
        return latex
    latex = re.sub(r"\\(label\{[^}]*\}|nonumber|notag)", "", latex)
    return _NUMBERED.sub(lambda m: rf"\{m[1]}{{{_KIN[m[2]]}}}", latex)


# Many docstrings were written for renderers that take CSS names and hex
# values for colours. math-core takes LaTeX's names, and hex in one form.
_COLOUR = re.compile(r"\\(color|textcolor)\s*\{\s*([A-Za-z]+|#\w+)\s*\}(\s*\{)?")


def _convert_css_colours(latex: str) -> str:
    def to_html_model(match: re.Match[str]) -> str:
        command, name, brace = match.groups()
        try:
            code = webcolors.normalize_hex(
                name if name[0] == "#" else webcolors.name_to_hex(name)
            )
        except ValueError:
            return match[0]
        colour = rf"\color[HTML]{{{code[1:].upper()}}}"
        if command == "color":
            return colour + (brace or "")
        return "{" + colour if brace else match[0]

    return _COLOUR.sub(to_html_model, latex)

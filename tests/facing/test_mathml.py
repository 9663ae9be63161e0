"""LaTeX to MathML, where people write more than math-core knows."""

import pytest
from facing.text.mathml import MathError, to_mathml


def test_css_colours_and_bold_symbols_are_understood():
    assert "color:#90EE90" in to_mathml(r"\textcolor{lightgreen}{x}", False)
    assert "color:#FF0000" in to_mathml(r"\color{#f00}{x}", False)
    assert to_mathml(r"\pmb{x}", False) == to_mathml(r"\boldsymbol{x}", False)
    with pytest.raises(MathError, match="color"):
        to_mathml(r"\textcolor{nosuchcolour}{x}", False)


def test_environments_are_not_numbered_unless_tagged():
    assert "(1)" not in to_mathml(r"\begin{align}a&=b\end{align}", True)
    assert "(7)" in to_mathml(r"\begin{align}a&=b\tag{7}\end{align}", True)

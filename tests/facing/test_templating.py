"""Templates: what they are given is text, unless they say that it is HTML."""

import pytest
from facing.templating import render
from jinja2 import UndefinedError


def test_text_is_escaped_as_the_standard_library_does():
    link = render("link.html", address="\"'<&>", text="<b>x</b>")
    assert link == '<a href="&quot;&#x27;&lt;&amp;&gt;"><b>x</b></a>'


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        render("link.html", text="x")

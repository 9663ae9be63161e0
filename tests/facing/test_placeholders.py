"""Placeholders: one grammar for what a page of prose leaves to the build."""

import pytest
from facing.placeholders import fill, kinds_in


def show(*words: str) -> str:
    return f"[{'|'.join(words)}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<!-- show -->", "[]"),
        ("<!-- show: a -->", "[a]"),
        ("<!-- show: speed-2, one word, b_c -->", "[speed-2|one word|b_c]"),
        ("<!--show:a,b-->", "[a|b]"),
        ("<!--  show :  a ,  b  -->", "[a|b]"),
        ("x <!-- show --> y\n<!-- show: b -->\n", "x [] y\n[b]\n"),
    ],
)
def test_a_placeholder_is_replaced_by_what_its_kind_makes_of_its_words(text, expected):
    assert fill(text, {"show": show}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<!-- other -->",
        "<!-- other: a -->",
        "<!-- show: -->",
        "<!-- show: a, -->",
        "<!-- show: a.b -->",
        "<!-- show this and that -->",
        "<!-- show",
        "show",
    ],
)
def test_any_other_comment_stays(text):
    assert fill(text, {"show": show}) == text


def test_a_placeholder_in_what_was_put_in_stays():
    assert fill("<!-- show -->", {"show": lambda: "<!-- show -->"}) == "<!-- show -->"


def test_a_kind_may_have_hyphens_and_the_result_may_have_backslashes():
    assert fill("<!-- a-b: c -->", {"a-b": lambda word: rf"\1{word}"}) == r"\1c"


def test_the_kinds_of_a_text_are_known():
    text = "<!-- a --> <!-- b: c --> <!-- d e --> <!-- a: f -->"
    assert kinds_in(text) == {"a", "b"}

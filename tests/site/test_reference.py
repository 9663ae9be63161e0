"""The quick reference and the start page's figure, made at build."""

import re

import pytest
from helpers.paths import ROOT

import labml_bcn
from website import reference

NAV = (ROOT / "mkdocs.yml").read_text("utf-8")
PAGE = reference.markdown(ROOT / "labml_bcn")


ALIAS = "FusedBatchChannelNorm"


def test_another_name_leads_to_the_name():
    section = PAGE.split(f"## `{ALIAS}`")[1].split("\n## ")[0]
    assert "Another name of [`BatchChannelNorm`](#BatchChannelNorm)" in section
    assert labml_bcn.FusedBatchChannelNorm is labml_bcn.BatchChannelNorm


def test_a_constant_is_shown_with_what_it_is_for():
    section = PAGE.split("## `NORMS`")[1].split("\n## ")[0]
    assert "NORMS = (BatchChannelNorm, " in section
    assert "`isinstance`" in section


@pytest.mark.parametrize("name", sorted({*labml_bcn.__all__} - {ALIAS, "NORMS"}))
def test_every_public_name_has_signature_arguments_and_link(name):
    section = re.search(rf"^## `{name}`.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    text = section[0]
    assert f"{name}(" in text
    assert "**Arguments**" in text
    assert "**Raises**" in text
    page = re.search(rf"\((labml_bcn/\w+\.py)#{name}\)", text)
    # Ordinary modules have no page that could be led to.
    assert (page and page[1] in NAV) or re.search(
        r"^From `labml_bcn/\w+\.py`", text, re.M
    )


def test_defaults_stand_in_the_signature():
    flat = re.sub(r"\(?\s+", lambda m: "(" * ("(" in m[0]) or " ", PAGE)
    assert "ChannelNorm(channels, groups, eps=1e-5, affine=True, *" in flat
    assert 'variance_around="batch_mean"' in PAGE

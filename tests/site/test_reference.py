"""The quick reference and the start page's figure, made at build."""

import re

import pytest
from helpers.paths import ROOT

import labml_bcn
from website import reference

PAGE = reference.markdown(ROOT / "labml_bcn")


ALIAS = "FusedBatchChannelNorm"


def test_another_name_leads_to_the_name():
    section = PAGE.split(f"## `{ALIAS}`")[1].split("\n## ")[0]
    assert "Another name of [`BatchChannelNorm`](#BatchChannelNorm)" in section
    assert labml_bcn.FusedBatchChannelNorm is labml_bcn.BatchChannelNorm


@pytest.mark.parametrize("name", sorted({*labml_bcn.__all__} - {ALIAS}))
def test_every_public_name_has_signature_arguments_and_link(name):
    section = re.search(rf"^## `{name}`.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    text = section[0]
    assert f"{name}(" in text
    assert "**Arguments**" in text
    assert "**Raises**" in text
    assert re.search(rf"\(labml_bcn/\w+\.py#{name}\)", text)


def test_defaults_stand_in_the_signature():
    flat = re.sub(r"\(?\s+", lambda m: "(" * ("(" in m[0]) or " ", PAGE)
    assert "ChannelNorm(channels, groups, eps=1e-5, affine=True, *" in flat
    assert 'variance_around="batch_mean"' in PAGE

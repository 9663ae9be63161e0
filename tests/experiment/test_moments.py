"""What single images give to the statistics of channels, as it is recorded."""

import json
import re

import pytest
import torch
from helpers.paths import ROOT

from labml_bcn.experiment import cifar10, moments

RECORD = ROOT / "docs" / "scatter" / "moments.json"


def require_provenance(record, path):
    """Fail if it does not say what made it, and of what."""
    assert record["command"].startswith(
        f"python -m labml_bcn.experiment.moments {path}"
    )
    assert re.fullmatch("[0-9a-f]{40}(-changed)?", record["commit"])
    assert {"time", "torch", "labml_bcn", "cpu"} <= set(record["surroundings"])
    assert re.fullmatch("[0-9a-f]{64}", record["data"]["digest"])
    assert record["network"] == moments.NETWORK


def require_moments(record):
    """Fail if numbers are missing, or cannot be the moments of an image."""
    assert len({each["channel"] for each in record["channels"]}) == moments.CHANNELS
    for each in record["channels"]:
        mean, square = (torch.tensor(each[k]) for k in ("mean", "mean_square"))
        assert len(mean) == len(square) == moments.IMAGES
        assert (square - mean.square() >= 0).all()


@pytest.mark.slow
def test_the_record_can_be_made_anew_from_the_stand_in(tmp_path):
    path = tmp_path / "new" / "moments.json"
    assert moments.main([str(path), "--stand-in", "--images", "8"]) == 0
    record = json.loads(path.read_text())
    require_provenance(record, path)
    require_moments(record)
    assert record["command"].endswith("--stand-in --images 8")
    assert record["data"]["source"] == cifar10.STAND_IN
    assert record["training"]["images"] == 8


def test_the_record_says_what_made_it_and_is_of_real_images():
    record = json.loads(RECORD.read_text())
    require_provenance(record, RECORD.relative_to(ROOT))
    require_moments(record)
    assert "CIFAR-10" in record["data"]["source"]
    assert record["training"] == moments.TRAINING


def test_the_record_is_what_its_filters_see_in_the_images(real_images):
    record, data = json.loads(RECORD.read_text()), cifar10.load(real_images)
    if data.digest != record["data"]["digest"]:
        pytest.skip("these are other images than those of the record")
    channels = record["channels"]
    weight = torch.tensor([each["weight"] for each in channels])
    bias = torch.tensor([each["bias"] for each in channels])
    x = moments.activations(data, weight, bias).double()
    for key, seen in (("mean", x), ("mean_square", x.square())):
        recorded = torch.tensor([each[key] for each in channels], dtype=x.dtype)
        torch.testing.assert_close(seen.mean((2, 3)).T, recorded, rtol=0, atol=2e-6)


def test_channels_are_chosen_by_what_lies_between_images():
    # Channel c is its image's own height, c times as much as what lies within.
    heights, within = torch.randn(64, 1, 1, 1), torch.randn(64, 1, 4, 4)
    x = heights * torch.tensor([3.0, 0, 9, 1, 2]).view(5, 1, 1) + within
    assert moments.choose(x, 3) == [1, 4, 2]


def test_images_that_are_not_there_are_an_error_with_a_remedy(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        moments.main([str(tmp_path / "m.json"), "--data", str(tmp_path / "no")])
    assert "does not exist" in capsys.readouterr().err

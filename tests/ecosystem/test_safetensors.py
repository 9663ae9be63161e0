"""Networks kept as safetensors."""

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import every_network, images, train

safetensors = import_or_skip("safetensors.torch")

pytestmark = pytest.mark.usefixtures("one_thread")


@every_network
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.works_with(
    "save", "safetensors", "`save_model` and `load_model`, `save_file` and `load_file`"
)
def test_a_network_is_kept(build, layout, tmp_path):
    model, others = build(), [build(), build()]
    train(model)
    x = images()
    # Memory formats are not kept.
    safetensors.save_model(model.to(memory_format=layout), str(tmp_path / "model"))
    safetensors.load_model(others[0], tmp_path / "model")
    values = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.save_file(values, tmp_path / "values")
    others[1].load_state_dict(safetensors.load_file(tmp_path / "values"))
    for other in others:
        torch.testing.assert_close(other.eval()(x), model.eval()(x))
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key

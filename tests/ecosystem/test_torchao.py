"""Networks in int8, by torchao."""

import warnings

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import BUILD, images, train

from labml_bcn import bake

# PyTorch warns of what it does when it is imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ways = import_or_skip("torchao.quantization.pt2e.quantize_pt2e")
    quantizers = import_or_skip(
        "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
    )

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
    ),
]


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "deploy", "int8 (torchao)", "after `bake`: exported, calibrated, static"
)
def test_an_exported_baked_network_is_quantized(name):
    model = BUILD[name]()
    train(model)
    model, x = model.eval(), images(8)
    program = torch.export.export(bake(model, x), (x,)).module()
    quantizer = quantizers.X86InductorQuantizer()
    quantizer.set_global(quantizers.get_default_x86_inductor_quantization_config())
    prepared = ways.prepare_pt2e(program, quantizer)
    prepared(x)
    small = ways.convert_pt2e(prepared)
    targets = [str(node.target) for node in small.graph.nodes]
    assert sum("dequantize_per_channel" in each for each in targets) >= 3
    wanted = model(x)
    assert 0 < (small(x) - wanted).abs().max() < 0.05 * wanted.abs().max()

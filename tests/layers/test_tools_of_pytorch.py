"""What PyTorch's own tools make of the layers, or how they say that they cannot."""

import copy
import pickle

import pytest
import torch
from helpers.layers import MAKE, C, every_layer, inputs, make
from helpers.oracle import assert_close
from torch import nn

from labml_bcn import BatchNorm, WSConv1d, WSConv2d, WSConv3d

CONVOLUTIONS = (WSConv1d, WSConv2d, WSConv3d)
LAYERS = {
    **{name: lambda name=name: make(name) for name in MAKE},
    **{kind.__name__: lambda kind=kind: kind(4, 6, 3) for kind in CONVOLUTIONS},
}
every_kind = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)


class Inside(nn.Module):
    """A model that holds a layer in each of the ways that there are."""

    def __init__(self, layer):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.ReLU(), layer)])

    def forward(self, x):
        return self.blocks[0](x)


@every_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("around", [lambda layer: layer, nn.Sequential, Inside])
@pytest.mark.works_with(
    "deploy",
    "`torch.jit.script`",
    "a network as it is: an error that names the layer",
    know="Call `bake` first.",
)
def test_scripting_ends_in_an_error_that_names_the_layer_and_a_way(
    build, around, training
):
    layer = build().train(training)
    with pytest.raises(
        RuntimeError, match=r"torch\.jit\.script cannot compile"
    ) as info:
        torch.jit.script(around(layer))
    assert type(layer).__name__ in str(info.value)
    assert "labml_bcn.bake" in str(info.value)


# The tracer asks sizes what they are, and warns that it does.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_layer
@pytest.mark.parametrize("shape", [(2, C, 5), (2, C, 5, 4)], ids=str)
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.works_with(
    "deploy", "`torch.jit.trace`", "every layer as it is, in evaluation, at other sizes"
)
def test_traced_layers_compute_the_same_for_other_sizes(name, shape, gradient):
    layer = make(name)
    layer(inputs(*shape))
    layer.eval()
    x = inputs(*shape).requires_grad_(gradient)
    traced = torch.jit.trace(nn.Sequential(layer).eval(), (x,))
    other = inputs(3, C, *[s + 2 for s in shape[2:]])
    assert_close(traced(other), layer(other), 1e-5, 1e-5)
    assert_close(torch.jit.script(traced)(x), layer(x), 1e-5, 1e-5)
    assert_close(torch.jit.freeze(traced)(x), layer(x), 1e-5, 1e-5)


@every_layer
@pytest.mark.works_with(
    "deploy",
    "`torch.fx.symbolic_trace`",
    "a network as it is: an error that names `bake`",
    know="Call `bake` first.",
)
def test_what_torch_fx_passes_is_refused_with_a_way(name):
    with pytest.raises(TypeError, match=r"torch\.fx.*labml_bcn\.bake"):
        torch.fx.symbolic_trace(nn.Sequential(make(name)))


ARGUMENTS = {
    "BatchNorm": (8,),
    "EstimatedBatchNorm": (8,),
    "ChannelNorm": (8, 2),
    "BatchChannelNorm": (8, 2),
    "WSConv1d": (3, 4, 3),
    "WSConv2d": (3, 4, 3),
    "WSConv3d": (3, 4, 3),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.works_with("save", "`nn.utils.skip_init`", "every layer, filled by a load")
def test_skip_init_builds_without_storage_in_between(name):
    import labml_bcn

    kind = getattr(labml_bcn, name)
    layer = nn.utils.skip_init(kind, *ARGUMENTS[name])
    expected = kind(*ARGUMENTS[name])
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert not any(t.is_meta for t in layer.state_dict().values())
    layer.load_state_dict(expected.state_dict())
    x = torch.randn(2, ARGUMENTS[name][0], *[5] * int("12"["2d" in name]))
    if "3d" not in name:
        assert torch.equal(layer.eval()(x), expected.eval()(x))


@pytest.mark.works_with(
    "save",
    "`copy.deepcopy`, `pickle`",
    "with a `process_group`",
    know="A copy keeps the group, a file does not.",
)
def test_a_process_group_stays_where_the_process_is():
    # A file cannot hold it, and a copy cannot do without: an object takes its
    # place here that can be neither copied nor saved.
    layer = nn.Sequential(BatchNorm(C))
    group = layer[0].process_group = (i for i in range(3))
    for other in (copy.copy(layer[0]), copy.deepcopy(layer)[0]):
        assert other.process_group is group
    loaded = pickle.loads(pickle.dumps(layer))
    assert loaded[0].process_group is None
    x = inputs(2, C, 5)
    assert torch.equal(loaded.eval()(x), layer.eval()(x))


def test_a_shallow_copy_shares_its_tensors():
    layer = BatchNorm(C)
    other = copy.copy(layer)
    assert other.scale is layer.scale
    assert other.exp_mean is layer.exp_mean

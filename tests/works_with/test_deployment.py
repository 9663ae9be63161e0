"""What a network is handed to when it is trained."""

import copy
import io

import pytest
import torch
from helpers.networks import BUILD, images, train, worked
from helpers.oracle import assert_close
from torch import nn
from torch.ao.quantization import QConfigMapping, get_default_qconfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.export import Dim

from labml_bcn import bake

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(1, 16, 16), (3, 24, 12), (2, 9, 31)]
ANY_SIZE = ({0: Dim("batch"), 2: Dim("height", min=8), 3: Dim("width", min=8)},)


@pytest.fixture(params=BUILD)
def model(request):
    """A trained network, in evaluation."""
    model = BUILD[request.param]()
    train(model)
    return model.eval()


@pytest.fixture
def baked(model):
    return bake(model, images())


def assert_same_at_any_size(one, other, tolerance=1e-4):
    for count, height, width in SIZES:
        x = torch.randn(count, 3, height, width)
        assert_close(one(x), other(x), tolerance, tolerance)


@pytest.mark.works_with("deploy", "`bake`", "against the network, at other sizes")
def test_a_baked_network_is_the_network(model, baked):
    assert_same_at_any_size(baked, model)
    kinds = {type(m).__module__.partition(".")[0] for m in baked.modules()}
    assert "labml_bcn" not in kinds


@pytest.mark.slow
@pytest.mark.works_with(
    "deploy",
    "`torch.export`",
    "a network with dynamic batch, height and width; saved and loaded",
)
def test_a_network_is_exported_for_any_size(model):
    program = torch.export.export(model, (images(),), dynamic_shapes=ANY_SIZE)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert_same_at_any_size(torch.export.load(file).module(), model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.works_with(
    "deploy",
    "AOTInductor",
    "a network as it is, compiled to a package for any batch, height and width",
)
def test_a_network_is_compiled_ahead_of_time(tmp_path):
    model = worked()
    program = torch.export.export(model, (images(),), dynamic_shapes=ANY_SIZE)
    file = str(tmp_path / "it.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=file)
    assert_same_at_any_size(torch._inductor.aoti_load_package(file), model)


@pytest.mark.slow
@pytest.mark.works_with("deploy", "`torch.export`", "after `bake`")
def test_a_baked_network_is_exported_for_any_size(model, baked):
    program = torch.export.export(baked, (images(),), dynamic_shapes=ANY_SIZE)
    assert_same_at_any_size(program.module(), model)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.works_with(
    "deploy", "`torch.jit.trace`", "after `bake`: saved, loaded, frozen"
)
def test_a_baked_network_is_traced(model, baked):
    traced = torch.jit.trace(baked, images())
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert_same_at_any_size(torch.jit.load(file), model)
    assert_same_at_any_size(torch.jit.freeze(traced), model)


@pytest.mark.works_with("deploy", "`torch.jit.script`", "after `bake`")
def test_a_baked_network_is_scripted(model, baked):
    assert_same_at_any_size(torch.jit.script(baked), model)


@pytest.mark.works_with("deploy", "`torch.fx.symbolic_trace`", "after `bake`")
def test_a_baked_network_is_traced_symbolically(model, baked):
    assert_same_at_any_size(torch.fx.symbolic_trace(baked), model)


@pytest.mark.slow
@pytest.mark.works_with("deploy", "`torch.compile`", "after `bake`, in one graph")
def test_a_baked_network_compiles_in_one_graph(model, baked):
    torch.compiler.reset()
    x = images()
    assert_close(torch.compile(baked, fullgraph=True)(x), model(x), 1e-4, 1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.works_with(
    "deploy", "int8 (`torch.ao.quantization`)", "after `bake`: static, convolutions"
)
def test_a_baked_network_is_quantized(model, baked):
    x = images(8)
    mapping = QConfigMapping().set_global(get_default_qconfig("x86"))
    prepared = prepare_fx(copy.deepcopy(baked), mapping, (x,))
    prepared(x)
    small = convert_fx(prepared)
    code = str(small.graph)
    assert "quantize_per_tensor" in code
    modules = {type(m).__module__ for m in small.modules()}
    assert any("quantized" in name for name in modules)
    wanted = model(x)
    assert (small(x) - wanted).abs().max() < 0.15 * wanted.abs().max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.works_with(
    "deploy", "int8 (`torch.ao.quantization`)", "linear layers alone, as it is"
)
def test_the_linear_layers_alone_are_quantized():
    model, x = worked(), images()
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert_close(small(x), model(x), 0.05, 0.05)


@pytest.mark.works_with("deploy", "`torch.inference_mode`", "a trained network")
def test_inference_mode_gives_the_same(model):
    x = images()
    with torch.inference_mode():
        y = model(x)
    assert_close(y.clone(), model(x), 1e-6, 1e-6)

"""Networks as ONNX, checked in ONNX Runtime."""

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import BUILD, images, train
from helpers.oracle import assert_close
from torch.export import Dim

onnx = import_or_skip("onnx")
onnxruntime = import_or_skip("onnxruntime")
import_or_skip("onnxruntime.quantization")
import_or_skip("onnxscript")

from labml_bcn import bake  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    # The exporters and what they import speak of their own future.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::UserWarning",
        "ignore::torch.jit.TracerWarning",
    ),
]

SIZES = [(1, 16, 16), (3, 24, 12), (2, 9, 31)]
ANY_SIZE = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


@pytest.fixture(params=BUILD)
def model(request):
    """A trained network, in evaluation."""
    model = BUILD[request.param]()
    train(model)
    return model.eval()


def session_of(file):
    """ONNX Runtime, with a file that is valid."""
    onnx.checker.check_model(onnx.load(file))
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def assert_same(session, model, sizes=SIZES, tolerance=1e-4):
    (name,) = (each.name for each in session.get_inputs())
    for count, height, width in sizes:
        x = torch.randn(count, 3, height, width)
        (y,) = session.run(None, {name: x.numpy()})
        assert_close(torch.from_numpy(y), model(x), tolerance, tolerance)


def exported(model, file, **options):
    """The network as the dynamo exporter writes it, for any size."""
    torch.onnx.export(
        *(model, (images(),), str(file)),
        dynamic_shapes=(ANY_SIZE,),
        dynamo=True,
        verbose=False,
        **options,
    )
    return session_of(file)


@pytest.mark.works_with(
    "deploy",
    "ONNX (dynamo) in `onnxruntime`",
    "a network as it is, with dynamic batch, height and width",
)
def test_a_network_is_the_same_in_onnx_runtime(model, tmp_path):
    assert_same(exported(model, tmp_path / "it.onnx"), model)


@pytest.mark.works_with(
    "deploy",
    "ONNX (dynamo) in `onnxruntime`",
    "after `bake`, with dynamic batch, height and width",
)
def test_a_baked_network_is_the_same_in_onnx_runtime(model, tmp_path):
    baked = bake(model, images())
    session = exported(baked, tmp_path / "it.onnx")
    assert_same(session, model)
    nodes = [node.op_type for node in onnx.load(tmp_path / "it.onnx").graph.node]
    assert nodes.count("Conv") == 3
    assert "BatchNormalization" not in nodes


@pytest.mark.works_with(
    "deploy",
    "ONNX (legacy exporter) in `onnxruntime`",
    "after `bake`, with dynamic batch, height and width",
)
def test_the_legacy_exporter_takes_a_baked_network(model, tmp_path):
    file = tmp_path / "it.onnx"
    axes = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        *(bake(model, images()), (images(),), str(file)),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": axes, "y": {0: "batch"}},
        dynamo=False,
    )
    assert_same(session_of(file), model)


class Images(onnxruntime.quantization.CalibrationDataReader):
    """Some batches to measure ranges on."""

    def __init__(self, name, batches):
        self.batches = iter([{name: x.numpy()} for x in batches])

    def get_next(self):
        return next(self.batches, None)


@pytest.mark.works_with(
    "deploy", "int8 (`onnxruntime.quantization`)", "after `bake`: static, calibrated"
)
def test_onnx_runtime_quantizes_a_baked_network(model, tmp_path):
    file, small = tmp_path / "it.onnx", tmp_path / "small.onnx"
    session = exported(bake(model, images()), file)
    name, x = session.get_inputs()[0].name, images(8)
    onnxruntime.quantization.quantize_static(file, small, Images(name, [x]))
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    (y,) = session_of(small).run(None, {name: x.numpy()})
    wanted = model(x)
    assert (torch.from_numpy(y) - wanted).abs().max() < 0.15 * wanted.abs().max()

"""Ways to keep a network, and to make it without its values."""

import copy
import io
import pickle

import pytest
import torch
from helpers.networks import built, every_network, images, train
from helpers.oracle import assert_close
from torch.distributed import checkpoint as dcp

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained(request):
    """A network whose values are no defaults."""
    model = request.param()
    train(model)
    return model.eval()


every_trained = pytest.mark.parametrize(
    "trained", every_network.args[1], ids=every_network.kwargs["ids"], indirect=True
)


def assert_same(one, other):
    """Both compute the same, in evaluation and in training."""
    x = images()
    assert torch.equal(one.eval()(x), other.eval()(x))
    assert torch.equal(one.train()(x), other.train()(x))
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@every_trained
@pytest.mark.works_with("save", "`copy.deepcopy`, `pickle`", "a trained network")
def test_a_network_is_copied_and_pickled(trained):
    assert_same(copy.deepcopy(trained), trained)
    assert_same(pickle.loads(pickle.dumps(trained)), trained)


@every_network
@pytest.mark.works_with(
    "save",
    "`torch.save`, `torch.load`",
    "a state dict with `weights_only`, `mmap` and `assign`",
)
@pytest.mark.parametrize("options", [{}, {"mmap": True}], ids=["read", "mapped"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_saved_state_dict_loads(build, options, assign, tmp_path):
    model, other = build(), build()
    train(model)
    torch.save(model.state_dict(), tmp_path / "it.pt")
    values = torch.load(tmp_path / "it.pt", weights_only=True, **options)
    other.load_state_dict(values, strict=True, assign=assign)
    assert_same(other, model)


@every_trained
@pytest.mark.works_with("save", "`torch.save`, `torch.load`", "a whole module")
def test_a_whole_module_is_saved(trained):
    file = io.BytesIO()
    torch.save(trained, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=False), trained)


@every_network
@pytest.mark.works_with(
    "save",
    "the meta device",
    "`to_empty` and a load, or a load with `assign`",
    know="`to_empty` leaves statistics without values: load them.",
)
@pytest.mark.parametrize("assign", [False, True])
def test_a_network_is_made_without_storage_and_filled_later(build, assign):
    model = build()
    train(model)
    other = built().to("meta") if build is built else copy.deepcopy(model).to("meta")
    assert all(value.is_meta for value in other.state_dict().values())
    if not assign:
        other.to_empty(device="cpu")
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
    assert_same(other, model)


@every_network
@pytest.mark.works_with(
    "save", "`torch.distributed.checkpoint`", "a network with its optimizer"
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_distributed_checkpoint_is_saved_and_loaded(build, tmp_path):
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, other = build(), build()
    optimizers = [torch.optim.AdamW(each.parameters()) for each in (model, other)]
    train(model, 2, optimizers[0])
    kept, values = (
        dict(zip(("model", "optimizer"), get_state_dict(*each), strict=True))
        for each in zip((model, other), optimizers, strict=True)
    )
    dcp.save(kept, checkpoint_id=tmp_path)
    dcp.load(values, checkpoint_id=tmp_path)
    set_state_dict(
        *(other, optimizers[1]),
        model_state_dict=values["model"],
        optim_state_dict=values["optimizer"],
    )
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    x = images()
    assert_close(other(x), model(x))

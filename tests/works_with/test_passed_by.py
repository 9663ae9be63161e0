"""Functions of others that pass our layers by, and what to call instead.

Each test shows both: what theirs does here, and what ours does.
"""

import copy

import pytest
import torch
import torch.distributed as dist
from helpers.networks import (
    BUILD,
    built,
    every_network,
    images,
    statistics_of,
    train,
)
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim import swa_utils

from labml_bcn import (
    NORMS,
    WSConv2d,
    bake,
    freeze_statistics,
    parameter_groups,
    share_statistics,
    update_statistics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_unchanged(model, before):
    for key, value in statistics_of(model).items():
        assert torch.equal(value, before[key]), key


@every_network
@pytest.mark.works_with(
    "instead",
    "`swa_utils.update_bn(batches, model)`",
    "leaves every statistic as it was",
    know="`update_statistics(model, batches)`",
)
def test_update_bn_updates_nothing(build):
    model, batches = build(), [images(3) for _ in range(4)]
    train(model)
    before = statistics_of(model)
    swa_utils.update_bn(batches, model)
    assert_unchanged(model, before)
    update_statistics(model, batches)
    first = next(iter(statistics_of(model).values()))
    seen = torch.stack([model[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    assert_close(first, seen.detach(), 1e-4, 1e-5)


@every_network
@pytest.mark.works_with(
    "instead",
    "`isinstance(m, _BatchNorm)`, to freeze",
    "is true of no module",
    know="`freeze_statistics(model)`, or `isinstance(m, NORMS)` in a loop of your own",
)
def test_no_norm_is_one_of_pytorchs(build):
    model = build()
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    assert len(norms) >= 3
    assert not [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = statistics_of(model)
    freeze_statistics(model)
    train(model.train())
    assert_unchanged(model, before)


def statistics_of_each_way(rank, name):
    """What a process has learned from an image of its own."""
    torch.manual_seed(1)
    model = BUILD[name]()
    shared = copy.deepcopy(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model, dist.group.WORLD)
    share_statistics(shared, dist.group.WORLD)
    x = images(2)[rank : rank + 1]
    # On a CPU, a SyncBatchNorm would refuse the input.
    model(x), shared(x)
    return [statistics_of(model), statistics_of(shared)]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "instead",
    "`SyncBatchNorm.convert_sync_batchnorm(model)`",
    "converts nothing: each process keeps statistics of its own",
    know="`share_statistics(model, process_group)`",
)
def test_convert_sync_batchnorm_converts_nothing(name):
    (own, shared), (own_there, shared_there) = run_in_group(
        statistics_of_each_way, 2, name
    )
    for key, value in own.items():
        assert not torch.equal(own_there[key], value), key
        assert_close(shared_there[key], shared[key], 1e-6, 1e-6)


NORMS_OF_TORCH = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@every_network
@pytest.mark.works_with(
    "instead",
    "weight-decay groups by PyTorch's norm classes",
    "decay every scale and shift",
    know="`parameter_groups(model, weight_decay)`",
)
def test_a_rule_by_pytorchs_classes_exempts_no_norm(build):
    model = build()
    found = [m for m in model.modules() if isinstance(m, NORMS_OF_TORCH)]
    assert not found
    decayed, exempt = parameter_groups(model, 0.05)
    ours = {p for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    assert ours <= set(exempt["params"])
    assert {model[0].weight, model[6].weight} <= set(decayed["params"])
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05))
    train(model, 1, optimizer)


@every_network
@pytest.mark.works_with(
    "train", "weight-decay groups by `p.ndim`", "exempt scales, shifts and biases"
)
def test_a_rule_by_dimensions_exempts_every_norm(build):
    model = build()
    exempt = {p for p in model.parameters() if p.ndim <= 1}
    assert exempt == set(parameter_groups(model, 0.05)[1]["params"])


@pytest.mark.works_with(
    "instead",
    "`fuse_conv_bn_eval(conv, bn)` on a `WSConv2d`",
    "would fold into a weight that is standardized once more, and ends in an error",
    know="`bake(model)`",
)
def test_no_batch_norm_is_folded_into_a_standardized_weight():
    model = nn.Sequential(WSConv2d(3, 8, 3), nn.BatchNorm2d(8))
    for _ in range(3):
        model(3 * images() + 1)
    model.eval()
    x = images()
    with pytest.raises(TypeError, match=r"labml_bcn\.bake"):
        fuse_conv_bn_eval(*model)
    assert_close(bake(model)(x), model(x), 1e-4, 1e-4)


@every_network
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.works_with(
    "instead",
    "`torch.ao.quantization.fuse_modules`",
    "knows no way to fuse the two, and ends in an error",
    know="`bake(model)`",
)
def test_pytorch_has_no_way_to_fuse_them(build):
    model, x = build().eval(), images()
    with pytest.raises(AssertionError, match="did not find fuser method"):
        torch.ao.quantization.fuse_modules(model, [["0", "1"]])
    assert_close(bake(model, x)(x), model(x), 1e-4, 1e-4)


@every_network
@pytest.mark.works_with(
    "instead",
    "`torch.func.replace_all_batch_norm_modules_`",
    "replaces nothing",
    know="nothing: `vmap` takes the layers as they are",
)
def test_no_norm_is_replaced_for_vmap(build):
    model = build()
    kinds = [type(module) for module in model.modules()]
    torch.func.replace_all_batch_norm_modules_(model)
    assert [type(module) for module in model.modules()] == kinds
    each = torch.func.vmap(model.eval())(images(3)[:, None])
    assert each.shape == (3, 1, 4)


def test_built_networks_have_every_norm():
    assert len(statistics_of(built())) == 6

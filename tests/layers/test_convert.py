"""`convert`: what becomes of each layer, and that nothing else changes."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    bake,
    convert,
    freeze_statistics,
    weight_standardization,
)
from labml_bcn.convert import Conversion

IMAGE = torch.randn(2, 3, 8, 8)


def network(norm=nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        norm(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 24, 3),
        norm(24),
        nn.ReLU(inplace=True),
        nn.Conv2d(24, 5, 1),
    )


def state_of(model: nn.Module):
    """Everything that must be as it was after a conversion that fails."""
    return [
        (
            name,
            type(module),
            id(module),
            {key: id(value) for key, value in module._parameters.items()},
            {
                key: (id(v), v.clone())
                for key, v in module._buffers.items()
                if v is not None
            },
            module.training,
            {k: len(v) for k, v in vars(module).items() if "hooks" in k},
        )
        for name, module in model.named_modules()
    ]


def assert_same_state(model, before):
    for old, new in zip(before, state_of(model), strict=True):
        assert old[:4] + old[5:] == new[:4] + new[5:]
        assert old[4].keys() == new[4].keys()
        for (number, value), (other, now) in zip(
            old[4].values(), new[4].values(), strict=True
        ):
            assert number == other
            assert torch.equal(value, now)


@pytest.mark.parametrize("example", [None, IMAGE, (IMAGE,), {"input": IMAGE}])
def test_norms_and_the_convolutions_before_them_are_changed(example):
    model = network()
    conversion = convert(model, example)
    assert isinstance(conversion, Conversion)
    assert conversion.model is model
    assert list(conversion.changed) == ["0", "1", "3", "4"]
    assert list(conversion.kept) == ["6"]
    assert [type(model[i]) for i in (0, 1, 3, 4, 6)] == [
        WSConv2d,
        BatchChannelNorm,
        WSConv2d,
        BatchChannelNorm,
        nn.Conv2d,
    ]
    model(IMAGE).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_report_is_a_table_in_the_order_of_the_network():
    conversion = convert(network())
    lines = str(conversion).splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["0", "1", "3", "4", "6"]
    assert "BatchNorm2d -> BatchChannelNorm, 8 groups of 2" in lines[1]
    assert "no norm behind it: the model's output reads its output" in lines[4]
    assert lines[5] == "4 changed, 1 kept"
    assert repr(conversion) == str(conversion)


def test_what_a_batch_norm_knows_is_taken_along():
    norm = nn.BatchNorm2d(6, eps=1e-3).double()
    norm(torch.randn(4, 6, 3, 3, dtype=torch.double) * 3 + 1)
    nn.init.normal_(norm.weight)
    norm.bias.requires_grad_(False)
    scale, shift, mean, var = (
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
    )
    new = convert(norm.eval(), groups=2).model
    assert new.batch_norm.scale is scale
    assert new.batch_norm.shift is shift
    assert not shift.requires_grad
    assert torch.equal(new.batch_norm.exp_mean, mean)
    assert torch.equal(new.batch_norm.exp_var, var)
    assert new.batch_norm.eps == new.channel_norm.eps == 1e-3
    assert new.batch_norm.momentum == 0.01
    assert new.batch_norm.variance_around == "running_mean"
    assert not any(module.training for module in new.modules())
    assert {p.dtype for p in new.parameters()} == {torch.double}
    # Its output is the batch norm's, normalized by groups.
    x = torch.randn(4, 6, 3, 3, dtype=torch.double)
    before = F.batch_norm(x, mean, var, scale, shift, eps=1e-3)
    torch.testing.assert_close(new(x), F.group_norm(before, 2, eps=1e-3))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_the_estimate_of_a_narrow_norm_is_wide(dtype):
    new = convert(nn.BatchNorm2d(4).to(dtype)).model
    assert {p.dtype for p in new.parameters()} == {dtype}
    assert {b.dtype for b in new.buffers()} == {torch.float32}


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_kept_one_by_one(training):
    model = network().train(not training)
    model[1].train(training)
    convert(model, IMAGE)
    assert model[1].batch_norm.training is model[1].channel_norm.training is training
    assert model[4].batch_norm.training is not training


def test_what_is_frozen_stays_frozen():
    model = network()
    model[1].requires_grad_(False)
    model[0].weight.requires_grad_(False)
    convert(model)
    assert not any(p.requires_grad for p in model[1].parameters())
    assert not model[0].weight.requires_grad
    assert all(p.requires_grad for p in model[4].parameters())


def test_an_optimizer_made_before_stays_valid():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    before = list(model.parameters())
    conversion = convert(model, IMAGE)
    own = {id(p) for p in model.parameters()}
    assert {id(p) for p in before} <= own
    new = own - {id(p) for p in before}
    assert {id(p) for p in conversion.new_parameters} == new
    optimizer.add_param_group({"params": conversion.new_parameters})
    values = [p.clone() for p in model.parameters()]
    model(IMAGE).square().sum().backward()
    optimizer.step()
    assert all(
        not torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True)
    )


def test_a_second_conversion_finds_nothing_left_to_do():
    model = network()
    convert(model, IMAGE)
    before = state_of(model)
    again = convert(model, IMAGE)
    assert not again.changed
    assert set(again.kept) == {"0", "1", "3", "4", "6"}
    assert_same_state(model, before)


def test_a_module_used_twice_is_changed_once_and_everywhere():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_1, self.conv_2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.norm_1 = self.norm_2 = nn.BatchNorm2d(8)
            # No module knows of these, but the network calls them.
            self.layers = [(self.conv_1, self.norm_1), (self.conv_2, self.norm_2)]

        def forward(self, x):
            for conv, norm in self.layers:
                x = norm(conv(x))
            return x

    model = Shared()
    conversion = convert(model, IMAGE)
    assert set(conversion.changed) == {"conv_1", "conv_2", "norm_1", "norm_2"}
    assert model.norm_1 is model.norm_2 is model.layers[0][1]
    assert isinstance(model.layers[1][1], BatchChannelNorm)
    assert len(conversion.new_parameters) == 2
    model(IMAGE)


def test_tied_weights_stay_tied():
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
    )
    model[2].weight = model[0].weight
    convert(model, IMAGE)
    assert model[2].weight is model[0].weight
    assert isinstance(model[2], WSConv2d)


def test_hooks_on_calls_are_kept_and_can_be_removed():
    model, calls = network(), []
    handles = [
        module.register_forward_hook(lambda m, *_: calls.append(type(m)))
        for module in model[:2]
    ]
    convert(model)
    model(IMAGE)
    assert calls == [WSConv2d, BatchChannelNorm]
    for handle in handles:
        handle.remove()
    model(IMAGE)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "register",
    [
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "register_load_state_dict_pre_hook",
        "register_load_state_dict_post_hook",
    ],
)
def test_a_norm_with_hooks_on_its_state_dict_is_refused_by_name(register):
    model = network()
    if not hasattr(model[4], register):
        pytest.skip(f"this PyTorch's modules have no {register}")
    getattr(model[4], register)(lambda *_: None)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"^4 has hooks on its state dict.*keep"):
        convert(model)
    assert_same_state(model, before)
    getattr(model[0], register)(lambda *_: None)
    assert "0" in convert(model, keep="4").changed


def test_attributes_that_others_have_set_are_kept():
    model = network()
    model[1].no_weight_decay = True
    convert(model)
    assert model[1].no_weight_decay
    assert model[1].groups == 8


def test_nothing_holds_on_to_the_old_layers():
    model = network()
    buffer = weakref.ref(model[1].num_batches_tracked)
    convert(model, IMAGE)
    gc.collect()
    assert buffer() is None


def test_a_converted_network_is_copied_and_pickled():
    model = network()
    convert(model, pretrained=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(IMAGE), copy.deepcopy(model)(IMAGE))
    fresh = network()
    convert(fresh, pretrained=True)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()(IMAGE), model.eval()(IMAGE))


# Norms


def test_every_batch_norm_is_changed():
    for kind, shape in (
        (nn.BatchNorm1d, (4, 8)),
        (nn.BatchNorm1d, (4, 8, 5)),
        (nn.BatchNorm2d, (4, 8, 5, 5)),
        (nn.BatchNorm3d, (1, 8, 2, 2, 2)),
        (nn.SyncBatchNorm, (4, 8, 5, 5)),
    ):
        x = torch.randn(shape)
        model = convert(kind(8), x).model
        assert isinstance(model, BatchChannelNorm)
        assert model(x).shape == shape


def test_without_scale_and_shift_there_are_none_after():
    conversion = convert(nn.BatchNorm2d(8, affine=False))
    assert not list(conversion.model.parameters())
    assert "no scale and shift" in conversion.changed[""]
    assert conversion.model(torch.randn(2, 8, 3, 3)).isfinite().all()


def test_without_statistics_the_estimate_starts_anew():
    conversion = convert(nn.BatchNorm2d(8, track_running_stats=False))
    assert "starts anew" in conversion.changed[""]
    assert torch.equal(conversion.model.batch_norm.exp_mean, torch.zeros(8))
    assert torch.equal(conversion.model.batch_norm.exp_var, torch.ones(8))


def test_a_cumulative_average_becomes_a_running_one():
    conversion = convert(nn.BatchNorm2d(8, momentum=None), momentum=0.2)
    assert "running average instead" in conversion.changed[""]
    assert conversion.model.batch_norm.momentum == 0.2


def test_a_batch_norm_with_a_scale_alone_stays_so():
    norm = nn.BatchNorm2d(8)
    norm.register_parameter("bias", None)
    model = convert(norm).model
    assert model.batch_norm.shift is None
    x = torch.randn(2, 8, 3, 3)
    assert model(x).isfinite().all()
    assert "batch_norm.shift" not in model.state_dict()


def test_sync_batch_norm_takes_its_processes_along(tmp_path):
    assert "none is initialized" in convert(nn.SyncBatchNorm(8)).changed[""]
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        pair = dist.new_group([0])
        for group, expected in ((None, dist.group.WORLD), (pair, pair)):
            model = convert(nn.SyncBatchNorm(8, process_group=group)).model
            assert model.batch_norm.process_group is expected
        assert convert(nn.BatchNorm2d(8)).model.batch_norm.process_group is None
    finally:
        dist.destroy_process_group()


class Renamed(nn.BatchNorm2d):
    """A batch norm with other defaults, as many have."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3)


class WithActivation(nn.BatchNorm2d):
    """A batch norm that does more than that."""

    def forward(self, x):
        return F.relu(super().forward(x))


def test_a_class_of_ones_own_is_changed_only_if_it_computes_the_same():
    assert isinstance(convert(Renamed(4)).model, BatchChannelNorm)
    conversion = convert(nn.Sequential(WithActivation(4)))
    assert (
        "WithActivation is a subclass with forward of its own" in conversion.kept["0"]
    )


def replace_forward(norm):
    norm.forward = lambda x: x
    return norm


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.LazyBatchNorm2d(), "lazy"),
        (nn.GroupNorm(2, 4), "GroupNorm does not look at the batch"),
        (nn.InstanceNorm2d(4), "InstanceNorm2d does not look at the batch"),
        (nn.LayerNorm(4), "LayerNorm does not look at the batch"),
        (BatchChannelNorm(4, 2), "one of ours"),
        (BatchNorm(4), "one of ours"),
        (ChannelNorm(4, 2), "one of ours"),
        (replace_forward(nn.BatchNorm2d(4)), "forward replaced"),
        (parametrizations.weight_norm(nn.BatchNorm2d(4)), "parametrized"),
        (nn.BatchNorm1d(1), "one value"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_norms_that_stay_are_listed_with_the_reason(norm, reason):
    kind = type(norm)
    conversion = convert(nn.Sequential(norm))
    assert reason in conversion.kept["0"]
    assert type(conversion.model[0]) is kind


def test_a_norm_whose_statistics_a_function_reads_is_kept():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x):
            norm = self.norm
            return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var)

    for example in (None, IMAGE):
        conversion = convert(Functional(), example)
        assert "batch_norm reads" in conversion.kept["norm"]
        assert list(conversion.changed) == ["conv"]


# Convolutions


def test_a_convolution_whose_weight_a_function_reads_is_kept():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24)

        def forward(self, x):
            code = F.relu(self.norm(self.conv(x)))
            return F.conv_transpose2d(code, self.conv.weight)

    for example in (None, IMAGE):
        conversion = convert(Tied(), example)
        assert "reads its weights" in conversion.kept["conv"]
        assert bake(conversion.model.eval(), example)(IMAGE).shape == IMAGE.shape


@pytest.mark.parametrize(
    ("conv", "norm", "kind"),
    [
        (nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), WSConv1d),
        (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), WSConv2d),
        (nn.Conv3d(8, 8, 3), nn.BatchNorm3d(8), WSConv3d),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_convolution_is_the_same_with_another_weight(conv, norm, kind, pretrained):
    x = torch.randn(2, 8, *[5] * (conv.weight.dim() - 2))
    conv, norm = copy.deepcopy((conv, norm))
    weight, expected = conv.weight, conv(x)
    if not pretrained:
        standard = weight_standardization(weight)
        expected = conv._conv_forward(x, standard, conv.bias)
    convert(nn.Sequential(conv, norm), x, pretrained=pretrained)
    assert type(conv) is kind
    assert conv.weight is weight
    assert (conv.gain is not None) == pretrained
    torch.testing.assert_close(conv(x), expected, rtol=1e-6, atol=1e-6)


def test_pretrained_leaves_a_gain_that_does_not_learn():
    model = network()
    weight = model[0].weight.detach().clone()
    convert(model, pretrained=True)
    conv = model[0]
    assert "gain" in dict(conv.named_buffers())
    torch.testing.assert_close(conv.standardized_weight(), weight)
    conv(IMAGE).square().sum().backward()
    assert conv.weight.grad.abs().sum() > 0


class MyConv(nn.Conv2d):
    """A class of its own."""


def pruned(conv):
    return prune.l1_unstructured(conv, "weight", 0.3)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.ConvTranspose2d(16, 16, 3), "transposed"),
        (nn.LazyConv2d(16, 3), "lazy"),
        (parametrizations.weight_norm(nn.Conv2d(16, 16, 3)), "parametrized"),
        (parametrizations.spectral_norm(nn.Conv2d(16, 16, 3)), "parametrized"),
        (pruned(nn.Conv2d(16, 16, 3)), "made by something else"),
        (MyConv(16, 16, 3), "MyConv is a subclass"),
        (nn.Conv2d(16, 16, 3, groups=16), "9 inputs a filter"),
        (nn.Conv2d(15, 16, 1), "15 inputs a filter"),
        (WSConv2d(16, 16, 3), "one of ours"),
    ],
    ids=lambda value: "" if isinstance(value, nn.Module) else value,
)
def test_convolutions_that_stay_are_listed_with_the_reason(conv, reason):
    kind = type(conv)
    conversion = convert(nn.Sequential(conv, nn.BatchNorm2d(16)))
    assert reason in conversion.kept["0"]
    assert type(conv) is kind
    assert list(conversion.changed) == ["1"]


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 16), nn.InstanceNorm2d(16)])
def test_any_norm_behind_a_convolution_will_do(norm):
    assert "0" in convert(nn.Sequential(nn.Conv2d(16, 16, 3), norm)).changed


class AffineAlone(nn.BatchNorm2d):
    """A frozen batch norm as detectors have it: it normalizes nothing."""

    def forward(self, x):
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def test_a_norm_with_a_forward_of_its_own_is_no_norm_behind_a_convolution():
    for example in (None, IMAGE):
        model = nn.Sequential(nn.Conv2d(3, 16, 3), AffineAlone(16))
        assert "AffineAlone reads" in convert(model, example).kept["0"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_complex_or_empty_weight_is_kept():
    for conv in (nn.Conv2d(3, 16, 3, dtype=torch.complex64), nn.Conv2d(16, 0, 3)):
        model = nn.Sequential(conv, nn.GroupNorm(1, 16))
        assert "complex, or empty" in convert(model).kept["0"]


def test_a_convolution_before_a_frozen_batch_norm_that_stays_is_kept():
    for mode in (True, False):
        model = network()
        model[1].train(mode)
        conversion = convert(model, IMAGE, keep="1")
        assert ("0" in conversion.changed) == mode
        assert "3" in conversion.changed
    assert "stays, and is in evaluation" in conversion.kept["0"]


def test_a_convolution_that_something_else_reads_is_kept():
    class Reads(nn.Module):
        def __init__(self, also):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
            self.also = also

        def forward(self, x):
            y = self.conv(x)
            return self.also(self.norm(y), y)

    for example in (None, IMAGE):
        conversion = convert(Reads(lambda a, b: a + b), example)
        assert "besides a norm: add reads" in conversion.kept["conv"]
        conversion = convert(Reads(lambda a, b: (a, b)), example)
        assert "the model's output" in conversion.kept["conv"]
        assert "conv" in convert(Reads(lambda a, b: a), example).changed


class PreActivation(nn.Module):
    """Adds to its input what a convolution without a norm behind it makes."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x):
        return x + self.conv(F.relu(self.norm(x)))


def test_standardizing_all_convolutions_would_blow_up_a_sum():
    features = torch.randn(2, 32, 8, 8)
    model = nn.Sequential(*[PreActivation() for _ in range(4)]).eval()
    naive = copy.deepcopy(model)
    for block in naive:
        standard = weight_standardization(block.conv.weight)
        block.conv.weight = nn.Parameter(standard.detach())
    before = model(features).std()
    assert naive(features).std() > 10 * before
    convert(model, features)
    assert model(features).std() < 2 * before


def test_what_cannot_be_known_is_kept():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
            self.unused = nn.Conv2d(3, 16, 3)

        def forward(self, x):
            return self.norm(self.conv(x if x.sum() < 1e9 else -x))

    conversion = convert(Decides())
    assert "pass an example" in conversion.kept["conv"]
    assert list(conversion.changed) == ["norm"]
    conversion = convert(Decides(), IMAGE)
    assert list(conversion.changed) == ["conv", "norm"]
    assert "did not reach it" in conversion.kept["unused"]


def test_standardization_can_be_left_out():
    conversion = convert(network(), weight_standardization=False)
    assert list(conversion.changed) == ["1", "4"]
    assert "weight_standardization" in conversion.kept["0"]


class FrozenBatchNorm(nn.BatchNorm2d):
    """A batch norm that never trains, as many write it."""

    def train(self, mode=True):
        return super().train(False)


def with_more(norm):
    norm.alpha = nn.Parameter(torch.ones(1))
    return norm


def with_mask(norm):
    norm.register_buffer("mask", torch.ones(4))
    return norm


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (FrozenBatchNorm(4), "with train of its own"),
        (with_more(nn.BatchNorm2d(4)), "holds alpha besides"),
        (with_mask(nn.BatchNorm2d(4)), "holds mask besides"),
        (pruned(nn.BatchNorm2d(4)), "made by something else"),
    ],
    ids=["train", "parameter", "buffer", "pruned"],
)
@pytest.mark.parametrize("example", [None, torch.randn(2, 4, 3, 3)])
def test_a_norm_that_holds_or_does_more_is_kept(norm, reason, example):
    assert reason in convert(nn.Sequential(norm), example).kept["0"]


def test_a_batch_norm_with_a_shift_alone_stays_so():
    norm = nn.BatchNorm2d(8)
    norm.register_parameter("weight", None)
    model = convert(norm).model
    assert model.batch_norm.scale is None
    x = torch.randn(2, 8, 3, 3)
    assert model(x).isfinite().all()
    torch.testing.assert_close(bake(model.eval())(x), model(x))


@pytest.mark.parametrize("name", ["eps", "gain"])
def test_a_convolution_with_names_of_ours_is_kept(name):
    model = network()
    value = 0.1 if name == "eps" else nn.Parameter(torch.ones(1))
    setattr(model[0], name, value)
    assert name in convert(model).kept["0"]
    assert getattr(model[0], name) is value


def test_lazy_layers_are_not_run_by_an_example():
    model = nn.Sequential(*network()[:2], nn.Flatten(), nn.LazyLinear(3))
    convert(model, IMAGE)
    assert type(model[3]) is nn.LazyLinear
    assert isinstance(model[0], WSConv2d)
    hidden = nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), *network()[3:5])
    conversion = convert(hidden, IMAGE)
    assert "lazy" in conversion.kept["0"]
    assert "lazy" in conversion.kept["1"]


def test_what_is_inside_of_a_convolution_is_its_own_affair():
    class ConvNorm(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 16, 3)
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x):
            scale = self.norm.weight / self.norm.running_var.sqrt()
            return self.norm(
                self._conv_forward(x, self.weight * scale.view(-1, 1, 1, 1), None)
            )

    for example in (None, IMAGE):
        conversion = convert(nn.Sequential(ConvNorm()), example)
        assert not conversion.changed
        assert list(conversion.kept) == ["0"]


def test_a_conversion_in_inference_mode_can_be_trained():
    model = network()
    with torch.inference_mode():
        convert(model, IMAGE.clone(), pretrained=True)
    model(IMAGE).sum().backward()


def test_a_model_whose_modes_do_more_is_converted_all_the_same():
    class Freezes(nn.Sequential):
        def train(self, mode=True):
            self.requires_grad_(mode)
            return super().train(mode)

    model = Freezes(*network())
    convert(model, IMAGE)
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_that_was_frozen_can_be_thawed_after():
    model = network()
    freeze_statistics(model)
    convert(model, IMAGE)
    model.train()
    assert not model[1].batch_norm.training
    freeze_statistics(model, False)
    assert model.train()[1].batch_norm.training


# Groups


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        *[(16, 8), (24, 12), (36, 18), (40, 20), (48, 24), (80, 20), (112, 28)],
        *[(144, 24), (240, 30), (64, 32), (512, 32), (32, 16), (7, 1), (2, 1)],
        (1, 1),
    ],
)
def test_groups_that_do_not_fit_give_way(channels, groups):
    conversion = convert(nn.BatchNorm2d(channels))
    assert conversion.model.groups == groups
    size = f"{groups} groups of {channels // groups}" if groups > 1 else "1 group"
    assert size in conversion.changed[""]


def test_a_group_has_enough_values_where_there_are_enough():
    for norm, shape, groups in (
        (nn.BatchNorm1d(64), (2, 64), 8),
        (nn.BatchNorm1d(40), (2, 40), 5),
        (nn.BatchNorm1d(6), (2, 6), 1),
        (nn.BatchNorm2d(64), (2, 64, 1, 1), 8),
        (nn.BatchNorm2d(64), (2, 64, 1, 2), 16),
        (nn.BatchNorm2d(64), (2, 64, 2, 2), 32),
        (nn.BatchNorm1d(64), (2, 64, 9), 32),
        (nn.BatchNorm1d(1), (2, 1, 9), 1),
    ):
        x = torch.randn(shape)
        model = convert(norm, x).model
        assert model.groups == groups
        assert model(x).unique().numel() > 4
    assert convert(nn.BatchNorm1d(64)).model.groups == 8


def test_a_norm_takes_the_fewest_positions_that_it_was_seen_with():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(16)

        def forward(self, maps):
            return [self.norm(x) for x in maps]

    maps = [torch.randn(1, 16, n, n) for n in (8, 1)]
    model = convert(Pyramid(), (maps,)).model
    assert model.norm.groups == 2


def test_groups_may_be_a_function_of_the_channels():
    model = convert(network(), groups=lambda channels: channels // 4).model
    assert model[1].groups == 4
    assert model[4].groups == 6
    conversion = convert(nn.BatchNorm2d(32), groups=lambda channels: 32)
    assert "an instance norm" in conversion.changed[""]


# All or nothing


def test_a_network_that_looks_into_its_norms_is_left_as_it_was():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            return self.body(x) * self.body[1].num_features

    model = Looks()
    before = state_of(model)
    with pytest.raises(AttributeError, match="num_features") as caught:
        convert(model, IMAGE)
    assert "taken back" in caught.value.__notes__[0]
    assert_same_state(model, before)
    assert model.steps == 0
    assert "1" not in convert(model, IMAGE, keep="body.1").changed
    model(IMAGE)


def test_an_example_that_does_not_fit_changes_nothing():
    model = network()
    before = state_of(model)
    with pytest.raises(RuntimeError):
        convert(model, torch.randn(1, 4, 8, 8))
    assert_same_state(model, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": 0}, ValueError, "groups must be at least 1"),
        ({"groups": 2.0}, TypeError, "groups must be an int"),
        ({"groups": True}, TypeError, "groups must be an int"),
        ({"groups": lambda c: 5}, ValueError, "groups must divide"),
        ({"groups": lambda c: "5"}, TypeError, "groups must be an int"),
        ({"momentum": 2}, ValueError, "momentum must lie"),
        ({"variance_around": "mean"}, ValueError, "variance_around must be"),
        ({"weight_standardization": 1}, TypeError, "weight_standardization must"),
        ({"pretrained": "yes"}, TypeError, "pretrained must be True or False"),
        ({"keep": "7"}, ValueError, "no module '7'"),
        ({"keep": ["1", "head"]}, ValueError, "no module 'head'"),
        ({"keep": 5}, TypeError, "keep takes names"),
        ({"keep": [5]}, TypeError, "keep takes names"),
        ({"keep": nn.ReLU()}, ValueError, "no module"),
        ({"keep": int}, TypeError, "keep takes names"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, message):
    model = network()
    before = state_of(model)
    with pytest.raises(error, match=message):
        convert(model, **arguments)
    assert_same_state(model, before)


def test_a_function_for_groups_is_named_with_the_norm():
    with pytest.raises(ValueError, match="divide") as caught:
        convert(network(), groups=lambda channels: 16)
    assert "groups(24)" in caught.value.__notes__[0]
    assert "4" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "keep", ["1", ["1"], ("1",), {"1"}, iter(["1"]), lambda model: model[1]]
)
def test_what_is_asked_for_is_kept(keep):
    model = network()
    keep = keep(model) if callable(keep) else keep
    conversion = convert(model, IMAGE, keep=keep)
    assert conversion.kept["1"] == "as asked for"
    assert isinstance(model[1], nn.BatchNorm2d)
    assert isinstance(model[0], WSConv2d)


def test_a_class_or_a_container_is_kept_with_what_is_inside():
    model = nn.Sequential(network(), network())
    conversion = convert(model, keep=["0", nn.Conv2d])
    assert list(conversion.changed) == ["1.1", "1.4"]


@pytest.mark.parametrize("model", [None, "model", nn.Conv2d, torch.randn(3)])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        convert(model)


def compiled_in_place(model):
    model.compile()
    return model


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (nn.DataParallel, r"pass its \.module"),
        (torch.compile, r"pass its \._orig_mod"),
        (compiled_in_place, r"its compile\(\) was called"),
        (torch.jit.script, "pass the module that it was made of"),
        (
            lambda m: nn.Sequential(torch.compile(m)),
            "but 0 is of class OptimizedModule",
        ),
    ],
)
def test_wrapped_and_compiled_networks_are_refused(wrap, remedy):
    model = wrap(network())
    with pytest.raises(ValueError, match=remedy):
        convert(model)
    assert not any(isinstance(m, BatchChannelNorm) for m in model.modules())


def test_networks_on_several_processes_are_refused(tmp_path):
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network())
        with pytest.raises(ValueError, match=r"pass its \.module"):
            convert(wrapped)
        from torch.distributed import fsdp
        from torch.distributed.device_mesh import init_device_mesh

        if not hasattr(fsdp, "fully_shard"):
            pytest.skip("this PyTorch has no fsdp.fully_shard")
        sharded = network()
        fsdp.fully_shard(sharded[1], mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="but 1 is of class FSDP"):
            convert(sharded)
    finally:
        dist.destroy_process_group()


def test_a_scripted_part_is_left_alone():
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(16)))
    model = nn.Sequential(*network()[:2], nn.Conv2d(16, 16, 3), scripted)
    conversion = convert(model, IMAGE)
    assert list(conversion.changed) == ["0", "1"]
    assert "RecursiveScriptModule reads" in conversion.kept["2"]
    assert scripted.training


def test_a_network_without_data_is_converted():
    with torch.device("meta"):
        model = network()
    conversion = convert(model, pretrained=True)
    assert len(conversion.changed) == 4
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_a_trained_network_is_told_of_pretrained():
    trained = network()
    trained(IMAGE)
    conversion = convert(copy.deepcopy(trained))
    assert "pretrained=True" in str(conversion)
    assert "pretrained=True" not in str(convert(trained, pretrained=True))
    assert "pretrained=True" not in str(convert(network()))


def test_statistics_without_a_count_have_learned_too():
    imported = network()
    imported[1].running_mean.fill_(0.5)
    assert "pretrained=True" in str(convert(imported))

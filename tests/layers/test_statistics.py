"""Statistics of a whole model: anew from batches, frozen, shared."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from helpers.layers import MAKE, inputs, make, state, tracking_layer
from helpers.oracle import assert_close
from helpers.processes import run_in_group
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    WSConv2d,
    convert,
    native,
)
from labml_bcn.statistics import (
    NORMS,
    freeze_statistics,
    share_statistics,
    update_statistics,
)

C = 4


def network(norm=None, more=()):
    """A convolution, a norm of ours, and one of PyTorch's."""
    return nn.Sequential(
        WSConv2d(3, C, 3),
        norm or BatchChannelNorm(C, 2, variance_around="running_mean"),
        nn.ReLU(),
        nn.Conv2d(C, C, 3),
        nn.BatchNorm2d(C),
        *more,
    )


def images(number, of=2):
    """Batches of images that differ in brightness."""
    return [
        torch.randn(of, 3, 8, 8) + 2 * torch.randn(of, 3, 1, 1) for _ in range(number)
    ]


def buffers(model):
    return {name: x.clone() for name, x in model.named_buffers()}


def assert_same_buffers(model, before):
    now = dict(model.named_buffers())
    assert now.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(now[name], value), name


def mean_and_variance(batches):
    """Exact, over all values of a channel, in float64."""
    values = torch.cat([x.double() for x in batches]).movedim(1, 0).flatten(1)
    return values.mean(1), values.var(1, correction=0)


# Which norms


@pytest.mark.parametrize("name", MAKE)
def test_every_norm_is_one_of_the_norms(name):
    assert isinstance(make(name), NORMS)


def test_the_norms_are_found_in_a_model_and_nothing_else_is():
    found = [type(m) for m in network().modules() if isinstance(m, NORMS)]
    assert found == [BatchChannelNorm, EstimatedBatchNorm, ChannelNorm]


# Anew


@pytest.mark.parametrize("kind", [BatchNorm, "plain"])
def test_plain_norms_get_what_update_bn_gives_pytorchs(kind):
    ours = BatchNorm(C) if kind is BatchNorm else BatchChannelNorm(C, 2, estimate=False)
    theirs = nn.BatchNorm2d(C)
    batches = [inputs(of, C, 5, 4) for of in (3, 4, 1)]
    update_statistics(ours, batches)
    update_bn(batches, theirs)
    norm = getattr(ours, "batch_norm", ours)
    assert_close(norm.exp_mean, theirs.running_mean)
    assert_close(norm.exp_var, theirs.running_var)


@pytest.mark.parametrize("of", [1, 3])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_around_the_running_mean_the_variance_is_that_of_all_values(of, mean):
    norm = EstimatedBatchNorm(C, variance_around="running_mean")
    batches = [x + mean for x in images(20, of)]
    batches = [torch.cat((x, x[:, :1]), 1) for x in batches]
    update_statistics(norm, batches)
    exact_mean, exact_var = mean_and_variance(batches)
    # At 10,000 float32 counts in steps of 0.001.
    rtol = 5e-4 if mean else 1e-5
    assert_close(norm.exp_mean, exact_mean, rtol=1e-6, atol=1e-5)
    assert_close(norm.exp_var, exact_var, rtol=rtol, atol=0)


def test_one_value_per_channel_has_a_variance_between_the_batches():
    norm = EstimatedBatchNorm(C, variance_around="running_mean")
    batches = [torch.randn(1, C) for _ in range(50)]
    update_statistics(norm, batches)
    exact_mean, exact_var = mean_and_variance(batches)
    assert_close(norm.exp_mean, exact_mean, rtol=0, atol=1e-6)
    assert_close(norm.exp_var, exact_var, rtol=1e-5, atol=0)


def test_around_the_batch_mean_the_variance_is_the_average_within_batches():
    norm = EstimatedBatchNorm(C)
    batches = [inputs(3, C, 5) for _ in range(6)]
    update_statistics(norm, batches)
    means, variances = zip(*(mean_and_variance([x]) for x in batches), strict=True)
    assert_close(norm.exp_mean, torch.stack(means).mean(0))
    assert_close(norm.exp_var, torch.stack(variances).mean(0))


@tracking_layer
def test_an_average_knows_no_start_and_no_past(name):
    layer, twin = make(name), make(name)
    batches = [inputs(3, 12, 5) for _ in range(4)]
    for each in (layer, twin):
        update_statistics(each, batches)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def test_statistics_that_are_not_finite_are_healed():
    norm = EstimatedBatchNorm(C)
    norm.exp_mean.fill_(float("nan"))
    norm.exp_var.fill_(float("inf"))
    update_statistics(norm, [inputs(3, C, 5)])
    assert norm.exp_mean.isfinite().all()
    assert norm.exp_var.isfinite().all()


def test_every_batch_counts_the_same():
    norm = EstimatedBatchNorm(1)
    update_statistics(norm, [torch.zeros(9, 1, 5) - 1, torch.zeros(1, 1, 5) + 1])
    assert_close(norm.exp_mean, torch.zeros(1))


def test_a_norm_that_runs_twice_averages_both():
    norm = EstimatedBatchNorm(C, variance_around="running_mean")
    x, y = inputs(2, C, 5), inputs(2, C, 5)
    twice = Both(norm)
    update_statistics(twice, [{"x": x, "y": y}])
    assert_close(norm.exp_mean, mean_and_variance([x, y])[0])
    assert_close(norm.exp_var, mean_and_variance([x, y])[1])


class Both(nn.Module):
    """One norm for two inputs."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, y):
        return self.norm(x=x) + self.norm(y)


def test_pytorchs_norms_in_the_model_are_updated_as_by_update_bn():
    model = network(BatchNorm(C))
    twin = network(nn.BatchNorm2d(C))
    weights = [
        (a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True)
    ]
    with torch.no_grad():
        for a, b in weights:
            a.copy_(b)
    batches = images(4)
    update_statistics(model, batches)
    update_bn(batches, twin)
    ours, theirs = model.state_dict(), twin.state_dict()
    for key in ("4.running_mean", "4.running_var"):
        assert_close(ours[key], theirs[key])
    assert ours["4.num_batches_tracked"] == theirs["4.num_batches_tracked"] == 4


def test_averaged_weights_get_statistics_of_their_own():
    model = network()
    averaged = AveragedModel(model)
    batches = images(3)
    update_statistics(averaged, batches)
    update_statistics(model, batches)
    for a, b in zip(averaged.module.buffers(), model.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_layer_behind_sees_what_an_estimating_norm_makes_of_its_averages():
    first = EstimatedBatchNorm(C, variance_around="running_mean")
    second = EstimatedBatchNorm(C, variance_around="running_mean")
    batches = [inputs(2, C, 5) for _ in range(3)]
    update_statistics(nn.Sequential(first, second), batches)
    seen = []
    for n in range(1, 4):
        mean, var = mean_and_variance(batches[:n])
        x = batches[n - 1].double() - mean.view(-1, 1)
        seen.append(x / (var + first.eps).sqrt().view(-1, 1))
    mean, var = mean_and_variance(seen)
    assert_close(second.exp_mean, mean, rtol=0, atol=1e-5)
    assert_close(second.exp_var, var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 3e38])
@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("mode", ["batch_mean", "running_mean"])
def test_a_batch_that_is_not_finite_is_left_out_of_its_channel(mode, place, bad):
    norm = EstimatedBatchNorm(C, variance_around=mode)
    twin = copy.deepcopy(norm)
    batches = [inputs(2, C, 5) for _ in range(5)]
    clean = [x.clone() for x in batches]
    batches[place][0, 1, 3] = bad
    update_statistics(norm, batches)
    update_statistics(twin, clean)
    others = [0, 2, 3]
    assert torch.equal(norm.exp_mean[others], twin.exp_mean[others])
    assert torch.equal(norm.exp_var[others], twin.exp_var[others])
    update_statistics(twin, clean[:place] + clean[place + 1 :])
    assert torch.equal(norm.exp_mean[1], twin.exp_mean[1])
    assert torch.equal(norm.exp_var[1], twin.exp_var[1])


def test_a_channel_that_is_never_finite_keeps_its_statistics():
    norm = EstimatedBatchNorm(C)
    norm(inputs(2, C, 5))
    before = buffers(norm)
    x = inputs(2, C, 5)
    x[:, 1] = float("nan")
    update_statistics(norm, [x, x])
    assert norm.exp_mean[1] == before["exp_mean"][1]
    assert norm.exp_var[1] == before["exp_var"][1]
    assert norm.exp_mean[0] != before["exp_mean"][0]


def test_an_empty_batch_counts_for_nothing():
    norm = EstimatedBatchNorm(C)
    twin = copy.deepcopy(norm)
    x, y = inputs(2, C, 5), inputs(2, C, 5)
    update_statistics(norm, [x, x[:0], y])
    update_statistics(twin, [x, y])
    assert_same_buffers(norm, buffers(twin))


def test_batches_come_as_loaders_give_them():
    x, target = torch.cat(images(3)), torch.arange(6)
    loader = DataLoader(TensorDataset(x, target), batch_size=2)
    models = [network()]
    models += [copy.deepcopy(models[0]) for _ in range(5)]
    ways = [
        loader,
        iter(loader),
        x.split(2),
        [(each, None) for each in x.split(2)],
        ([each] for each in x.split(2)),
        [{"input": each} for each in x.split(2)],
    ]
    for model, way in zip(models, ways, strict=True):
        update_statistics(model, way, device="cpu")
        assert_same_buffers(model, buffers(models[0]))


def test_inputs_are_sent_to_the_device():
    model = network().to("meta")
    batch = {"input": torch.randn(2, 3, 8, 8)}
    with pytest.raises(Exception, match="meta"):
        update_statistics(model, [batch], device="meta")
    with pytest.raises(Exception, match="device"):
        update_statistics(network(), [(torch.randn(2, 3, 8, 8, device="meta"), 1)])


def test_modes_momenta_and_hooks_are_as_before():
    model = network(more=[nn.Dropout()])
    model[1].batch_norm.eval()
    model[4].momentum = 0.25
    modes = [m.training for m in model.modules()]
    update_statistics(model, images(2))
    assert [m.training for m in model.modules()] == modes
    assert model[1].batch_norm.momentum == 0.1
    assert model[4].momentum == 0.25
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_model_runs_in_training_mode():
    seen = []
    dropout = nn.Dropout()
    dropout.register_forward_hook(lambda module, *_: seen.append(module.training))
    update_statistics(network(more=[dropout]).eval(), images(2))
    assert seen == [True, True]


def test_no_gradient_is_recorded_and_no_parameter_moves():
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    update_statistics(model, images(2))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert not any(x.requires_grad for x in model.buffers())


def test_buffers_keep_their_storage():
    model = network()
    places = [x.data_ptr() for x in model.buffers()]
    update_statistics(model, images(2))
    assert [x.data_ptr() for x in model.buffers()] == places


@pytest.mark.parametrize("bad", [torch.randn(2, 5, 8, 8), "x", 7, None])
def test_an_error_in_the_middle_leaves_everything_as_it_was(bad):
    model = network(more=[nn.Dropout()]).eval()
    model(images(1)[0])
    before, momentum = buffers(model), model[1].batch_norm.momentum
    with pytest.raises((RuntimeError, TypeError)):
        update_statistics(model, [*images(2), bad])
    assert_same_buffers(model, before)
    assert not any(m.training for m in model.modules())
    assert model[1].batch_norm.momentum == momentum
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_error_of_the_loader_leaves_everything_as_it_was():
    def stopping():
        yield from images(2)
        raise KeyboardInterrupt

    model = network()
    before = buffers(model)
    with pytest.raises(KeyboardInterrupt):
        update_statistics(model, stopping())
    assert_same_buffers(model, before)


def test_one_value_per_channel_is_refused_around_the_batch_mean():
    norm = EstimatedBatchNorm(C)
    before = buffers(norm)
    with pytest.raises(ValueError, match="running_mean"):
        update_statistics(norm, [torch.randn(2, C), torch.randn(1, C)])
    assert_same_buffers(norm, before)


@pytest.mark.parametrize("batches", [[], iter(()), [torch.zeros(0, 3, 8, 8)]])
def test_without_a_batch_to_learn_from_there_is_an_error(batches):
    model = nn.Sequential(BatchChannelNorm(3, 1))
    before = buffers(model)
    with pytest.raises(ValueError, match="batch"):
        update_statistics(model, batches)
    assert_same_buffers(model, before)


def test_batches_that_are_nowhere_finite_are_an_error():
    with pytest.raises(ValueError, match="finite"):
        update_statistics(BatchNorm(C), [torch.full((2, C, 3), float("nan"))])


@pytest.mark.parametrize("batches", [torch.randn(2, 3, 8, 8), {"x": 1}, "abc", 3, None])
def test_what_is_no_iterable_of_batches_is_refused(batches):
    with pytest.raises(TypeError, match=r"batches must be an iterable.*\[batch\]"):
        update_statistics(network(), batches)


def test_pytorchs_order_of_arguments_is_refused():
    with pytest.raises(TypeError, match="model is the first argument"):
        update_statistics(images(1), network())


@pytest.mark.parametrize("call", [update_statistics, freeze_statistics])
@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        ChannelNorm(4, 2),
        BatchNorm(4, track_running_stats=False),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
    ],
)
def test_a_model_without_running_statistics_is_refused(call, model):
    arguments = ([],) if call is update_statistics else ()
    with pytest.raises(ValueError, match=r"running statistics.*labml_bcn.convert"):
        call(model, *arguments)


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = network()
            self.unused = network()

        def forward(self, x):
            return self.used(x)

    model = Half()
    model.unused(images(1)[0])
    before = buffers(model.unused)
    update_statistics(model, images(2))
    assert_same_buffers(model.unused, before)


def test_a_models_own_train_does_not_stop_it():
    class KeepsItsNorms(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            for norm in (self[1].batch_norm, self[4]):
                norm.eval()
            return self

    model = KeepsItsNorms(*network())
    before = buffers(model.train())
    update_statistics(model, images(2))
    for name, value in model.named_buffers():
        assert not torch.equal(value, before[name]), name
    assert not model[1].batch_norm.training


@pytest.mark.parametrize("part", ["whole", "inside"])
def test_a_compiled_model_is_updated(part):
    model = network()
    twin = copy.deepcopy(model)
    batches = images(2)
    if part == "whole":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = model
        model[1].compile(backend="eager")
    before = buffers(model)
    with torch.no_grad():
        compiled(batches[0])
    for name, value in model.named_buffers():
        value.data.copy_(before[name])
    update_statistics(compiled, batches)
    update_statistics(twin, batches)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def measure_as_member(rank, batches, mode):
    model = nn.Sequential(
        BatchChannelNorm(3, 1, variance_around=mode), BatchNorm(3), nn.ReLU()
    )
    share_statistics(model, dist.group.WORLD)
    update_statistics(model, [x.chunk(2)[rank] for x in batches])
    return dict(model.named_buffers())


@pytest.mark.parametrize("mode", ["batch_mean", "running_mean"])
def test_processes_that_share_a_batch_learn_what_one_process_would(mode):
    batches = images(3)
    alone = nn.Sequential(BatchChannelNorm(3, 1, variance_around=mode), BatchNorm(3))
    update_statistics(alone, batches)
    for found in run_in_group(measure_as_member, 2, batches, mode):
        for name, value in alone.named_buffers():
            assert_close(found[name], value)


# Frozen


def train_a_step(model, x):
    model(x).square().mean().backward()


@tracking_layer
def test_frozen_statistics_stand_still_while_the_rest_trains(name):
    layer = make(name)
    model = nn.Sequential(layer)
    before = state(layer)
    assert freeze_statistics(model) == 1
    model.train()
    x = inputs(3, 12, 5).requires_grad_()
    train_a_step(model, x)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad.any() for p in model.parameters())
    assert x.grad.any()


@tracking_layer
def test_frozen_norms_normalize_as_in_evaluation(name):
    model = nn.Sequential(make(name))
    x = inputs(3, 12, 5)
    expected = copy.deepcopy(model).eval()(x)
    freeze_statistics(model.train())
    assert_close(model.train()(x), expected)
    with native.disabled():
        assert_close(model(x), expected)


def test_freezing_holds_for_pytorchs_norms_and_leaves_other_modes_alone():
    model = network(more=[nn.Dropout()])
    before = buffers(model)
    assert freeze_statistics(model) == 2
    model.train()
    train_a_step(model, images(1)[0])
    assert_same_buffers(model, before)
    assert model.training
    assert model[1].training
    assert model[5].training


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m],
    ids=["deepcopy", "pickle", "itself"],
)
def test_copies_are_frozen_and_can_be_thawed_by_themselves(again):
    model = network()
    freeze_statistics(model)
    other = again(model).train()
    before = buffers(other)
    x = images(1)[0]
    other(x)
    assert_same_buffers(other, before)
    freeze_statistics(other, False)
    other(x)
    for name, value in other.named_buffers():
        assert not torch.equal(value, before[name]), name
    if other is not model:
        model.train()(x)
        assert_same_buffers(model, before)


def test_freezing_does_not_show_in_the_state_dict():
    model = network()
    before = model.state_dict()
    freeze_statistics(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert after._metadata == before._metadata


def test_thawed_norms_take_the_mode_of_what_holds_them():
    model = nn.Sequential(network(), network())
    freeze_statistics(model)
    model[0].train()
    model[1].eval()
    freeze_statistics(model, False)
    assert model[0][1].batch_norm.training
    assert model[0][4].training
    assert not model[1][1].batch_norm.training
    assert not model[1][4].training


def test_a_norm_that_was_never_frozen_keeps_its_mode():
    model = network()
    model[4].eval()
    freeze_statistics(model, False)
    assert not model[4].training
    assert model[1].batch_norm.training


def test_freezing_twice_is_freezing_once():
    model = network()
    freeze_statistics(model)
    freeze_statistics(model)
    freeze_statistics(model, False)
    assert model.train()[1].batch_norm.training


def test_a_compiled_model_freezes_and_thaws():
    model = network()
    compiled = torch.compile(model, backend="eager")
    x = images(1)[0]
    compiled(x)
    freeze_statistics(compiled)
    compiled.train()
    before = buffers(model)
    compiled(x)
    assert_same_buffers(model, before)
    freeze_statistics(compiled, False)
    compiled(x)
    assert not torch.equal(
        model[1].batch_norm.exp_mean, before["1.batch_norm.exp_mean"]
    )
    assert not torch.equal(model[4].running_mean, before["4.running_mean"])


def test_a_frozen_norm_stays_frozen_in_a_conversion_and_can_be_thawed():
    model = nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU())
    freeze_statistics(model)
    convert(model, groups=2)
    norm = model.train()[1].batch_norm
    before = norm.exp_mean.clone()
    model(images(1)[0])
    assert torch.equal(norm.exp_mean, before)
    with pytest.raises(ValueError, match="frozen"):
        update_statistics(model, images(2))
    freeze_statistics(model, False)
    assert norm.training
    model(images(1)[0])
    assert not torch.equal(norm.exp_mean, before)


def test_frozen_norms_are_not_updated():
    model = network()
    freeze_statistics(model[1])
    before = buffers(model[1])
    other = buffers(model[4])
    update_statistics(model, images(2))
    assert_same_buffers(model[1], before)
    assert not torch.equal(model[4].running_mean, other["running_mean"])
    freeze_statistics(model)
    with pytest.raises(ValueError, match=r"freeze_statistics\(model, False\)"):
        update_statistics(model, images(2))


# Shared


def share_as_member(rank, x):
    model = network()
    ours = model[1].batch_norm
    found = [share_statistics(model, dist.group.WORLD), ours.process_group is not None]
    found += [share_statistics(model, None), ours.process_group is None]
    of_others = [dist.new_group([each]) for each in range(2)][1 - rank]
    try:
        share_statistics(model, of_others)
    except TypeError as error:
        found += ["that this process belongs to" in str(error)]
    return found


def test_sharing_sets_the_group_of_every_norm_and_none_takes_it_back():
    assert run_in_group(share_as_member, 2, None) == [[1, True, 1, True, True]] * 2


def test_what_is_no_group_is_refused_and_nothing_changes():
    model = network()
    with pytest.raises(TypeError, match="init_process_group"):
        share_statistics(model, "nccl")
    assert model[1].batch_norm.process_group is None


def test_a_model_without_our_norms_is_not_shared():
    with pytest.raises(ValueError, match="convert_sync_batchnorm"):
        share_statistics(nn.Sequential(nn.BatchNorm2d(3)), None)


@pytest.mark.parametrize("call", [freeze_statistics, share_statistics])
def test_what_is_no_model_is_refused(call):
    arguments = (None,) if call is share_statistics else ()
    with pytest.raises(TypeError, match=r"nn\.Module"):
        call([network()], *arguments)


def test_an_input_that_is_a_mapping_stands_in_a_tuple():
    class TakesOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = BatchNorm(3)

        def forward(self, batch):
            return self.norm(batch["image"])

    model, x = TakesOne(), torch.randn(4, 3, 5)
    update_statistics(model, [({"image": x}, "target")])
    torch.testing.assert_close(model.norm.exp_mean, x.mean((0, 2)))


@pytest.mark.parametrize("frozen", ["yes", None, 1])
def test_frozen_is_true_or_false(frozen):
    with pytest.raises(TypeError, match="frozen must be True or False"):
        freeze_statistics(BatchNorm(3), frozen)

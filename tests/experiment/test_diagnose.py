"""Where a loss went wrong: the first layer, and nothing else changed."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm, BatchNorm
from labml_bcn.experiment import cifar10, diagnose, loop
from labml_bcn.experiment.outcome import RunError
from labml_bcn.experiment.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


class Explode(nn.Module):
    """Gives the input back, but for one value in the n-th training pass."""

    def __init__(self, when, value=math.inf):
        super().__init__()
        self.when, self.value = when, value
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls == self.when:
                x = x.clone()
                x[0, 0, 0, 0] = self.value
        return x


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        *layers,
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 28 * 28, 10),
    )


@pytest.fixture(scope="module")
def data():
    return cifar10.stand_in(40, 10)


def learn(model, data, **options):
    return loop.train(model, data, lr=1e-3, **options)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("folder", [False, True])
def test_the_step_and_the_first_layer_are_named(data, tmp_path, value, folder):
    model = network(BatchNorm(8), Explode(5, value), BatchNorm(8))
    kept = RunFolder(tmp_path) if folder else None
    with pytest.raises(RunError) as error:
        learn(model, data, folder=kept, checkpoint_every=2)
    message = str(error.value)
    assert message.startswith("in step 5 the loss is nan: it arose in 2 (Ex")
    assert "1 of the 14,400 values of its output are not finite" in message
    assert "all of its input is, with values up to" in message
    said = "checkpoint is of step 4:" if folder else "Nothing was kept."
    assert said in message


def test_a_bad_loss_moves_no_weight_and_no_statistic(data):
    twin = network(BatchNorm(8), Explode(0), BatchNorm(8))
    learn(twin, data, images=8, schedule="constant")
    model = network(BatchNorm(8), Explode(5), BatchNorm(8))
    with pytest.raises(RunError):
        learn(model, data, images=40, schedule="constant")
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_with_several_batches_a_step_the_bad_one_is_run_again(data):
    model = network(Explode(6))
    with pytest.raises(RunError, match=r"in step 2 .* arose in 1 \(Explode"):
        learn(model, data, accumulate=4)


def test_a_model_in_half_precision_is_diagnosed(data):
    model = network(Explode(3))
    with pytest.raises(RunError, match=r"in step 3 .* arose in 1 \(Explode"):
        learn(model, data, amp=True)


def test_images_that_are_not_finite_are_named():
    model = network()
    x = torch.zeros(2, 3, 32, 32)
    x[1, 2, 3, 4] = math.nan
    place = diagnose.first_nonfinite_layer(model, lambda: model(x))
    assert place.startswith("it was in the input of 0 (Conv2d) already: 1 of")


def test_a_weight_that_is_not_finite_is_named():
    model = network(BatchChannelNorm(8, 2))
    model[0].weight.data[0, 0, 0] = math.inf
    place = diagnose.first_nonfinite_layer(model, lambda: None)
    assert "3 of the 216 values of 0.weight are not finite" in place
    assert "an earlier step" in place


def test_a_layer_in_one_map_is_named_as_a_whole():
    model = network(BatchChannelNorm(8, 2))
    model[0].weight.data.fill_(1e37)
    x = torch.randn(2, 3, 32, 32)
    place = diagnose.first_nonfinite_layer(model, lambda: model(x))
    assert "arose in 1 (BatchChannelNorm)" in place


def test_a_loss_can_be_nonfinite_while_every_layer_is_finite():
    model = network()
    x = torch.randn(2, 3, 32, 32)
    place = diagnose.first_nonfinite_layer(model, lambda: model(x))
    assert "every layer's output is finite" in place


def test_no_hook_is_left_behind():
    model = network()
    x = torch.randn(2, 3, 32, 32)
    diagnose.first_nonfinite_layer(model, lambda: model(x))
    with pytest.raises(ZeroDivisionError):
        diagnose.first_nonfinite_layer(model, lambda: 1 / 0)
    assert all(not m._forward_hooks for m in model.modules())


def test_what_a_pass_changes_can_be_put_back():
    model = network(BatchNorm(8), nn.Dropout(0.5))
    x = torch.randn(2, 3, 32, 32)
    before = diagnose.PassState(model)
    model(x)
    before.remember()
    first = model(x)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert not torch.equal(model(x), first)
    before.restore()
    assert torch.equal(model(x), first)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


class NonfiniteGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


class NonfiniteGradientAt(nn.Module):
    def __init__(self, when):
        super().__init__()
        self.when, self.calls = when, 0

    def forward(self, x):
        self.calls += self.training
        wild = self.training and self.calls == self.when
        return NonfiniteGradient.apply(x) if wild else x


def test_weights_that_are_not_finite_are_never_kept(data, tmp_path):
    folder = RunFolder(tmp_path)
    model = network(NonfiniteGradientAt(3))
    with pytest.raises(RunError) as error:
        learn(model, data, folder=folder, checkpoint_every=1)
    message = str(error.value)
    assert message.startswith("after step 3, ")
    assert "values of 0.weight are not finite" in message
    assert folder.checkpoints()[-1].step == 2


def test_the_step_after_a_nonfinite_gradient_names_the_weights(data):
    with pytest.raises(RunError) as error:
        learn(network(NonfiniteGradientAt(3)), data)
    assert "in step 4 the loss is nan: before the batch" in str(error.value)
    assert "values of 0.weight are not finite" in str(error.value)


def test_the_layers_do_not_check_for_nan_themselves():
    x = torch.full((2, 8, 4, 4), math.nan)
    for layer in (BatchNorm(8), BatchChannelNorm(8, 2)):
        assert F.relu(layer(x)).isnan().any()

"""What is known of a network's dataflow, and that looking leaves no trace."""

import copy
import itertools
import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm
from labml_bcn._dataflow import (
    INPUT,
    OUTPUT,
    Dataflow,
    dataflow,
    observe,
    order_in_containers,
    trace,
    trace_symbols,
)

IMAGE = torch.randn(2, 4, 6, 6)


class PreActivation(nn.Module):
    """A block whose second convolution goes into an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(4)
        self.conv_1 = nn.Conv2d(4, 4, 3, padding=1)
        self.between = nn.Identity()
        self.norm_2 = nn.BatchNorm2d(4)
        self.conv_2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.between(self.conv_1(F.relu(self.norm_1(x))))
        y = self.conv_2(F.relu(self.norm_2(y)))
        y += x
        return y


@pytest.fixture(params=[observe, lambda model, _: trace_symbols(model)])
def look(request):
    return request.param


def test_a_run_and_a_trace_see_who_reads_whom(look):
    block = PreActivation()
    flow = look(block, IMAGE)
    assert flow.sources_of(block.norm_1) == [INPUT]
    assert flow.readers_of(block.conv_1) == [block.norm_2]
    assert flow.sources_of(block.norm_2) == [block.conv_1]
    (reader,) = flow.readers_of(block.conv_2)
    assert "add" in reader


def test_the_output_reads_too(look):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity())
    assert look(model, IMAGE).readers_of(model[0]) == [OUTPUT]


def test_looking_at_a_shape_is_no_reading(look):
    class Flattens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm1d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y[..., 0]).reshape(y.size(0), y.shape[1], y.dim() - 1, 2)

    model = Flattens()
    (reader,) = look(model, IMAGE).readers_of(model.conv)
    assert reader in ("getitem", "select")


def test_a_function_that_writes_in_place_makes_another_tensor():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            y.mul_(2)
            return self.norm(y)

    model = InPlace()
    flow = observe(model, IMAGE)
    assert flow.readers_of(model.conv) == ["mul"]
    assert flow.sources_of(model.norm) == ["mul"]


def test_looking_at_a_value_is_reading():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 1, 6), nn.BatchNorm2d(1)

        def forward(self, x):
            y = self.conv(x[:1])
            return self.norm(y) if y.item() < 1e9 else y

    model = Decides()
    assert observe(model, IMAGE).readers_of(model.conv) == [
        "local_scalar_dense",
        model.norm,
    ]


def test_a_function_that_reads_a_norms_statistics_is_named(look):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            norm = self.norm
            return F.batch_norm(x, norm.running_mean, norm.running_var)

    model = Functional()
    flow = look(model, IMAGE)
    assert "batch_norm" in flow.reader_of_tensor(model.norm.running_mean)
    assert flow.readers_of(model.norm) is None


def between(*lines):
    """A model that does something between its convolution and its norm."""

    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return run(self, x)

    space = {"torch": torch, "gate": gate, "Slots": Slots, "deque": deque}
    body = "\n    ".join(("y = self.conv(x)", *lines))
    exec(f"def run(self, x):\n    {body}", space)
    run = space["run"]
    return Between()


@torch.jit.script
def gate(x: torch.Tensor):
    return torch.sigmoid(x) * x


@dataclass(slots=True)
class Slots:
    normed: torch.Tensor
    raw: torch.Tensor


@pytest.mark.parametrize(
    "lines",
    [
        ["y[:, :, 0] = 1.0", "return self.norm(y)"],
        ["y[y > 0] = 0", "return self.norm(y)"],
        ["y.view(-1).mul_(2)", "return self.norm(y)"],
        ["torch._foreach_neg_([y])", "return self.norm(y)"],
        ["torch.neg(x, out=y)", "return self.norm(y)"],
        ["return self.norm(y) + gate(y)"],
        ["return Slots(self.norm(y), y)"],
        ["return deque([self.norm(y), y])"],
        ["return {'y': self.norm(y), 'raw': y}.values()"],
        ["return (z for z in [self.norm(y), y])"],
        ["self.kept = y", "return self.norm(y)"],
        ["self.kept = {'raw': [y]}", "return self.norm(y)"],
        ["return self.norm(y) + (y.numpy() > 0).any()"],
        ["return self.norm(y) + torch.vmap(torch.sin)(y)"],
        ["return self.norm(y) + torch.from_dlpack(y)"],
        [
            "with torch._C.DisableTorchFunction():",
            "    z = y.sin()",
            "return self.norm(y) + z",
        ],
    ],
    ids=lambda lines: lines[0],
)
def test_whoever_reads_or_writes_between_is_seen(lines):
    model = between(*lines)
    flow = observe(model, IMAGE)
    assert flow.readers_of(model.conv) != [model.norm]


def test_a_module_whose_call_fails_hides_nothing():
    model = between(
        "try:\n        self.norm(x[0])\n    except ValueError:\n        pass",
        "return self.norm(self.conv(x))",
    )
    flow = observe(model, IMAGE)
    assert model.norm in flow.readers_of(model.conv)


def test_an_argument_that_may_be_missing_is_missing_in_a_trace():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x, normed=None):
            y = self.conv(x)
            return y if normed is None else self.norm(y)

    model = Optional()
    assert trace_symbols(model).readers_of(model.conv) == [OUTPUT]


def test_a_module_that_is_called_twice_has_the_readers_of_both_calls(look):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, x):
            return self.norm(self.conv(self.act(self.conv(x))))

    model = Twice()
    flow = look(model, IMAGE)
    assert flow.readers_of(model.conv) == [model.act, model.norm]


def test_our_layers_are_one_thing(look):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), BatchChannelNorm(4, 2))
    flow = look(model, IMAGE)
    assert flow.readers_of(model[0]) == [model[1]]
    assert flow.readers_of(model[1].batch_norm) is None


def test_tensors_in_objects_of_any_kind_are_followed():
    @dataclass
    class Features:
        maps: list[Tensor]

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, features):
            return {"y": self.norm(features.maps[0])}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 4, 1), Head()

        def forward(self, x, *, scale):
            features = Features([self.conv(x)])
            return Features([self.head(features)["y"], features.maps[0]])

    model = Model()
    flow = observe(model, {"x": IMAGE, "scale": 2})
    assert flow.readers_of(model.conv) == [model.head.norm, OUTPUT]


def test_shapes_and_numbers_of_inputs_are_seen():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = BatchChannelNorm(4, 2)

        def forward(self, x):
            return self.norm(x, x)

    model = Adds()
    flow = observe(model, IMAGE)
    assert flow.shapes_of(model.norm) == {IMAGE.shape}
    assert flow.ranks_of(model.norm) == {4}
    assert flow.inputs_of(model.norm) == {2}


class Disturbs(nn.Module):
    """Leaves its mark wherever a forward can."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4).eval()
        self.drop = nn.Dropout()
        self.register_buffer("steps", torch.zeros(()))
        self.fails = fails

    def forward(self, x):
        x.mul_(0)
        self.steps += 1
        self.steps = self.steps + 1
        self.last = self.drop(self.norm(x)) + torch.rand(1)
        self.norm.train()
        if self.fails:
            raise RuntimeError("no")
        return self.last


@pytest.mark.parametrize("fails", [False, True])
def test_looking_leaves_no_trace(fails):
    model = Disturbs(fails)
    steps, before = model.steps, copy.deepcopy(model)
    example, random = IMAGE.clone(), torch.random.get_rng_state()
    for way in (lambda: observe(model, example), lambda: trace(model)):
        if fails and way.__code__.co_names[0] == "observe":
            with pytest.raises(RuntimeError, match="no"):
                way()
        else:
            way()
        assert model.steps is steps
        assert model.steps == 0
        assert not hasattr(model, "last")
        assert model.training
        assert not model.norm.training
        assert not any(
            m._forward_hooks or m._forward_pre_hooks for m in model.modules()
        )
        assert torch.equal(torch.random.get_rng_state(), random)
        assert torch.equal(example, IMAGE)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


class Rewrites(nn.Module):
    """Changes its own parameters, buffers, lists and modes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.log, self.cache = [], {}
        self.register_buffer("seen", torch.zeros(0))
        self.merged = False

    def train(self, mode=True):
        self.requires_grad_(mode)
        if not mode and not self.merged:
            self.conv.weight.data += 1
            self.merged = True
        return super().train(mode)

    def forward(self, x):
        with torch.no_grad():
            self.conv.weight.data = torch.renorm(self.conv.weight.data, 2, 0, 0.1)
            self.conv.bias.data.add_(1)
        self.norm.weight.requires_grad_(False)
        self.seen.resize_(3).fill_(1)
        self.log.append(x)
        self.cache["x"] = x
        self.eval()
        return self.norm(self.conv(x)) * random.random() * float(np.random.rand())


@pytest.mark.parametrize("look", [observe, lambda model, _: trace(model)])
def test_a_model_that_changes_itself_is_as_it_was(look):
    model = Rewrites()
    weight, place = model.conv.weight, model.conv.weight.data_ptr()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    random_state, numpy_state = random.getstate(), np.random.get_state()
    look(model, IMAGE)
    assert model.conv.weight is weight
    assert weight.data_ptr() == place
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert (model.log, model.cache, model.merged) == ([], {}, False)
    assert random.getstate() == random_state
    assert (np.random.get_state()[1] == numpy_state[1]).all()
    assert np.random.get_state()[2] == numpy_state[2]


@pytest.mark.parametrize("look", [observe, lambda model, _: trace(model)])
@pytest.mark.parametrize(
    "buffer", [torch.eye(3).to_sparse(), torch.ones(2, device="meta")]
)
def test_a_model_may_hold_tensors_of_any_kind(look, buffer):
    model = PreActivation()
    model.register_buffer("buffer", buffer)
    assert look(model, IMAGE).readers_of(model.conv_1) == [model.norm_2]
    assert model.buffer is buffer
    assert model.training


def test_an_example_in_an_object_is_as_it_was():
    class Writes(nn.Module):
        def forward(self, pair):
            return pair.raw.mul_(0) + pair.normed

    pair = Slots(IMAGE.clone(), IMAGE.clone())
    observe(Writes(), pair)
    assert torch.equal(pair.raw, IMAGE)


class FrozenDict(dict):
    """A dict that forbids to be changed, as configurations are."""

    def update(self, *_):
        raise TypeError("frozen")

    clear = update


class Values(dict):
    """A dict that loads what it holds, and fails."""

    def values(self):
        raise OSError("no file")


@pytest.mark.parametrize("look", [observe, lambda model, _: trace(model)])
def test_what_a_model_holds_is_left_alone(look):
    model = PreActivation()
    model.config, model.lazy = FrozenDict(a=1), Values(b=2)
    model.numbers, model.some = itertools.count(), iter([1, 2])
    model.draws = torch.Generator().manual_seed(3)
    state = model.draws.get_state()
    before = dict(vars(model))
    look(model, IMAGE)
    assert vars(model) == before
    assert (model.config, next(model.numbers), list(model.some)) == (
        {"a": 1},
        0,
        [1, 2],
    )
    assert model.training
    torch.rand(1, generator=model.draws)
    look(model, IMAGE)
    assert not torch.equal(model.draws.get_state(), state)


def test_a_generator_of_a_models_own_is_put_back():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.draws = torch.Generator()

        def forward(self, x):
            return x + torch.rand(1, generator=self.draws)

    model = Noise()
    state = model.draws.get_state()
    observe(model, IMAGE)
    assert torch.equal(model.draws.get_state(), state)


def test_a_gradient_inside_of_a_model_is_no_other_reader():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            with torch.enable_grad():
                x = x.requires_grad_()
                energy = self.norm(self.conv(x)).sum()
            return torch.autograd.grad(energy, x)[0]

    model = Force()
    flow = observe(model, IMAGE)
    assert flow.readers_of(model.conv) == [model.norm]
    assert flow.reader_of_tensor(model.conv.weight) is None


def test_layers_that_a_run_makes_are_gone_after():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = None

        def forward(self, x):
            if self.proj is None:
                self.proj = nn.Conv2d(4, 4, 1)
                self.scale = nn.Parameter(torch.ones(1))
            return self.proj(x) * self.scale

    model = Makes()
    observe(model, IMAGE)
    assert not list(model.parameters())
    assert not list(model.children())
    assert model.proj is None


def test_of_a_module_that_another_one_calls_nothing_is_known():
    class Lambda(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.halved = Lambda(lambda x: self.conv(x) / 2)

        def forward(self, x):
            return self.norm(self.conv(x)) + self.halved(x)

    model = Calls()
    flow = observe(model, IMAGE)
    assert flow.readers_of(model.conv) is None
    assert flow.sources_of(model.norm) is None


def test_a_trace_sees_who_reads_a_buffer():
    class Centres(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(x - self.norm.running_mean.view(1, -1, 1, 1))

    model = Centres()
    assert trace_symbols(model).reader_of_tensor(model.norm.running_mean) == "view"


def test_a_dict_that_is_no_keyword_argument_is_told_what_to_do():
    class Takes(nn.Module):
        def forward(self, batch):
            return batch["image"]

    with pytest.raises(TypeError) as caught:
        observe(Takes(), {"image": IMAGE})
    assert "(example,)" in caught.value.__notes__[0]
    observe(Takes(), ({"image": IMAGE},))


def test_a_lazy_model_is_not_run():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.LazyConv2d(2, 1))
    assert dataflow(model, IMAGE).readers_of(model[0]) == [model[1]]
    assert type(model[2]) is nn.LazyConv2d


class Opaque(nn.Module):
    """Code that symbols cannot go through."""

    def __init__(self):
        super().__init__()
        self.inside = nn.ReLU()

    def forward(self, x):
        x = self.inside(x)
        return x if x.sum() > 0 else -x


def test_where_code_cannot_be_followed_the_order_in_containers_counts():
    inner = nn.Sequential(nn.Identity(), nn.BatchNorm2d(4))
    model = nn.Sequential(nn.Conv2d(4, 4, 1), inner, nn.Conv2d(4, 4, 1), Opaque())
    flow = trace(model)
    assert flow.readers_of(model[0]) == [inner[1]]
    assert flow.sources_of(inner[1]) == [model[0]]
    assert flow.readers_of(inner[1]) == [model[2]]
    assert flow.sources_of(model[0]) is None


def test_of_modules_that_stand_elsewhere_too_no_order_is_known():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), Opaque())
            self.again = self.all[0]

        def forward(self, x):
            return self.all(x) + self.again(x)

    model = Model()
    flow = trace(model)
    assert flow.readers_of(model.again) is None
    assert flow.sources_of(model.all[1]) is None


def test_a_container_with_a_way_of_its_own_has_no_order():
    class Backwards(nn.Sequential):
        def forward(self, x):
            return self[0](x) if x.sum() > 0 else self[1](x)

    model = Backwards(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    assert isinstance(order_in_containers(model), Dataflow)
    assert trace(model).readers_of(model[0]) is None

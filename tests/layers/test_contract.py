"""What every normalization layer keeps to, whatever it computes.

Shapes, memory formats, training and evaluation, gradients and graphs, copies,
compilation. The stepwise form keeps to the laws, too.
"""

import copy
import pickle

import pytest
import torch
from helpers.layers import (
    F64,
    MAKE,
    TRAILING,
    C,
    assert_same_gradients,
    assert_same_state,
    estimating_form,
    every_form,
    every_layer,
    export,
    inputs,
    leaf,
    make,
    state,
    tracking_form,
    tracking_layer,
)
from helpers.oracle import (
    assert_close,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

# Training and evaluation


@estimating_form
def test_training_output_is_what_eval_gives_right_after(name):
    layer = make(name)
    x = inputs(3, C, 5)
    y = layer(x)
    assert_close(layer.eval()(x), y, 1e-6, 1e-6)


@every_form
@pytest.mark.parametrize("trailing", TRAILING, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_trailing_dimensions_count_only_by_their_product(name, trailing, training):
    layer = make(name).train(training)
    flat = copy.deepcopy(layer)
    x = inputs(3, C, *trailing)
    y = layer(x)
    assert y.shape == x.shape
    expected = flat(x.reshape(3, C, -1)).reshape(x.shape)
    assert_close(y, expected)


@every_form
def test_eval_leaves_the_state_and_treats_each_sample_alone(name):
    layer = make(name).eval()
    before = state(layer)
    x = inputs(4, C, 3, 2)
    y = layer(x)
    for b in range(4):
        assert_close(layer(x[b : b + 1]), y[b : b + 1], 1e-6, 1e-6)
    assert_same_state(layer, before)


def test_channel_norm_treats_each_sample_alone_in_training_too():
    layer = make("ChannelNorm")
    x = inputs(4, C, 3, 2)
    y = layer(x)
    for b in range(4):
        assert_close(layer(x[b : b + 1]), y[b : b + 1], 1e-6, 1e-6)


@tracking_form
def test_momentum_0_freezes_the_statistics(name):
    layer = make(name, momentum=0)
    before = state(layer)
    layer(inputs(3, C, 5))
    assert_same_state(layer, before)


@tracking_form
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_updates_the_statistics(name, mode):
    layer = make(name)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    with mode():
        y = layer(x)
    assert torch.equal(y, other(x))
    assert_same_state(layer, other.state_dict())
    layer(x).sum().backward()


@every_form
def test_the_input_is_left_as_it_was(name):
    layer = make(name)
    x = inputs(3, C, 5)
    before = x.clone()
    layer(x)
    layer.eval()(x)
    assert torch.equal(x, before)


# Memory formats

MEMORY = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "flipped order": lambda x: x.mT.contiguous().mT,
}


@every_form
@pytest.mark.parametrize("change", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("training", [True, False])
def test_the_memory_format_of_the_input_does_not_matter(name, change, training):
    layer = make(name).train(training)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 4, 5)
    moved = change(x).requires_grad_()
    assert not moved.is_contiguous()
    x.requires_grad_()
    actual, expected = layer(moved), other(x)
    # Sums in another order.
    assert_close(actual, expected, 1e-5, 1e-5)
    assert_same_gradients(
        actual,
        [moved, *layer.parameters()],
        expected,
        [x, *other.parameters()],
        rtol=1e-4,
        atol=1e-4,
    )


@every_form
def test_channels_last_3d_and_transposed_sequences_are_taken(name):
    layer = make(name, dtype=F64)
    x = inputs(2, C, 2, 3, 4, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    moved = x.to(memory_format=torch.channels_last_3d)
    assert_close(copy.deepcopy(layer)(moved), expected)
    x = inputs(2, C, 5, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    moved = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(copy.deepcopy(layer)(moved), expected)
    x = inputs(2, C, dtype=F64)
    expected = copy.deepcopy(layer)(x)
    assert_close(copy.deepcopy(layer)(x.t().contiguous().t()), expected)


@every_form
@pytest.mark.parametrize("training", [True, False])
def test_an_expanded_input_and_gradient_are_taken(name, training):
    layer = make(name, dtype=F64).train(training)
    other = copy.deepcopy(layer)
    x = inputs(3, C, 1, dtype=F64).expand(3, C, 4).requires_grad_()
    copied = leaf(x.contiguous())
    layer(x).sum().backward()
    (other(copied) * torch.ones(3, C, 4)).sum().backward()
    assert_close(x.grad, copied.grad)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_a_channels_last_input_gives_a_channels_last_output(name, training):
    layer = make(name).train(training)
    x = inputs(2, C, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert g.is_contiguous(memory_format=torch.channels_last)


# Gradients, graphs and what is stored


@every_form
def test_what_passes_gradcheck(name):
    """The statistics are constants where they are estimated: r is 0."""
    options = {} if name in ("ChannelNorm", "BatchNorm") else {"momentum": 0}
    layer = make(name, dtype=F64, **options)
    names = [key for key, _ in layer.named_parameters()]

    def apply(x, *parameters):
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, values, (x,))

    x = inputs(2, C, 2, dtype=F64).requires_grad_()
    parameters = [leaf(p) for p in layer.parameters()]
    for training in (True, False):
        layer.train(training)
        assert torch.autograd.gradcheck(apply, (x, *parameters), fast_mode=True)


def train_a_step(layer, x):
    layer(x).square().sum().backward()


@every_form
def test_the_state_dict_carries_everything_that_was_learned(name):
    layer = make(name)
    train_a_step(layer, inputs(3, C, 5))
    other = MAKE[name]()
    other.load_state_dict(layer.state_dict())
    x = inputs(3, C, 5)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.eval()(x), layer.eval()(x))


@every_form
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.works_with("save", "`copy.deepcopy`, `pickle`", "every layer alone")
def test_a_layer_is_copied_and_pickled_after_training_steps(name, backward):
    layer = make(name)
    for _ in range(2):
        x = inputs(3, C, 5).requires_grad_()
        y = layer(x)
        if backward:
            y.sum().backward()
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = layer(x)
    for other in copies:
        assert torch.equal(other(x), expected)
        assert_same_state(other, layer.state_dict())
    before = state(copies[0])
    layer(x)
    assert_same_state(copies[0], before)


@tracking_form
def test_statistics_keep_their_storage_and_carry_no_graph(name):
    layer = make(name)
    places = {k: (id(v), v.data_ptr()) for k, v in layer.named_buffers()}
    for _ in range(3):
        before = state(layer)
        train_a_step(layer, inputs(3, C, 5).requires_grad_())
        assert_same_state(layer, before, equal=False)
    for key, buffer in layer.named_buffers():
        assert (id(buffer), buffer.data_ptr()) == places[key]
        assert not buffer.requires_grad
        assert buffer.grad_fn is None


@every_form
def test_two_forwards_may_go_before_one_backward(name):
    layer = make(name, dtype=F64)
    twin = copy.deepcopy(layer)
    first, second = (inputs(b, C, 5, dtype=F64).requires_grad_() for b in (3, 4))
    (layer(first).square().sum() + layer(second).square().sum()).backward()
    for x in (first, second):
        expected = leaf(x)
        twin(expected).square().sum().backward()
        assert_close(x.grad, expected.grad)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad)


@every_form
def test_a_later_update_does_not_reach_an_earlier_graph(name):
    layer = make(name, dtype=F64).eval()
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5, dtype=F64).requires_grad_()
    y = layer(x)
    layer.train()(inputs(4, C, 5, dtype=F64))
    other = leaf(x)
    y.sum().backward()
    twin(other).sum().backward()
    assert_close(x.grad, other.grad)


@every_form
def test_frozen_parameters_let_the_inputs_gradient_through(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    layer.requires_grad_(False)
    x = inputs(3, C, 5).requires_grad_()
    other = leaf(x)
    train_a_step(layer, x)
    train_a_step(twin, other)
    assert_close(x.grad, other.grad)
    assert all(p.grad is None for p in layer.parameters())


@every_form
def test_parameters_learn_though_the_input_needs_no_gradient(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5)
    train_a_step(layer, x)
    train_a_step(twin, leaf(x))
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad)


# PyTorch 2.4's checkpointing uses what that version deprecates.
@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning")
@tracking_form
@pytest.mark.works_with(
    "instead",
    "`torch.utils.checkpoint.checkpoint`",
    "updates the statistics twice",
    know="`checkpoint(module, x)` from `labml_bcn.activation_checkpointing`",
)
def test_activation_checkpointing_updates_the_statistics_twice(name):
    layer = make(name)
    twin = copy.deepcopy(layer)
    x = inputs(3, C, 5).requires_grad_()
    # A layer is one of several. What is checkpointed is run again up to the last
    # tensor that its backward pass needs.
    block = nn.Sequential(layer, nn.Tanh())
    checkpoint(block, x, use_reentrant=False).square().sum().backward()
    twin(x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert not torch.equal(a, b)
    twin(x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert_close(a, b)


# Function transforms


@every_form
@pytest.mark.works_with("look inside", "`grad`, `vmap`, `jvp`", "every layer alone")
def test_function_transforms_give_what_eager_gives(name):
    layer = make(name, dtype=F64).eval()
    x, tangent = inputs(3, C, 5, dtype=F64), inputs(3, C, 5, dtype=F64)
    expected = leaf(x)
    y = layer(expected)
    (g,) = torch.autograd.grad(y.sin().sum(), expected)
    assert_close(torch.func.grad(lambda x: layer(x).sin().sum())(x), g)
    one_by_one = torch.func.vmap(lambda sample: layer(sample.unsqueeze(0)))(x)
    assert_close(one_by_one.squeeze(1), y)
    jvp = torch.func.jvp(layer, (x,), (tangent,))[1]
    by_differences = (layer(x + 1e-6 * tangent) - layer(x - 1e-6 * tangent)) / 2e-6
    assert_close(jvp, by_differences, 1e-6, 1e-6)


@tracking_layer
@pytest.mark.works_with("look inside", "ensembles (`vmap`)", "every layer alone")
def test_an_ensemble_under_vmap_learns_as_its_members_do(name):
    layers = [make(name) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    base = make(name).to("meta")

    def step(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    x = torch.stack([inputs(2, C, 5) for _ in layers])
    y = torch.func.vmap(step)(parameters, buffers, x)
    for i, layer in enumerate(layers):
        assert_close(y[i], layer(x[i]), 1e-5, 1e-5)
        for key, value in layer.named_buffers():
            assert_close(buffers[key][i], value)


@tracking_form
@pytest.mark.works_with("look inside", "`forward_ad`", "every layer alone, in training")
def test_forward_mode_in_training_is_what_reverse_mode_gives(name):
    layer = make(name, dtype=F64, momentum=0)
    x, tangent = inputs(3, C, 5, dtype=F64).requires_grad_(), inputs(3, C, 5, dtype=F64)
    g = torch.randn(3, C, 5, dtype=F64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        along = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    (gradient,) = torch.autograd.grad(layer(x), x, g)
    assert_close((along * g).sum(), (gradient * tangent).sum())


@pytest.mark.slow
@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_exported_with_a_dynamic_batch(name, training):
    layer = make(name).train(training)
    batch = torch.export.Dim("batch", min=2)
    exported = export(layer, inputs(3, C, 4, 4), {0: batch})
    for b in (2, 5):
        x = inputs(b, C, 4, 4)
        assert_close(exported(x), layer(x), 1e-5, 1e-5)
        for a, e in zip(exported.buffers(), layer.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)


# Compiled


@pytest.mark.slow
@every_layer
@pytest.mark.works_with("train", "`torch.compile`", "every layer alone")
def test_training_and_eval_compile_in_one_graph(name):
    torch.compiler.reset()
    layer = make(name)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)
    for b, training in ((2, True), (3, True), (5, True), (3, False)):
        layer.train(training)
        compiled.train(training)
        x = inputs(b, C, 4, 3).requires_grad_()
        y, expected = compiled(x), layer(x)
        # The compiler sums in another order.
        assert_close(y, expected, 1e-5, 1e-5)
        assert_same_gradients(
            y,
            [x, *compiled.parameters()],
            expected,
            [x, *layer.parameters()],
            rtol=1e-4,
            atol=1e-4,
        )
        for a, e in zip(compiled.buffers(), layer.buffers(), strict=True):
            assert_close(a, e, 1e-5, 1e-5)

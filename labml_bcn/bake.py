r"""
---
title: Bake a network
summary: >
  A trained network with batch-channel norm and weight standardization as
  plain modules of torch.nn, line by line: what is constant after training,
  why a batch norm folds into a convolution, and what is left.
---

# Bake a network

Training needs the layers of this project; the trained network does not.
Once nothing learns any more, most of what they compute is the same for
every image, and can be computed once. What is left is a convolution and a
group norm, and PyTorch has both. So a network is *baked* before it is
deployed: into a copy that any exporter, compiler or quantizer takes, and
that loads where this package is not installed.

    plain = bake(model.eval(), torch.randn(1, 3, 224, 224))
    torch.save(plain, "plain.pt")

Three things are constant, or have another name.

**A standardized weight** depends on the stored weight alone. Standardized
once, it is the weight of a plain convolution. Its gain and its offset are
part of it.

**Batch norm in evaluation** normalizes with running statistics. They do
not depend on the image, so it is an affine map of each channel: a slope
$a_c$ and an offset $d_c$, which are numbers.

$$y_{b,c,l} = a_c x_{b,c,l} + d_c
\qquad
a_c = \frac{\gamma_c}{\sqrt{\sigma^2_c + \epsilon}}
\qquad
d_c = \beta_c - a_c \mu_c$$ {#affine}

And a convolution is linear in its weight. If a batch norm reads what a
convolution has made, with weights $W_c$ and bias $b_c$ of output channel
$c$, the slope goes into the weights and the offset into the bias:

$$a_c (W_c * x + b_c) + d_c = (a_c W_c) * x + (a_c b_c + d_c)$$ {#folding}

The batch norm is gone, and the convolution costs what it did before. This
is exact whatever the stride, the padding and its mode, for all of these
choose which inputs are summed, and the map comes after the sum. The other
way round, a norm folded into the convolution *behind* it, would not be: the
zeros at a border are put there after the norm.

**The channel norm** looks at each image, so nothing of it is constant. It
is a group norm whose scale and shift are the same for all channels of a
group. With channel $c$ in group $g(c)$,

$$\gamma_c = \gamma_{g(c)} \qquad \beta_c = \beta_{g(c)}$$ {#repeated}

| of a network | becomes |
| --- | --- |
| `WSConv1d`, `2d`, `3d` | `nn.Conv1d`, `2d`, `3d` |
| `BatchNorm`, `EstimatedBatchNorm` | `nn.BatchNorm`, or nothing |
| `ChannelNorm` | `nn.GroupNorm` |
| `BatchChannelNorm` | the two in turn, and `nn.ReLU` if it has one |
"""

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from labml_bcn._autograd import is_watched
from labml_bcn._dataflow import (
    Dataflow,
    arguments,
    dataflow,
    tensors_of,
    undisturbed,
    units,
)
from labml_bcn._modules import become, hooks_on_calls, require_unwrapped
from labml_bcn._norms import NORMS
from labml_bcn._numerics import statistics_dtype
from labml_bcn.batch_channel_norm import (
    BatchChannelNorm,
    ChannelNorm,
    EstimatedBatchNorm,
)
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.weight_standardization import WSConv1d, WSConv2d, WSConv3d

# What each convolution becomes, in the same order.
STANDARDIZED = (WSConv1d, WSConv2d, WSConv3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Standardized = WSConv1d | WSConv2d | WSConv3d
# And what a batch norm becomes, by the end of a name that tells how many
# dimensions positions have.
BATCH_NORMS: dict[str | None, type[nn.Module]] = {
    "1d": nn.BatchNorm1d,
    "2d": nn.BatchNorm2d,
    "3d": nn.BatchNorm3d,
}

# Layers that an affine map of their output can be folded into. They are
# exactly these: a class that is derived from one may do more.
FOLDABLE = (
    *CONVOLUTIONS,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
# Layers whose output has the rank of their input.
KEEP_THE_RANK = (
    *NORMS,
    nn.Dropout,
    nn.GELU,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Sigmoid,
)
# Attributes of our layers that mean nothing to a plain one.
OURS = (
    "activation",
    "affine",
    "channels",
    "correction",
    "eps",
    "estimate",
    "groups",
    "momentum",
    "process_group",
    "track_running_stats",
    "variance_around",
)
# What a network is called in an error.
ROOT = "the model"


def bake(model: nn.Module, example: Any = None) -> nn.Module:
    r"""
    ## The function

    Return a copy of a trained model in plain modules of `torch.nn`.

    The copy gives the same results up to rounding, in evaluation. The model
    itself stays as it is, to be trained further. Whatever is not of this
    package is copied as it is, but for the weight and the bias of a layer
    that a batch norm was folded into. Hooks on calls are kept, and see what
    they saw before; hooks on the state dict of a layer that is replaced are
    not, for its keys are others. Functions of this package that the model's
    own code calls are no modules, and stay what they are.

    **With an example**, the model is run once, and that shows what reads the
    output of each layer, and of which rank it is; then the two are compared.
    A network that takes several branches should take those of evaluation: of
    what the run does not come by, nothing is known.

    **Without one**, `torch.fx` follows the model's code, which it can not do
    where that looks at values. A batch norm of which not enough is known
    stays one, and norms are taken to be called without a residual.

    **Arguments**

    - `model`: a network in evaluation mode, or a single layer.
    - `example`: an input: a tensor, or a tuple of positional arguments, or a
      dict of keyword arguments.

    **Returns** the copy, in evaluation mode, on the model's device and in its
    dtype. Where it has to keep running statistics they are float32 at least.

    **Raises**

    - `TypeError`: a model that is no module.
    - `ValueError`: a model or a norm in training mode; a model that is
      wrapped or compiled; a layer with a `forward` of its own, whose meaning
      nobody knows; a weight that is also read as it is stored; a norm that
      is called with and without a residual.
    - Whatever the model or its copy raises for the example.
    """
    require_unwrapped("bake", model)
    for name, module in model.named_modules():
        require_bakeable(name or ROOT, module)
    # All that follows happens to a copy. An error leaves nothing half done.
    with torch.inference_mode(False):
        baked = bake_copy(model, example, folds=True)
        # A network may read a tensor in a way that nobody can see, by its
        # address in memory for instance. Then the results tell.
        if not agree(model, baked, example):
            baked = bake_copy(model, example, folds=False)
            require_agreement(model, baked, example)
    return baked


def bake_copy(model: nn.Module, example: Any, *, folds: bool) -> nn.Module:
    """
    Return a baked copy of a model, with batch norms folded or all kept.
    """
    baked = copy_of(model)
    flow = dataflow(baked, example)
    # A norm that nobody came by stands in a branch that nobody has seen. What
    # it reads there may be any layer.
    seen = all(
        flow.sources_of(unit)
        for unit in units(baked)
        if isinstance(unit, NORMS)
    )
    flow.guessed = flow.guessed or not (folds and seen)
    bake_convolutions(baked, flow)
    bake_norms(baked, flow)
    return baked


def agree(model: nn.Module, baked: nn.Module, example: Any) -> bool:
    """
    Return whether a copy gives what the model gives for an example, if there
    is one.
    """
    if example is None:
        return True
    expected, given = run(model, example), run_baked(baked, example)
    # Of a network that differs from itself nothing can be told.
    return are_close(expected, given) or not are_close(
        expected, run(model, example)
    )


def are_close(expected: list[Tensor], given: list[Tensor]) -> bool:
    """
    Return whether all outputs are close.
    """
    return len(expected) == len(given) and all(map(is_close, expected, given))


def run(model: nn.Module, example: Any) -> list[Tensor]:
    """
    Return the tensors of a model's output, from a run that leaves no trace.
    """
    args, kwargs = arguments(example)
    with undisturbed(model):
        return tensors_of(model(*args, **kwargs), drain=True)


def run_baked(baked: nn.Module, example: Any) -> list[Tensor]:
    """
    Do the same with the copy.

    A network may look into its layers, for names that are no longer there.
    That should not wait until it is deployed.
    """
    try:
        return run(baked, example)
    except Exception as error:
        error.add_note(
            "So it was in the baked copy: the network uses a layer in a way "
            "that the plain one does not know."
        )
        raise


def is_close(expected: Tensor, given: Tensor) -> bool:
    """
    Return whether two outputs may differ by roundings alone.

    Those of half precision are too many to tell, in a deep network.
    """
    if expected.shape != given.shape:
        return False
    exact = expected.dtype in (torch.float32, torch.float64)
    if not exact or expected.is_meta or expected.numel() == 0:
        return True
    expected, given = widen(expected), widen(given)
    error = (given - expected).nan_to_num(0, 0, 0).abs().max()
    return bool(error <= 0.01 * expected.nan_to_num(0, 0, 0).abs().max())


def require_agreement(
    model: nn.Module, baked: nn.Module, example: Any
) -> None:
    """
    Raise if a copy in which nothing is folded gives something else.
    """
    if not agree(model, baked, example):
        raise ValueError(
            "bake makes a copy that gives the same, but for this example it "
            "gives something else; the network reads its layers in a way "
            "that is not known"
        )


def copy_of(model: nn.Module) -> nn.Module:
    """
    Return a copy of a model and of all that it holds.
    """
    # PyTorch copies no result that has a gradient. But a module may hold one:
    # an activation of its last call, or a weight that a hook computes.
    results = [
        tensor
        for module in model.modules()
        for tensor in tensors_of(vars(module))
        if not tensor.is_leaf
    ]
    memo = {id(result): result.detach().clone() for result in results}
    return copy.deepcopy(model, memo)


def require_bakeable(name: str, module: nn.Module) -> None:
    """
    Raise if a module is in training, or computes nobody knows what.
    """
    # In training, batch norm is no constant map.
    norms = (*NORMS, nn.modules.batchnorm._BatchNorm)
    if module.training and (name == ROOT or isinstance(module, norms)):
        raise ValueError(
            f"bake needs a network in evaluation, but {name} is in training "
            "mode; call model.eval() first"
        )
    # A class that is derived from one of ours may compute something else.
    for known in (*NORMS, *STANDARDIZED):
        if isinstance(module, known) and not computes_like(module, known):
            raise ValueError(
                f"bake knows what {known.__name__} computes, but {name}, a "
                f"{type(module).__name__}, has methods of its own for that; "
                "write it in modules of torch.nn"
            )


def computes_like(module: nn.Module, kind: type[nn.Module]) -> bool:
    """
    Return whether a module computes what one of our classes does.
    """
    if isinstance(module, EstimatedBatchNorm):
        kind = EstimatedBatchNorm
    names = "forward", "_conv_forward", "normalize", "weights_per_channel"
    return not any(
        name in vars(module)
        or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in names
    )


def replace(module: nn.Module, plain: nn.Module) -> None:
    r"""
    ## In place of a layer

    Make a module of the copy into a plain one, which keeps its hooks.

    A module may be registered under two names, stand in a list of the
    network's own, or be the network itself. Wherever it was, the plain one
    is now, for it is the same object.
    """
    # What others have put there stays, if the plain one has no such name.
    theirs = {
        key: value
        for key, value in vars(module).items()
        if not (key.startswith("_") or key in OURS or hasattr(plain, key))
    }
    content = {**theirs, **vars(plain.eval()), **hooks_on_calls(module)}
    become(module, type(plain), content)


def bake_convolutions(model: nn.Module, flow: Dataflow) -> None:
    r"""
    ## Convolutions

    Give each convolution its [standardized
    weight](weight_standardization.py#standardized) for good.
    """
    # Layers that share a weight share it in the copy, too, if they make the
    # same of it. All is computed before the first layer is replaced.
    weights: dict[tuple[Any, ...], nn.Parameter] = {}
    plain: dict[nn.Module, nn.Module] = {}
    for name, conv in model.named_modules():
        if not isinstance(conv, STANDARDIZED):
            continue
        require_no_other_reader(name or ROOT, conv, flow)
        run_weight_hooks(conv)
        key = what_makes_the_weight(conv)
        if key not in weights:
            weights[key] = standardize_for_good(conv)
        plain[conv] = plain_convolution(conv, weights[key])
    for conv, new in plain.items():
        replace(conv, new)


def require_no_other_reader(
    name: str, conv: Standardized, flow: Dataflow
) -> None:
    """
    Raise if a function reads the weight that is not standardized.
    """
    stored = conv._parameters.get("weight")
    function = None if stored is None else flow.reader_of_tensor(stored)
    if function is not None:
        raise ValueError(
            f"bake puts the standardized weight in the place of {name}'s "
            f"own, but {function} reads that outside of the layer; give it "
            "a parameter of its own"
        )


def run_weight_hooks(layer: nn.Module) -> None:
    """
    Have PyTorch's older weight norm, spectral norm and pruning compute a
    weight, as they do in a hook before each call, and remove that hook.
    """
    hooks = layer._forward_pre_hooks
    for key, hook in list(hooks.items()):
        if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
            with torch.enable_grad():
                hook(layer, ())
            del hooks[key]


def what_makes_the_weight(conv: Standardized) -> tuple[Any, ...]:
    """
    Return what two layers have in common if they use the same weight.
    """
    # A weight that is computed from others is its layer's own.
    stored = conv._parameters.get("weight", conv)
    settings = conv.eps, conv.correction, id(conv.gain), id(conv.offset)
    return id(stored), *settings


def standardize_for_good(conv: Standardized) -> nn.Parameter:
    """
    Return the weight that a convolution uses, as a parameter.
    """
    with torch.enable_grad():
        weight = conv.standardized_weight()
    # It lies in memory as the stored one does, channels last for instance.
    plain = torch.empty_like(conv.weight, requires_grad=False)
    plain.copy_(weight.detach())
    return nn.Parameter(plain, weight.requires_grad)


def plain_convolution(conv: Standardized, weight: nn.Parameter) -> nn.Module:
    """
    Return a convolution of PyTorch's with the settings of one of ours.
    """
    kinds = zip(STANDARDIZED, CONVOLUTIONS, strict=True)
    kind: Any = next(plain for ours, plain in kinds if isinstance(conv, ours))
    plain: nn.Module = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    plain.weight = weight
    # The bias stays the same parameter, unless it is computed, too.
    if isinstance(conv.bias, nn.Parameter):
        plain.bias = conv.bias
    elif conv.bias is not None:
        plain.bias = parameter(conv.bias, conv.bias.dtype)
    return plain


def parameter(
    values: Tensor, dtype: torch.dtype, repeats: int = 1
) -> nn.Parameter:
    """
    Return values as a parameter of its own, which learns if they did.
    """
    own = values.detach().repeat_interleave(repeats).to(dtype)
    return nn.Parameter(own, values.requires_grad)


def bake_norms(model: nn.Module, flow: Dataflow) -> None:
    r"""
    ## Norms

    Fold what can be folded, and put plain norms in the place of the rest.
    """
    for module in model.modules():
        if isinstance(module, NORMS):
            run_weight_hooks(module)
    # Neighbours are asked for their names first, while they have them.
    kinds = {
        norm: kind_of_batch_norm(norm, flow)
        for norm in model.modules()
        if isinstance(norm, NORMS)
    }
    # Where somebody looks, it must look the same.
    watched = [set(m.modules()) for m in model.modules() if is_watched(m)]
    # Layers of two norms come first. If one of the two is used on its own,
    # too, it is a plain norm by then, or still as it was.
    for name, norm in list(model.named_modules()):
        if isinstance(norm, BatchChannelNorm):
            residual = residual_of(name or ROOT, norm, flow)
            folded = fold_away(norm, norm.batch_norm, flow, watched)
            plain = plain_in_turn(norm, kinds[norm], folded, residual)
            replace(norm, plain)
    for norm in list(model.modules()):
        single = isinstance(norm, BatchNorm)
        if single and fold_away(norm, norm, flow, watched):
            replace(norm, nn.Identity())
        elif isinstance(norm, (BatchNorm, ChannelNorm)):
            replace(norm, plain_norm(norm, kinds[norm]))


def residual_of(name: str, norm: nn.Module, flow: Dataflow) -> str | None:
    """
    Return what happens to a norm's residual, or `None` if it never has one.
    """
    counts = flow.inputs_of(norm)
    if len(counts) > 1:
        raise ValueError(
            f"bake needs norms that add a residual in all calls or in none, "
            f"but {name} is called in both ways; use two norms"
        )
    if counts == {2}:
        return "added"
    return "left out" if flow.takes_none(norm) else None


def fold_away(
    norm: nn.Module,
    first: nn.Module,
    flow: Dataflow,
    watched: list[set[nn.Module]],
) -> bool:
    """
    Fold the batch norm of a norm into the layer that it reads, and return
    whether that was possible.
    """
    if not isinstance(first, BatchNorm) or first.exp_mean is None:
        return False
    layer = only_source(norm, flow)
    if layer is None or not outputs_are_channels(layer, norm, flow):
        return False
    # A hook on one of the two would see the map, or miss it, and so would one
    # on a module around one of the two.
    if is_watched(first) or any(
        (layer in inside) != (norm in inside) for inside in watched
    ):
        return False
    return fold(first, layer)


def only_source(norm: nn.Module, flow: Dataflow) -> Any:
    r"""
    ### Where a batch norm may go

    Return the layer that a norm's batch norm may be folded into, or `None`.

    Everything has to be known. The norm must read this layer and no other,
    in every call, or the map would be missing from what it reads elsewhere.
    And nothing but the norm may read the layer, or somebody would get the
    map who never asked for it: the other branch of a residual, or a function
    that takes the weight itself.
    """
    # The order in a container is a guess.
    if flow.guessed:
        return None
    sources = flow.sources_of(norm) or ["unknown"]
    layer: Any = sources[0]
    if type(layer) not in FOLDABLE:
        return None
    # With a residual, each call reads two things, the input first.
    inputs = max(flow.inputs_of(norm), default=1)
    reads = [source is layer for source in sources]
    readers = flow.readers_of(layer) or ["unknown"]
    alone = (
        all(reads[::inputs])
        and sum(reads) * inputs == len(reads)
        and all(reader is norm for reader in readers)
        and not any(map(flow.reader_of_tensor, layer.parameters()))
    )
    return layer if alone else None


def outputs_are_channels(layer: Any, norm: Any, flow: Dataflow) -> bool:
    """
    Return whether each output channel of a layer is a channel of a norm.
    """
    ranks = flow.ranks_of(norm)
    # A linear layer's outputs are the last dimension. It has to be known that
    # this is dimension 1.
    if isinstance(layer, nn.Linear):
        return ranks == {2} and layer.out_features == norm.channels
    known = not ranks or ranks == {layer.weight.dim()}
    return known and layer.out_channels == norm.channels


def affine_map(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    r"""
    ### The map

    Return the slope $a_c$ and the offset $d_c$ of a batch norm in
    evaluation, as in [the formula](#affine). Without scale and shift,
    $\gamma_c$ is 1 and $\beta_c$ is 0.

    They are computed in double precision: once is cheap, and rounding the
    folded weight is enough.
    """
    assert norm.exp_mean is not None
    assert norm.exp_var is not None
    mean, var = widen(norm.exp_mean), widen(norm.exp_var)
    scale, shift = norm.scale, norm.shift
    gamma = torch.ones_like(var) if scale is None else widen(scale)
    beta = torch.zeros_like(var) if shift is None else widen(shift)
    slope = gamma / torch.sqrt(var + norm.eps)
    offset = beta - slope * mean
    return slope, offset


def widen(x: Tensor) -> Tensor:
    """
    Return values in double precision, where the device knows it.
    """
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    return x.detach().to(wide)


def fold(norm: BatchNorm, layer: Any) -> bool:
    r"""
    ### Into the layer

    Fold a batch norm into the layer before it, and return whether that was
    possible.

    No digits are lost that the norm would have kept. If a mean is much
    larger than the deviation, those of the rest are gone from the layer's
    output already.
    """
    slope, offset = affine_map(norm)
    weight, dtype = widen(layer.weight), layer.weight.dtype
    bias = (
        torch.zeros_like(offset) if layer.bias is None else widen(layer.bias)
    )
    # [The slope](#folding) multiplies all weights of its output channel.
    factor = per_output(slope, layer)
    new_weight = (factor * weight).to(dtype)
    new_bias = (slope * bias + offset).to(dtype)
    # The norm's statistics are float32. In a layer of half precision, what
    # comes out may be too small or too large for that, and then both stay.
    error = (new_weight - factor * weight).abs()
    unit = torch.finfo(dtype).eps * weight.abs().max()
    fits = (error <= factor.abs() * unit).all() & new_bias.isfinite().all()
    if not (fits.is_meta or fits):
        return False
    learns = layer.weight.requires_grad
    layer.weight = nn.Parameter(new_weight, learns)
    layer.bias = nn.Parameter(new_bias, learns)
    return True


def per_output(values: Tensor, layer: Any) -> Tensor:
    r"""
    Shape one value for each output channel, `[C]`, to broadcast against the
    weight of a layer.
    """
    # Outputs are dimension 0 of the weight. Only in a transposed convolution
    # that is the inputs, and dimension 1 holds the outputs of their group.
    if getattr(layer, "transposed", False):
        values = values.unflatten(0, (layer.groups, -1))
        inputs_a_group = layer.in_channels // layer.groups
        values = values.repeat_interleave(inputs_a_group, 0)
    ones = [1] * (layer.weight.dim() - values.dim())
    return values.reshape(*values.shape, *ones)


def plain_in_turn(
    norm: BatchChannelNorm, kind: Any, folded: bool, residual: str | None
) -> nn.Module:
    r"""
    ### Both norms, and what follows

    Return what is left of a batch-channel norm: the group norm alone, or
    several modules in turn, under the names that the norms had.
    """
    first, second = norm.batch_norm, norm.channel_norm
    parts: dict[str, nn.Module] = {} if folded else {"batch_norm": first}
    parts["channel_norm"] = second
    for part in parts.values():
        if isinstance(part, (BatchNorm, ChannelNorm)):
            replace(part, plain_norm(part, kind))
    if norm.activation is not None:
        parts["activation"] = nn.ReLU()
    if residual is not None:
        return plain_with_residual(parts, residual)
    if len(parts) == 1 and not is_watched(second):
        return second
    return nn.Sequential(OrderedDict(parts))


def plain_with_residual(
    parts: dict[str, nn.Module], residual: str
) -> nn.Module:
    r"""
    ### With a residual

    No module of PyTorch's takes two inputs and adds them, but `torch.fx`
    makes modules of graphs. Such a one carries its own code: where it is
    loaded, nothing else has to be installed. If the residual was always
    `None`, it is taken and left out.
    """
    from torch import fx

    graph = fx.Graph()
    y = graph.placeholder("x")
    if residual == "added":
        second = graph.placeholder("residual")
    else:
        graph.placeholder("residual", Tensor | None, None)
    # The residual comes behind the norms, and before the activation.
    for name in ("batch_norm", "channel_norm"):
        if name in parts:
            y = graph.call_module(name, (y,))
    if residual == "added":
        y = graph.call_function(operator.add, (y, second))
    if "activation" in parts:
        y = graph.call_module("activation", (y,))
    graph.output(y)
    return fx.GraphModule(parts, graph, "NormsAndResidual")


def plain_norm(norm: BatchNorm | ChannelNorm, kind: Any) -> nn.Module:
    """
    Return one norm as a module of PyTorch's.
    """
    if isinstance(norm, ChannelNorm):
        return plain_channel_norm(norm)
    return plain_batch_norm(norm, kind)


def plain_channel_norm(norm: ChannelNorm) -> nn.GroupNorm:
    r"""
    ### A channel norm

    Return group norm with the scale and the shift of each group [repeated
    for its channels](#repeated).

    One thing is lost. Where channels come last in memory, PyTorch's kernel
    squares before it subtracts, and a mean far larger than the deviation
    takes the digits of the rest. The channel norm [subtracts
    first](batch_channel_norm.py#ChannelNorm.forward). Behind a batch norm,
    which has centred every channel, nothing is there to be lost.
    """
    weights = both(norm)
    group_size = norm.channels // norm.groups
    affine = bool(weights)
    plain = nn.GroupNorm(norm.groups, norm.channels, norm.eps, affine)
    if weights:
        plain.weight, plain.bias = (
            parameter(values, values.dtype, group_size) for values in weights
        )
    return plain


def both(norm: BatchNorm | ChannelNorm) -> list[Tensor]:
    """
    Return scale and shift of a norm, or nothing if it has neither.

    PyTorch's norms have both or none. One alone is joined by ones or zeros.
    """
    scale, shift = norm.scale, norm.shift
    if scale is not None:
        return [scale, torch.zeros_like(scale) if shift is None else shift]
    if shift is not None:
        return [torch.ones_like(shift), shift]
    return []


def plain_batch_norm(norm: BatchNorm, kind: Any) -> nn.Module:
    r"""
    ### A batch norm that stays

    Return one of PyTorch's batch norms with the same values.

    It takes an input of half precision only if all its values have the same
    dtype, or are float32. Statistics need float32, so all do.
    """
    values = (norm.scale, norm.shift, norm.exp_mean, norm.exp_var)
    known = next((v for v in values if v is not None), torch.empty(0))
    dtype = statistics_dtype(known)
    weights = both(norm)
    plain: nn.Module = kind(
        norm.channels,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=bool(weights),
        track_running_stats=norm.exp_mean is not None,
        device=known.device,
        dtype=dtype,
    )
    if weights:
        plain.weight, plain.bias = (
            parameter(values, dtype) for values in weights
        )
    if norm.exp_mean is not None and norm.exp_var is not None:
        plain.running_mean = norm.exp_mean.to(dtype, copy=True)
        plain.running_var = norm.exp_var.to(dtype, copy=True)
    # A class of this package must not stay.
    if kind is BatchNormOfAnyRank:
        from torch import fx

        plain = fx.symbolic_trace(plain.eval())
    return plain


class BatchNormOfAnyRank(nn.modules.batchnorm._BatchNorm):
    r"""
    ### Of which rank

    PyTorch has a batch norm for each rank, and checks it. Where a rank is
    not known, `torch.fx` makes a module of this one, without the check.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """
        Accept any input.
        """


def kind_of_batch_norm(norm: nn.Module, flow: Dataflow) -> Any:
    """
    Return which of PyTorch's batch norms takes what a norm is given.
    """
    # An example shows the rank. Without one, the names of neighbours may
    # tell: what `nn.Conv2d` makes, `nn.BatchNorm2d` takes. One dimension of
    # positions or none are the same to `nn.BatchNorm1d`.
    ranks = flow.ranks_of(norm)
    found: set[str | None] = {f"{max(rank - 2, 1)}d" for rank in ranks}
    for ends in (flow.sources_of, flow.readers_of):
        found = found or dimensions_near(norm, ends, {norm})
    dimensions = found.pop() if len(found) == 1 else None
    return BATCH_NORMS.get(dimensions, BatchNormOfAnyRank)


def dimensions_near(
    module: nn.Module, ends: Callable[[nn.Module], Any], seen: set[Any]
) -> set[str | None]:
    """
    Return what the names of the modules on one side of a module say of
    dimensions, or nothing if one of them is silent.
    """
    found: set[str | None] = set()
    for end in ends(module) or ["unknown"]:
        kind = type(end)
        if isinstance(end, KEEP_THE_RANK):
            # A network may go in circles.
            if end not in seen:
                seen.add(end)
                found |= dimensions_near(end, ends, seen) or {None}
        elif kind.__module__.startswith("torch.nn"):
            dimensions = kind.__name__[-2:]
            found.add(dimensions if dimensions in BATCH_NORMS else None)
        else:
            found.add(None)
    return set() if None in found else found

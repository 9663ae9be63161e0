r"""
---
title: Convert a network
summary: >
  Bring batch-channel norm and weight standardization into a PyTorch network
  that you have: in place, with the same parameters, and a report of every
  norm and convolution.
---

# Into your network

You have a network, and your batches are one or two images. So its batch
norms are at their worst. This module puts
[batch-channel norm](batch_channel_norm.py) in their place, and
[standardizes the weights](weight_standardization.py) in front of them:

    conversion = convert(model, torch.randn(1, 3, 224, 224))
    print(conversion)

The rest of your program stays as it is. The parameters are the same objects,
so an optimizer made before goes on as it was; only the channel norms bring
new ones. When you have trained, [bake](bake.py) makes a plain network of it.

**What is kept, and why that matters.** A standardized weight has lost its
scale. A norm behind the convolution takes any scale out again, so nothing is
missing. Where something else reads the output, say an addition, the scale is
part of what the network computes, and standardizing would break it: what the
blocks of a pre-activation ResNet add up would be many times too large. So the
module looks. It runs an example through the network, and sees what reads
each convolution's output.

**When not to use it.** A network that was trained with large batches and is
only used, not trained, has good statistics: leave it as it is. If it is to be
fine-tuned with one or two images a batch, convert it with
[`pretrained=True`](#keep_function).

**Papers.** Qiao, Wang, Liu, Shen and Yuille, *Micro-Batch Training with
Batch-Channel Normalization and Weight Standardization*,
[arXiv 1903.10520](https://arxiv.org/abs/1903.10520).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import ceil, prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from labml_bcn._checks import (
    require_divisor,
    require_momentum,
    require_one_of,
    require_positive_int,
)
from labml_bcn._dataflow import (
    Dataflow,
    arguments,
    dataflow,
    is_uninitialized,
    undisturbed,
)
from labml_bcn._modules import become, hooks_on_calls, require_unwrapped
from labml_bcn._norms import NORMS
from labml_bcn._numerics import cast, statistics_dtype
from labml_bcn.batch_channel_norm import (
    ESTIMATES,
    BatchChannelNorm,
    ChannelNorm,
)
from labml_bcn.weight_standardization import (
    WSConv1d,
    WSConv2d,
    WSConv3d,
)

Groups = int | Callable[[int], int]
Keep = str | nn.Module | type[nn.Module]


@torch.inference_mode(False)
def convert(
    model: nn.Module,
    example: Any = None,
    *,
    groups: Groups = 32,
    momentum: float = 0.01,
    variance_around: str = "running_mean",
    weight_standardization: bool = True,
    pretrained: bool = False,
    keep: Keep | Iterable[Keep] = (),
) -> "Conversion":
    r"""
    ## Converting

    Replace a network's batch norms by batch-channel norms, and the
    convolutions in front of norms by standardized ones.

    It is done in place, and wholly or not at all: an error leaves the network
    as it was. A second call finds nothing left to do. Every parameter stays
    the same object, so optimizers and tied weights hold, and so do hooks,
    modes, dtypes, devices and what is frozen.

    **Arguments**

    - `model`: the network. Unwrap it first: not one inside of
      `DistributedDataParallel`, FSDP or `torch.compile`.
    - `example`: an input of the network; a tuple for several arguments, a
      dict for arguments by keyword. The network runs it once as it is, in
      evaluation, and once converted. Without an example, `torch.fx` follows
      the network's code, and where it cannot, the order inside of
      `nn.Sequential` is all that counts.
    - `groups`: number of groups of the channel norms, or a function that
      returns it for a number of channels. A number that does not fit gives
      way to [the nearest one that does](#choose_groups).
    - `momentum`, `variance_around`: as in
      [the layer](batch_channel_norm.py#BatchChannelNorm). The defaults are
      meant for one or two images a batch.
    - `weight_standardization`: whether convolutions are changed, too.
    - `pretrained`: keep the function of each changed convolution, by
      [a gain and an offset](#keep_function). Set it where the weights have
      been trained without standardization.
    - `keep`: what is to stay as it is: names of modules, the modules, or
      their classes. What is inside of them stays, too.

    **Returns** a [report](#Conversion) of every norm and convolution.

    **Raises**

    - `TypeError`: an argument of another kind.
    - `ValueError`: a wrapped or compiled network, an argument out of its
      range, a name in `keep` that the network does not have, groups from a
      function that do not divide the channels, or a norm with hooks on its
      state dict, whose names change.
    - Whatever the network raises for the example, before or after.

    **Source**: the papers put batch-channel norm in the place of batch norm,
    and standardize the convolutions in front of it.
    """
    require_unwrapped("convert", model)
    settings = Settings(
        require_groups(groups),
        require_momentum(momentum),
        require_one_of("variance_around", variance_around, tuple(ESTIMATES)),
        require_bool("weight_standardization", weight_standardization),
        require_bool("pretrained", pretrained),
        is_uninitialized(model),
    )
    # First everything is decided, and what is new is made. The network has
    # not changed by then.
    kept = require_modules(keep, model)
    flow = dataflow(model, example)
    report, changes = Conversion(model), []
    decisions: Decisions = {}
    layers = names_of_layers(model)
    # Whether a convolution is changed depends on the norm behind it.
    for module in sorted(
        layers, key=lambda layer: isinstance(layer, _ConvNd)
    ):
        decisions[module] = (
            "as asked for"
            if module in kept
            else decide(module, layers[module][0], flow, settings, decisions)
        )
    for module, names in layers.items():
        decision = decisions[module]
        if isinstance(decision, Change):
            changes.append(decision)
            report.changed |= dict.fromkeys(names, decision.what)
        else:
            report.kept |= dict.fromkeys(names, decision)
    report.notes = notes_on(changes, settings)
    make_changes(changes, model, None if settings.lazy else example)
    report.new_parameters = [
        parameter
        for change in changes
        if isinstance(change.module, BatchChannelNorm)
        for parameter in change.module.channel_norm.parameters()
    ]
    return report


@dataclass
class Conversion:
    """
    ## The report

    What `convert` has done. `print` shows it as a table.

    - `model`: the network. It is the one that was passed in.
    - `changed`: for each changed module its qualified name, and what was
      done.
    - `kept`: for each norm or convolution that was left as it is, the reason.
    - `new_parameters`: the scales and shifts of the channel norms. An
      optimizer that was made before does not know them: give them to it with
      `optimizer.add_param_group({"params": conversion.new_parameters})`.
    """

    model: nn.Module
    changed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    new_parameters: list[nn.Parameter] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the table, in the order of the network."""
        report = dict(self.changed)
        report |= {name: f"kept: {why}" for name, why in self.kept.items()}
        modules = dict(self.model.named_modules(remove_duplicate=False))
        rows = [
            (name or type(self.model).__name__, report[name])
            for name in modules
            if name in report
        ]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:{width}}  {text}" for name, text in rows]
        counts = f"{len(self.changed)} changed, {len(self.kept)} kept"
        return "\n".join([*lines, counts, *self.notes])

    def __repr__(self) -> str:
        """Return the table: this is what a notebook shows."""
        return str(self)


@dataclass(frozen=True)
class Settings:
    """What the caller asks of all changes."""

    groups: Groups
    momentum: float
    variance_around: str
    weight_standardization: bool
    pretrained: bool
    lazy: bool


@dataclass
class Change:
    """
    ## One change

    What a module is to become.

    The module itself becomes another layer: it changes its class and its
    attributes, and stays the same object. So whoever holds it, be it a list,
    a closure or a second name in the network, holds the new layer.
    """

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    what: str

    def swap(self) -> None:
        """
        Make the change. A second call takes it back.
        """
        self.kind, self.attributes = become(
            self.module, self.kind, self.attributes
        )


Decisions = dict[nn.Module, Change | str]


def make_changes(
    changes: list[Change], model: nn.Module, example: Any
) -> None:
    """
    Make all changes, or none of them if the example does not run then.

    A network may look into its batch norms by names that are no longer there,
    or have one value in a group.
    """
    for change in changes:
        change.swap()
    if example is None or not changes:
        return
    args, kwargs = arguments(example)
    try:
        with undisturbed(model):
            model(*args, **kwargs)
    except BaseException as error:
        for change in changes:
            change.swap()
        error.add_note(
            "So it was after the conversion. It has been taken back; name "
            "in keep= what has to stay as it is."
        )
        raise


# What becomes of a convolution. Their subclasses may do anything.
STANDARDIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: WSConv1d,
    nn.Conv2d: WSConv2d,
    nn.Conv3d: WSConv3d,
}
# They take out the scale of what they read, as all of ours do.
NORMS_OF_TORCH = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
FUNCTIONS_THAT_NORMALIZE = (
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
)
# A smaller filter has too little left to learn when its mean and its scale
# are gone: the depthwise ones of 3 x 3, for instance.
FEWEST_WEIGHTS = 16
EPS = 1e-5


def names_of_layers(model: nn.Module) -> dict[nn.Module, list[str]]:
    """
    Return the norms and convolutions of a network, each with all its names.

    What is inside of a layer of ours, or of a scripted module, is its own
    affair.
    """
    kinds = (*NORMS_OF_TORCH, *NORMS, _ConvNd)
    names: dict[nn.Module, list[str]] = {}
    closed: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(closed):
            continue
        if isinstance(module, kinds):
            names.setdefault(module, []).append(name)
        # Those that PyTorch trains for quantization hold a norm of their own.
        if isinstance(
            module, (BatchChannelNorm, torch.jit.ScriptModule, _ConvNd)
        ):
            closed = *closed, f"{name}." if name else ""
    return names


def decide(
    module: nn.Module,
    name: str,
    flow: Dataflow,
    settings: Settings,
    decisions: Decisions,
) -> Change | str:
    """
    ## Deciding

    Return what a module is to become, or the reason why it stays.
    """
    # Some reasons hold for norms and convolutions alike.
    kind = type(module).__name__
    if isinstance(module, (*NORMS, *STANDARDIZED.values())):
        return f"{kind} is one of ours already"
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return f"{kind} is lazy: run the network once, then convert it"
    if hasattr(module, "parametrizations"):
        return f"{kind} has parametrized weights"
    if "forward" in vars(module):
        return f"{kind} has had its forward replaced"
    if not isinstance(module, (_ConvNd, _BatchNorm)):
        return f"{kind} does not look at the batch"
    # What others have put into a layer would be lost, or would mean something
    # else. And a function that takes a layer's tensors goes on with them.
    if isinstance(vars(module).get("weight"), Tensor):
        return "its weight is made by something else before each call"
    own = {**module._parameters, **module._buffers}
    if added := [key for key in own if key not in TENSORS]:
        return f"it holds {', '.join(added)} besides"
    readers = [
        flow.reader_of_tensor(x) for x in own.values() if x is not None
    ]
    if function := next((reader for reader in readers if reader), None):
        return f"{function} reads its weights or statistics directly"
    if isinstance(module, _ConvNd):
        return decide_convolution(module, flow, settings, decisions)
    return decide_norm(module, name, flow, settings)


def decide_convolution(
    conv: _ConvNd, flow: Dataflow, settings: Settings, decisions: Decisions
) -> Change | str:
    """
    Return what a convolution is to become, or the reason why it stays.
    """
    kind = type(conv)
    if not settings.weight_standardization:
        return "weight_standardization is off"
    if isinstance(conv, _ConvTransposeNd):
        return "transposed: its weight does not hold one filter an output"
    if kind not in STANDARDIZED:
        return f"{kind.__name__} is a subclass, which may do anything"
    if taken := [
        name for name in ("eps", "correction") if hasattr(conv, name)
    ]:
        return f"it has an attribute {taken[0]} already"
    if conv.weight.is_complex() or not conv.weight.numel():
        return "its weight is complex, or empty"
    weights = conv.weight[0].numel()
    if weights < FEWEST_WEIGHTS:
        return f"{weights} inputs a filter, fewer than {FEWEST_WEIGHTS}"
    # A norm takes the scale of its input out again, so nothing is lost. If
    # anything else reads the output, the scale is a part of the function.
    readers = flow.readers_of(conv)
    if readers is None and flow.observed:
        return "the example did not reach it"
    if readers is None and settings.lazy:
        return "the network has lazy layers: run it once, then convert it"
    if readers is None:
        return "it is not known what reads its output: pass an example"
    if any(stays_frozen(reader, decisions) for reader in readers):
        return "the batch norm behind it stays, and is in evaluation"
    norms = [reader for reader in readers if is_norm(reader)]
    others = [reader for reader in readers if not is_norm(reader)]
    if others or not norms:
        names = [
            other if isinstance(other, str) else type(other).__name__
            for other in others
        ]
        names = [*dict.fromkeys(names)] or ["nothing"]
        start = "besides a norm" if norms else "no norm behind it"
        reads = "reads" if len(names) == 1 else "read"
        return f"{start}: {', '.join(names)} {reads} its output"
    return standardized(conv, settings)


def stays_frozen(reader: nn.Module | str, decisions: Decisions) -> bool:
    """
    Return whether a norm is to stay one that takes out no scale.

    That is a batch norm in evaluation: its statistics are those of the scale
    that there was.
    """
    return (
        isinstance(reader, _BatchNorm)
        and not isinstance(decisions.get(reader), Change)
        and not reader.training
        and reader.running_mean is not None
    )


def is_norm(reader: nn.Module | str) -> bool:
    """
    Return whether something takes out the scale of what it reads.
    """
    if isinstance(reader, str):
        return any(name in reader for name in FUNCTIONS_THAT_NORMALIZE)
    # A class of one's own may do anything, and need not normalize.
    kinds = (*NORMS_OF_TORCH, *NORMS)
    forwards = [kind.forward for kind in kinds] + [nn.SyncBatchNorm.forward]
    return isinstance(reader, kinds) and type(reader).forward in forwards


def standardized(conv: _ConvNd, settings: Settings) -> Change:
    """
    ## A convolution

    Return the change of a convolution to one with standardized weights.
    """
    # Both layers hold the same weight and bias. What differs is how the
    # weight is used.
    kind = STANDARDIZED[type(conv)]
    gain, offset = None, None
    if settings.pretrained:
        gain, offset = keep_function(conv.weight)
    attributes = {
        **vars(conv),
        "_buffers": {**conv._buffers, "gain": gain, "offset": offset},
        "eps": EPS,
        "correction": 0,
    }
    what = f"{type(conv).__name__} -> {kind.__name__}"
    return Change(conv, kind, attributes, what)


def keep_function(weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    Return the gain and the offset that undo standardizing a weight.

    They are what standardizing takes from each filter, its deviation and its
    mean:

    $$W_{o,i} = \sqrt{\sigma^2_o + \epsilon} \; \hat W_{o,i} + \mu_o$$
    {#undone}

    As they do not learn, the network starts with the function that it had,
    and trains with standardized weights from there. What that undoes: the
    filters have their old scales and means, so the loss is not as smooth in
    them as it is for standardized ones.

    **Shape**: `[O, 1, *]`, for a weight `[O, *]`.
    """
    # Dividing the statistics of the norm behind it instead would be exact
    # only where every filter has mean zero.
    filters = cast(weight.detach(), statistics_dtype(weight))
    dims = list(range(1, weight.dim()))
    var, mean = torch.var_mean(filters, dims, correction=0, keepdim=True)
    return (var + EPS).sqrt(), mean


# What a batch norm and a convolution hold.
TENSORS = (
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
)
# What a class of one's own may change: not what it computes.
HARMLESS = ("extra_repr", "reset_parameters", "_check_input_dim")
# What a group has at least, where there are enough.
FEWEST_VALUES = 8
# Their keys are no longer there after the change.
STATE_DICT_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def decide_norm(
    norm: _BatchNorm, name: str, flow: Dataflow, settings: Settings
) -> Change | str:
    """
    Return what a batch norm is to become, or the reason why it stays.
    """
    if methods := methods_of_its_own(type(norm)):
        kind = type(norm).__name__
        return f"{kind} is a subclass with {', '.join(methods)} of its own"
    for hooks in STATE_DICT_HOOKS:
        if getattr(norm, hooks):
            raise ValueError(
                f"{name or 'the model'} has hooks on its state dict "
                f"({hooks}), and its state dict changes; remove them, or "
                f"name it in keep="
            )
    # Without an example, there is no telling how many positions there are. In
    # front of `nn.BatchNorm1d` there may be one.
    positions = min(
        (prod(shape[2:]) for shape in flow.shapes_of(norm)),
        default=1 if isinstance(norm, nn.BatchNorm1d) else FEWEST_VALUES,
    )
    if norm.num_features * positions < 2:
        return "its only group would have one value"
    groups = choose_groups(
        settings.groups, norm.num_features, positions, name
    )
    return batch_channel_norm_of(norm, groups, settings)


def methods_of_its_own(kind: type[nn.Module]) -> list[str]:
    """
    Return the methods of a class that PyTorch's batch norms do not have.
    """
    return [
        name
        for each in kind.__mro__
        if not each.__module__.startswith("torch.") and each is not object
        for name, value in vars(each).items()
        if callable(value)
        and not name.startswith("__")
        and name not in HARMLESS
    ]


def choose_groups(
    groups: Groups, channels: int, positions: int, name: str
) -> int:
    """
    ## Groups

    Return the number of groups for a number of channels.

    It is the largest divisor of the channels, up to the number asked for,
    that leaves enough in a group: 32 groups fit neither 16 channels nor 24,
    40 or 144. One channel alone would be an instance norm, which takes out
    all that the batch norm before it has done. And two values alone become
    minus one and one, whatever they were. What a function returns is taken
    as it is.
    """
    if callable(groups):
        own = groups(channels)
        try:
            return require_divisor(own, channels)
        except (TypeError, ValueError) as error:
            error.add_note(f"groups({channels}) returned it, for {name}.")
            raise
    fewest = max(2, ceil(FEWEST_VALUES / positions))
    return max(
        g
        for g in range(1, groups + 1)
        if g == 1 or (channels % g == 0 and channels // g >= fewest)
    )


def batch_channel_norm_of(
    norm: _BatchNorm, groups: int, settings: Settings
) -> Change:
    """
    ## A norm

    Return the change of a batch norm to a batch-channel norm.
    """
    channels = norm.num_features
    new = BatchChannelNorm(
        channels,
        groups,
        norm.eps,
        settings.momentum,
        variance_around=settings.variance_around,
        process_group=process_group_of(norm),
        **where(norm),
    )
    # Scale and shift of the batch norm are those that it had, and so are its
    # running statistics. Without a scale and a shift of its own, the network
    # gets none; without statistics, the estimate starts anew.
    inner = new.batch_norm
    inner.scale, inner.shift = norm.weight, norm.bias
    inner.affine = norm.affine
    if norm.running_mean is not None and norm.running_var is not None:
        wide = statistics_dtype(norm.running_mean)
        inner.exp_mean = cast(norm.running_mean, wide)
        inner.exp_var = cast(norm.running_var, wide)
    if not norm.affine:
        new.channel_norm = ChannelNorm(
            channels, groups, norm.eps, affine=False
        )
    # What is frozen stays frozen, and what evaluates evaluates.
    learns = any(parameter.requires_grad for parameter in norm.parameters())
    new.channel_norm.requires_grad_(learns)
    new.train(norm.training)
    # Attributes that others have put there, and hooks, stay where they are.
    theirs = {
        name: value
        for name, value in vars(norm).items()
        if name not in vars(nn.SyncBatchNorm(1))
    }
    attributes = {**theirs, **vars(new), **hooks_on_calls(norm)}
    return Change(
        norm,
        BatchChannelNorm,
        attributes,
        describe(norm, new, settings.groups),
    )


def where(norm: _BatchNorm) -> dict[str, Any]:
    """
    Return the device and the dtype of a norm's tensors.
    """
    for tensor in (norm.weight, norm.running_mean):
        if tensor is not None:
            return {"device": tensor.device, "dtype": tensor.dtype}
    return {}


def process_group_of(norm: _BatchNorm) -> Any:
    """
    Return the processes over which a norm measures its batch.
    """
    # `SyncBatchNorm` without a group means all processes, if there are any.
    if not isinstance(norm, nn.SyncBatchNorm):
        return None
    if norm.process_group is None and dist.is_initialized():
        return dist.group.WORLD
    return norm.process_group


def describe(norm: _BatchNorm, new: BatchChannelNorm, asked: Groups) -> str:
    """
    Return what was done to a norm, and what is unusual about it.
    """
    size = new.channels // new.groups
    text = f"{type(norm).__name__} -> BatchChannelNorm, "
    text += f"{new.groups} groups of {size}" if new.groups > 1 else "1 group"
    unusual = {
        f"{asked} do not fit": not callable(asked) and asked != new.groups,
        "no scale and shift, as before": not norm.affine,
        "its estimate starts anew": not norm.track_running_stats,
        "a running average instead of a cumulative one": norm.momentum
        is None,
        "without a process group: none is initialized": (
            isinstance(norm, nn.SyncBatchNorm)
            and new.batch_norm.process_group is None
        ),
        "one channel a group: an instance norm": size == 1 < new.channels,
    }
    return "; ".join(
        [text, *(note for note, holds in unusual.items() if holds)]
    )


def notes_on(changes: list[Change], settings: Settings) -> list[str]:
    """
    Return what a reader of the report should know besides.
    """
    norms = [change.module for change in changes]
    trained = any(
        has_learned(norm) for norm in norms if isinstance(norm, _BatchNorm)
    )
    standardizes = any(
        change.kind in STANDARDIZED.values() for change in changes
    )
    if trained and standardizes and not settings.pretrained:
        return [
            "The batch norms have learned: if the weights are trained and to "
            "be kept, convert a fresh copy with pretrained=True."
        ]
    return []


def has_learned(norm: _BatchNorm) -> bool:
    """
    Return whether the statistics of a batch norm are not those of its start.
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or mean.is_meta:
        return False
    return bool((mean != 0).any() or (var != 1).any())


def require_groups(groups: Groups) -> Groups:
    """Return `groups`; raise unless it is a number or a function."""
    return (
        groups if callable(groups) else require_positive_int("groups", groups)
    )


def require_bool(name: str, value: bool) -> bool:
    """Return `value`; raise unless it is `True` or `False`."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True or False, got {value!r} "
            f"({type(value).__name__}); pass one of the two"
        )
    return value


def require_modules(
    keep: Keep | Iterable[Keep], model: nn.Module
) -> set[nn.Module]:
    """
    Return the modules that are to be kept; raise if there are none of a name.
    """
    is_one = isinstance(keep, (str, nn.Module)) or not isinstance(
        keep, Iterable
    )
    asked: Any = [keep] if is_one else keep
    by_name = dict(model.named_modules(remove_duplicate=False))
    kept: set[nn.Module] = set()
    for one in asked:
        if isinstance(one, str) and one in by_name:
            found = [by_name[one]]
        elif isinstance(one, type) and issubclass(one, nn.Module):
            found = [m for m in by_name.values() if isinstance(m, one)]
        elif isinstance(one, nn.Module) and one in by_name.values():
            found = [one]
        elif isinstance(one, (str, nn.Module)):
            close = get_close_matches(str(one), by_name, n=3)
            hint = (
                f"do you mean {' or '.join(close)}?"
                if close
                else ("see model.named_modules() for the names")
            )
            raise ValueError(
                f"keep: the network has no module {one!r}; {hint}"
            )
        else:
            raise TypeError(
                "keep takes names of modules, modules or classes of modules, "
                f"got {one!r} ({type(one).__name__}); pass keep=() for none"
            )
        kept.update(inner for module in found for inner in module.modules())
    return kept

"""Weights from elsewhere, under the names and with the formulas that they have there.

`load_checkpoint` puts the state dict of another implementation into a model of these
layers. What has to be known of each is a row of `SOURCES`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from labml_bcn._modules import require_module
from labml_bcn._sources import SOURCES, Source
from labml_bcn.batch_channel_norm import BatchChannelNorm
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.weight_standardization import WSConv1d, WSConv2d, WSConv3d

__all__ = ["SOURCES", "Source", "load_checkpoint"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WSCONVS = (WSConv1d, WSConv2d, WSConv3d)
WSConv: TypeAlias = WSConv1d | WSConv2d | WSConv3d
State: TypeAlias = Mapping[str, Tensor]


# Our names in a batch norm, and PyTorch's, which the other sources have, too.
BATCH_NORM = {
    "scale": "weight",
    "shift": "bias",
    "exp_mean": "running_mean",
    "exp_var": "running_var",
}
CHANNEL_NORM = {"scale": "weight", "shift": "bias"}
AFFINE = ("gain", "offset")
COUNT, SPEED = "num_batches_tracked", "estbn_moving_speed"
# Under which names programs keep a state dict in a larger file.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
# Of what does not fit, an error shows so many.
MOST_SHOWN = 8


@torch.no_grad()
def load_checkpoint(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    source: str | Source,
    *,
    keep: Collection[str] = (),
) -> dict[str, str]:
    """Load weights that another implementation has trained.

    Names are translated, and so is what the source computes: the standardization of
    its filters goes to `eps`, `correction`, `gain` and `offset` of each `WSConv`, and
    a fixed epsilon to the batch norms. In evaluation the model then gives what the
    source would. Everything else is up to the model; build it with the source's
    groups, for instance 32 in the authors' networks.

    It is all or nothing: every key must have its place, and every tensor of the model
    its key. A state dict may be wrapped as a training program saves it, in a
    dictionary under "state_dict" or "model", its keys behind "module.".

    **Arguments**

    - `model`: a model of this package's layers, its modules named as in the source.
    - `state_dict`: the checkpoint, as `torch.load` gives it.
    - `source`: where it comes from, one of `SOURCES`, or a row of one's own.
    - `keep`: modules by their qualified names, such as a head for other classes, that
      stay as they are, whatever the checkpoint holds for them.

    **Returns** for each module that was set, or that differs from the source in a way
    that the model's own settings decide: what and how.

    **Raises**

    - `TypeError`: if `model` is no module, or `state_dict` no dictionary of tensors.
    - `ValueError`: if the source is unknown, keys or shapes do not fit, or weights
      that were trained without standardization meet a `WSConv`.
    """
    require_module(model)
    model = unwrap(model)
    row = require_source(source)
    state = strip_prefixes(require_tensors(state_dict), model)
    modules = modules_to_load(model, keep)
    require_standardized(modules, row)
    places = tensors_to_load(model, modules)

    def matching(row: Source) -> tuple[dict[str, Tensor], list[str]]:
        return match(wanted(modules, places, state, row), state, keep)

    values, problems = matching(row)
    if problems:
        fitting = [name for name, other in SOURCES.items() if not matching(other)[1]]
        raise ValueError(describe(problems, source, fitting))
    changes = {
        name: changes_of(module, name, values, row) for name, module in modules.items()
    }
    # From here on nothing can fail.
    for key in places.keys() & values.keys():
        places[key].copy_(values[key])
    notes = {}
    for name, module in modules.items():
        for attribute, setting in changes[name].items():
            setattr(module, attribute, setting)
        told = [*describe_changes(changes[name]), *remarks(module, name, state, row)]
        if told:
            notes[name] = ", ".join(told)
    return notes


# What is given


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of what compiles or distributes it."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def require_source(source: str | Source) -> Source:
    """Return the row of a source."""
    if isinstance(source, Source):
        return source
    if not isinstance(source, str):
        raise TypeError(
            f"source must be a name or a Source, got {type(source).__name__}; the "
            "names are those of labml_bcn.checkpoints.SOURCES"
        )
    if source not in SOURCES:
        names = ", ".join(map(repr, SOURCES))
        raise ValueError(
            f"source must be one of {names}, got {source!r}; for another one pass a "
            "row of your own, a labml_bcn.checkpoints.Source"
        )
    return SOURCES[source]


def require_tensors(state_dict: Mapping[str, Any]) -> State:
    """Return the tensors of a checkpoint by their names."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "state_dict must be a dictionary of tensors, got "
            f"{type(state_dict).__name__}; load a file with torch.load first"
        )
    for name in WRAPPERS:
        if isinstance(inner := state_dict.get(name), Mapping):
            return require_tensors(inner)
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise TypeError(
                f"state_dict must have names as its keys, got {key!r} "
                f"({type(key).__name__}); pass what state_dict() returns"
            )
        if not isinstance(value, Tensor) or value.is_meta or value.is_complex():
            raise TypeError(
                "state_dict must hold tensors of real values, got "
                f"{type(value).__name__} at {key!r}; pass the part of the checkpoint "
                f"that holds the weights (under {' or '.join(map(repr, WRAPPERS))} it "
                "is found)"
            )
    return state_dict


def strip_prefixes(state: State, model: nn.Module) -> State:
    """Return a state dict without what a wrapper has put in front of each key."""
    own = model.state_dict()
    for prefix in PREFIXES * 2:
        wrapped = state and all(key.startswith(prefix) for key in state)
        if wrapped and not all(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def modules_to_load(model: nn.Module, keep: Collection[str]) -> dict[str, nn.Module]:
    """Return the modules by all of their names, without those that are kept."""
    if isinstance(keep, str):
        raise TypeError(
            f"keep must be a collection of names, got {keep!r}; pass [{keep!r}]"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in keep if name not in modules]
    if unknown:
        raise ValueError(
            f"keep must name modules of the model, got {unknown}; "
            "model.named_modules() has their names"
        )
    return {name: module for name, module in modules.items() if not lies_in(name, keep)}


def lies_in(name: str, modules: Collection[str]) -> bool:
    """Return whether a module or a key is one of these modules, or lies in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def require_standardized(modules: Mapping[str, nn.Module], row: Source) -> None:
    """Raise if weights that were not standardized meet one of our convolutions."""
    if row.eps is not None:
        return
    for name, module in modules.items():
        if isinstance(module, WSCONVS):
            raise ValueError(
                "weights that were trained without weight standardization must go to "
                f"plain convolutions, got a {type(module).__name__} at {name!r}; load "
                "them into the network as it was, and convert that: "
                "labml_bcn.convert(model, pretrained=True). If they were trained with "
                'it, pass source=SOURCES["batch_norm"]._replace(eps=1e-5)'
            )


# Keys


class Wanted(NamedTuple):
    """A tensor that the checkpoint must have: our name, its name there, its shape.

    Where the two names differ, so may dimensions of size 1.
    """

    ours: str
    theirs: str
    shape: torch.Size


def match(
    wanted: Iterable[Wanted], state: State, keep: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the checkpoint's tensors by our names, and what does not fit."""
    values, problems, used = {}, [], set()
    for ours, theirs, shape in wanted:
        value = state.get(theirs)
        if value is None:
            problems.append(f"{theirs!r} is missing, for {ours!r} of the model")
            continue
        used.add(theirs)
        if fits(value.shape, shape, exactly=ours == theirs):
            values[ours] = value.reshape(shape)
        else:
            problems.append(
                f"{theirs!r} has the shape {list(value.shape)}, and {ours!r} of the "
                f"model {list(shape)}"
            )
    # What norms count, or learn by, is no part of what they compute.
    norms = {key.rpartition(".")[0] for key in used}
    for key in state:
        holder, _, name = key.rpartition(".")
        is_count = name in (COUNT, SPEED) and holder in norms
        if key not in used and not is_count and not lies_in(key, keep):
            problems.append(f"{key!r} has no place in the model")
    return values, problems


def fits(shape: torch.Size, place: torch.Size, *, exactly: bool) -> bool:
    """Return whether a shape is another one, exactly or up to dimensions of size 1."""
    if exactly:
        return shape == place
    return [n for n in shape if n > 1] == [n for n in place if n > 1]


def wanted(
    modules: Mapping[str, nn.Module], places: State, state: State, row: Source
) -> Iterator[Wanted]:
    """Yield what a checkpoint must have for these modules."""
    translations = translate(modules, row)
    for ours, place in places.items():
        # A checkpoint may have our own names, and an old one no number of batches.
        known = ours in state
        theirs = ours if known else translations.get(ours, ours)
        if theirs is not None and (known or ours.rpartition(".")[2] != COUNT):
            yield Wanted(ours, theirs, place.shape)
    for name, module in modules.items():
        if isinstance(module, WSCONVS):
            shape = shape_of_gain(module)
            for ours, theirs in (("gain", row.gain), ("offset", row.offset)):
                if theirs is not None:
                    yield Wanted(join(name, ours), join(name, theirs), shape)


def translate(modules: Mapping[str, nn.Module], row: Source) -> dict[str, str | None]:
    """Return the source's names for ours, and `None` for what the source lacks."""
    names: dict[str, str | None] = {}
    if row.batch_norm is None:
        return names
    for name, module in modules.items():
        if isinstance(module, BatchChannelNorm):
            for ours, theirs in BATCH_NORM.items():
                theirs = row.batch_norm + theirs
                names[join(name, f"batch_norm.{ours}")] = join(name, theirs)
            for ours, theirs in CHANNEL_NORM.items():
                below = row.channel_norm
                known = None if below is None else join(name, below + theirs)
                names[join(name, f"channel_norm.{ours}")] = known
        elif isinstance(module, BatchNorm):
            for ours, theirs in BATCH_NORM.items():
                # That of a batch-channel norm has its names by now.
                names.setdefault(join(name, ours), join(name, theirs))
    return names


def tensors_to_load(
    model: nn.Module, modules: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Return the tensors of these modules by their names."""
    live: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    live.update(model.named_parameters(remove_duplicate=False))
    places = {}
    for key in model.state_dict():
        holder, _, name = key.rpartition(".")
        # A gain is a setting here: what it is depends on the source.
        is_setting = name in AFFINE and isinstance(modules.get(holder), WSCONVS)
        if holder in modules and key in live and not is_setting:
            places[key] = live[key]
            if live[key].is_meta:
                raise ValueError(
                    f"model must have memory to load into, got {key!r} on the meta "
                    "device; call model.to_empty(device=...) first"
                )
    return places


def join(*names: str) -> str:
    """Return a qualified name, where the name of the root is empty."""
    return ".".join(name for name in names if name)


def describe(problems: list[str], source: str | Source, fitting: list[str]) -> str:
    """Return the text of the error for a checkpoint that does not fit."""
    named = "its source" if isinstance(source, Source) else f"the source {source!r}"
    shown, more = problems[:MOST_SHOWN], len(problems) - MOST_SHOWN
    lines = [*shown, f"and {more} more"] if more > 0 else shown
    remedy = (
        "build the model with the layers and sizes of the checkpoint; what is to stay "
        "as it is, such as a head for other classes, goes into keep=[...], by the name "
        "of its module"
    )
    if fitting:
        remedy = f"its keys are those of {' or '.join(map(repr, fitting))}"
    listed = "".join(f"\n  {line}" for line in lines)
    return (
        f"the checkpoint must fit the model and {named}, got:{listed}\n"
        f"{remedy}. The model is as it was."
    )


# Settings


def changes_of(
    module: nn.Module, name: str, values: State, row: Source
) -> dict[str, Any]:
    """Return the settings that a module needs to compute what its source does."""
    wishes: dict[str, Any] = {}
    if isinstance(module, BatchNorm) and row.norm_eps is not None:
        wishes = {"eps": row.norm_eps}
    elif isinstance(module, WSCONVS):
        wishes = settings_of_filters(module, name, values, row)
    return {
        attribute: wish
        for attribute, wish in wishes.items()
        if isinstance(wish, Tensor) or getattr(module, attribute, None) != wish
    }


def settings_of_filters(
    module: WSConv, name: str, values: State, row: Source
) -> dict[str, Any]:
    """Return what makes a convolution standardize its weight as the source does."""
    gain = values.get(join(name, "gain"))
    if row.scaled:
        assert gain is not None
        gain = gain.double() * row.gamma / module.weight[0].numel() ** 0.5
    if row.eps_of_deviation:
        assert row.eps is not None
        key = join(name, "weight")
        if key not in values:
            raise ValueError(
                f"model must hold {key!r} as it is, got one that something else "
                "computes; take the parametrization away, load, and put it back"
            )
        variance = values[key].double().flatten(1).var(1, correction=row.correction)
        gain = (variance + row.eps).sqrt() / (variance.sqrt() + row.eps_of_deviation)
    return {
        "eps": row.eps,
        "correction": row.correction,
        "gain": for_each_filter(module, gain),
        "offset": for_each_filter(module, values.get(join(name, "offset"))),
    }


def for_each_filter(module: WSConv, values: Tensor | None) -> Tensor | None:
    """Return a gain or an offset in the form that a convolution keeps it."""
    if values is None:
        return None
    return values.to(module.weight).view(shape_of_gain(module)).clone()


def shape_of_gain(module: WSConv) -> torch.Size:
    """Return the shape of one value for each filter, `[O, 1, …]`."""
    return torch.Size((len(module.weight), *[1] * (module.weight.dim() - 1)))


def describe_changes(changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is set, in words."""
    for attribute, setting in changes.items():
        value = "one value a filter" if isinstance(setting, Tensor) else setting
        yield f"{attribute}={value}"


def remarks(module: nn.Module, name: str, state: State, row: Source) -> Iterator[str]:
    """Yield where a module differs from the source, and is left as it is."""
    standardizes = isinstance(module, WSCONVS)
    if isinstance(module, CONVOLUTIONS) and row.eps is not None and not standardizes:
        yield "does not standardize its weight; the source's convolutions do"
    if isinstance(module, BatchChannelNorm):
        if row.estimate is not None and module.estimate != row.estimate:
            yield f"estimate={module.estimate}; the source has {row.estimate}"
        speed = state.get(join(name, (row.batch_norm or "") + SPEED))
        momentum = module.batch_norm.momentum
        if speed is not None and abs(float(speed) - momentum) > 1e-6:
            yield f"momentum={momentum}; the source has {float(speed):.6g}"

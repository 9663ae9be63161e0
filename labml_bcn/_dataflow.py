"""Which module reads what another one has made.

`convert` and `bake` change a layer only if they know what becomes of its output. Seen
in a run of an example, all of that is certain. Without an example, `torch.fx` follows
symbols instead of tensors through the same code; where a program looks at values, it
gives up, and the order inside of `nn.Sequential` is all that is known.
"""

import copy
import inspect
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from labml_bcn.batch_channel_norm import BatchChannelNorm

# A module, or the name of a function outside of all modules.
End = nn.Module | str
INPUT = "the model's input"
OUTPUT = "the model's output"

KEPT = "an attribute of the model"
# Asked of a symbol, these do not look at its values.
LOOKS_AT_SHAPE = {
    "dim", "element_size", "is_complex", "is_contiguous", "is_floating_point",
    "ndimension", "nelement", "numel", "size", "stride", "type",
    "shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad",
}  # fmt: skip


class Dataflow:
    """What each module reads, and what reads its output.

    Only modules without modules of their own are listed, and the layers of this
    package: what goes on inside of them is their own affair. `nn.Identity` is seen
    through.
    """

    def __init__(self, observed: bool = False, guessed: bool = False) -> None:
        # Whether a model was run for it, or the order in containers was all.
        self.observed, self.guessed = observed, guessed
        self._sources: dict[End, list[End]] = {}
        self._readers: dict[End, list[End]] = {}
        self._shapes: dict[nn.Module, set[torch.Size]] = {}
        self._calls: dict[nn.Module, set[int]] = {}
        self._take_none: set[nn.Module] = set()
        self._read_tensors: dict[int, str] = {}

    def readers_of(self, module: nn.Module) -> list[End] | None:
        """Return what reads the module's output, or `None` where it is not known."""
        return self._readers.get(module)

    def sources_of(self, module: nn.Module) -> list[End] | None:
        """Return what the module reads, or `None` where it is not known."""
        return self._sources.get(module)

    def shapes_of(self, module: nn.Module) -> set[torch.Size]:
        """Return the shapes of the tensors that the module was seen to take."""
        return self._shapes.get(module, set())

    def ranks_of(self, module: nn.Module) -> set[int]:
        """Return the ranks of the tensors that the module was seen to take."""
        return {len(shape) for shape in self.shapes_of(module)}

    def inputs_of(self, module: nn.Module) -> set[int]:
        """Return with how many tensors at a time the module was seen called."""
        return self._calls.get(module, set())

    def takes_none(self, module: nn.Module) -> bool:
        """Return whether the module was seen called with `None` for a tensor."""
        return module in self._take_none

    def reader_of_tensor(self, tensor: Tensor) -> str | None:
        """Return the name of a function that reads a parameter or buffer itself."""
        return self._read_tensors.get(id(tensor))

    def add_call(self, module: nn.Module, sources: list[End]) -> None:
        """Note that the module was called with what these have made."""
        self._readers.setdefault(module, [])
        self._sources.setdefault(module, []).extend(sources)
        self._calls.setdefault(module, set()).add(len(sources))
        for source in sources:
            self.add_reader(source, module)

    def add_arguments(
        self, module: nn.Module, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Note what is `None` among the arguments that a module is called with."""
        if any(argument is None for argument in (*args, *kwargs.values())):
            self._take_none.add(module)

    def add_reader(self, source: End, reader: End) -> None:
        """Note that something reads what `source` has made."""
        if isinstance(source, nn.Module):
            self._readers.setdefault(source, []).append(reader)

    def add_order(self, source: nn.Module, reader: nn.Module) -> None:
        """Note that one module reads what another has made, and nothing else."""
        self._readers[source] = [reader]
        self._sources[reader] = [source]

    def forget(self, module: nn.Module) -> None:
        """Note that nothing is known of a module."""
        for source in self._sources.pop(module, ()):
            self._readers.pop(source, None)
        for reader in self._readers.pop(module, ()):
            self._sources.pop(reader, None)

    def add_shapes(self, module: nn.Module, tensors: list[Tensor]) -> None:
        """Note the shapes of tensors that the module takes."""
        self._shapes.setdefault(module, set()).update(x.shape for x in tensors)

    def add_read_tensor(self, tensor: Tensor, function: End) -> None:
        """Note that a function reads a tensor that no module has made."""
        self._read_tensors.setdefault(id(tensor), str(function))


def is_unit(module: nn.Module) -> bool:
    """Return whether a dataflow lists the module as one thing."""
    if type(module) is nn.Identity:
        return False
    # A convolution that holds modules does something of its own with them.
    opaque = isinstance(module, (BatchChannelNorm, torch.jit.ScriptModule, _ConvNd))
    return opaque or not any(module.children())


def units(model: nn.Module) -> Iterator[nn.Module]:
    """Go through the modules that a dataflow lists."""
    if is_unit(model):
        yield model
        return
    seen: set[nn.Module] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if is_unit(module):
            yield module
        else:
            waiting.extend(module.children())


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an example as positional and keyword arguments of a call.

    Its tensors are copied: a network may write into its input.
    """
    copies = {id(x): x.detach().clone() for x in tensors_of(example)}
    example = copy.deepcopy(example, copies)
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


@contextmanager
def undisturbed(model: nn.Module) -> Generator[None]:
    """Have a model run in evaluation, without gradients, and leave no trace in it.

    Whatever the run changes is put back: modes, buffers, attributes, and the state of
    the random numbers.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    plain = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    attributes = [dict(vars(module)) for module in plain]
    held = [value for each in attributes for value in each.values()]
    # What stands in them may be changed where it stands.
    containers = [
        (value, copy.copy(value))
        for value in held
        if type(value) in (list, dict, OrderedDict, set)
    ]
    generators = [
        (value, value.get_state())
        for value in held
        if isinstance(value, torch.Generator)
    ]
    tensors = [Saved(x) for x in (*model.parameters(), *model.buffers())]
    try:
        with keep_random_numbers(model), torch.no_grad():
            # A model's own `eval` may do more than that.
            for module in modules:
                module.training = False
            yield
    finally:
        for module, before in zip(plain, attributes, strict=True):
            vars(module).clear()
            vars(module).update(before)
        for container, content in containers:
            refill(container, content)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for saved in tensors:
            saved.restore()
        for generator, state in generators:
            generator.set_state(state)


def refill(container: Any, content: Any) -> None:
    """Have a container hold what it held, unless it still does."""
    if list(map(id, contents_of(container))) == list(map(id, contents_of(content))):
        return
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


class Saved:
    """A parameter or a buffer as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.learns = tensor, tensor.requires_grad
        self.has_values = is_plain(tensor)
        if self.has_values:
            # The same memory under another name, and what stands there.
            self.place = tensor.data
            self.shape, self.values = tensor.shape, tensor.detach().clone()

    @torch.no_grad()
    def restore(self) -> None:
        """Make the tensor what it was, unless it still is."""
        tensor = self.tensor
        if is_lazy(tensor):
            return
        tensor.requires_grad_(self.learns)
        if not self.has_values:
            return
        is_there = tensor.shape == self.shape and (
            tensor.untyped_storage().data_ptr()
            == self.place.untyped_storage().data_ptr()
        )
        if not is_there or not torch.equal(tensor, self.values):
            tensor.data = self.place.resize_(self.shape)
            tensor.copy_(self.values)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor has values that lie in memory in the usual way.

    Those of other kinds (sparse, nested, lazy, without data) are not saved: few models
    hold any, and hardly one changes them in evaluation.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_meta)
    )


@contextmanager
def keep_random_numbers(model: nn.Module) -> Generator[None]:
    """Put the states of all generators back that a model may draw from."""
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    numpy = sys.modules.get("numpy")
    python, of_numpy = random.getstate(), numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(of_numpy)


def is_uninitialized(model: nn.Module) -> bool:
    """Return whether a model learns shapes from its first input only."""
    return any(is_lazy(x) for x in (*model.parameters(), *model.buffers()))


def dataflow(model: nn.Module, example: Any = None) -> Dataflow:
    """Return what is known of a model's dataflow, with or without an example.

    A run would give lazy modules their shapes: such a model is not run.
    """
    if example is None or is_uninitialized(model):
        return trace(model)
    return observe(model, example)


def observe(model: nn.Module, example: Any) -> Dataflow:
    """Run a model once, and return which module read what."""
    args, kwargs = arguments(example)
    flow = Dataflow(observed=True)
    try:
        with undisturbed(model), Watch(flow) as watch, watch.hooks(model):
            watch.finish(model, model(*args, **kwargs))
    except TypeError as error:
        if isinstance(example, Mapping):
            error.add_note(
                "A dict is taken for arguments by keyword. If it is an argument "
                "itself, pass (example,)."
            )
        raise
    return flow


class Watch(TorchDispatchMode):
    """Sees the calls of modules by hooks, and as a mode what is done between them.

    All operations on values come by, whoever calls them, and none that looks at a
    shape. A tensor is known by what made it last. It is kept alive: another one at
    the same place in memory would take its name.
    """

    def __init__(self, flow: Dataflow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = flow
        self.made: dict[int, tuple[Tensor, End]] = {}
        self.inside = 0
        self.hidden: set[nn.Module] = set()

    @contextmanager
    def hooks(self, model: nn.Module) -> Generator[None]:
        """Watch all units of the model."""
        handles: list[RemovableHandle] = []
        for unit in units(model):
            if isinstance(unit, torch.jit.ScriptModule):
                handles.extend(self.hooks_on_scripted(unit))
                continue
            handles.append(unit.register_forward_pre_hook(self.enter, with_kwargs=True))
            handles.append(unit.register_forward_hook(self.leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def hooks_on_scripted(self, unit: nn.Module) -> list[RemovableHandle]:
        """Watch a scripted module, which takes no hooks of its own."""

        def enter(module: nn.Module, args: Any) -> None:
            if module is unit:
                self.enter(module, args, {})

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if module is unit:
                self.leave(module, args, output)

        return [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        ]

    def made_by(self, tensor: Tensor) -> End:
        """Return what made a tensor."""
        _, maker = self.made.get(id(tensor), (None, INPUT))
        return maker

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note what a module is called with."""
        if not self.inside:
            tensors = tensors_of((args, kwargs))
            self.flow.add_call(module, [self.made_by(x) for x in tensors])
            self.flow.add_arguments(module, args, kwargs)
            self.flow.add_shapes(module, tensors)
        else:
            self.hidden.add(module)
        self.inside += 1

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note what it has made."""
        self.inside -= 1
        if not self.inside:
            self.note(output, module)

    def note(self, output: Any, maker: End) -> None:
        """Note who made the tensors of an output."""
        for tensor in tensors_of(output):
            self.made[id(tensor)] = tensor, maker

    def finish(self, model: nn.Module, output: Any) -> None:
        """Note what the whole model returns, and what it has kept for others."""
        for tensor in tensors_of(output, drain=True):
            self.flow.add_reader(self.made_by(tensor), OUTPUT)
        for module in model.modules():
            for tensor in tensors_of(vars(module), objects=False):
                self.flow.add_reader(self.made_by(tensor), KEPT)
        # What was called by another one has readers that nobody has seen.
        for module in self.hidden:
            self.flow.forget(module)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and note what it reads and makes."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        # A backward pass reads again what the forward pass has read.
        if self.inside or name.endswith("backward"):
            return result
        read = tensors_of((args, kwargs))
        for tensor in read:
            self.flow.add_reader(self.made_by(tensor), name)
            if id(tensor) not in self.made:
                self.flow.add_read_tensor(tensor, name)
        # What returns nothing has written into what it was given.
        self.note(read if result is None else result, name)
        return result


def tensors_of(tree: Any, *, objects: bool = True, drain: bool = False) -> list[Tensor]:
    """Return the tensors in nested containers, and in plain objects.

    What an iterator gives can be had once only: it is left alone, unless asked for.
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            found.append(item)
        if isinstance(item, OPAQUE) or id(item) in seen:
            continue
        seen.add(id(item))
        if drain and isinstance(item, Iterator):
            item = list(item)
        waiting.extend(reversed(contents_of(item)))
        if objects and type(item) not in CONTAINERS:
            waiting.extend(attributes_of(item))
    return found


# Tensors are what is looked for. The others lead out of the data.
OPAQUE = (Tensor, nn.Module, type, ModuleType, str, bytes)
# Others may do anything when they are looked through: load a file, or never end.
CONTAINERS = (
    list,
    tuple,
    dict,
    OrderedDict,
    set,
    frozenset,
    deque,
    *map(type, ({}.keys(), {}.values(), {}.items())),
)


def contents_of(item: Any) -> list[Any]:
    """Return what a container holds."""
    if isinstance(item, dict):
        return list(dict.values(item))
    if type(item) in CONTAINERS or isinstance(item, tuple):
        return list(item)
    return []


def attributes_of(item: Any) -> Iterator[Any]:
    """Go through the attributes of an object."""
    yield from getattr(item, "__dict__", {}).values()
    for kind in type(item).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            yield getattr(item, name, None)


def trace(model: nn.Module) -> Dataflow:
    """Return what is known of a model's dataflow without running it."""
    if is_unit(model):
        flow = Dataflow()
        flow.add_call(model, [INPUT])
        flow.add_reader(model, OUTPUT)
        return flow
    return trace_symbols(model) or order_in_containers(model)


def trace_symbols(model: nn.Module) -> Dataflow | None:
    """Follow symbols through the model's code, where it can be followed."""
    from torch import fx

    class Tracer(fx.Tracer):
        # A buffer is to be seen where it is read, as a parameter is.
        proxy_buffer_attributes = True

        def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
            return is_unit(module)

    with undisturbed(model):
        # It runs the model's own code, which may end in any error.
        try:
            graph = Tracer().trace(model, left_out(model))
        except Exception:
            return None
        # As long as the model is disturbed it holds the constants of its code.
        return dataflow_of(graph, model)


def dataflow_of(graph: Any, model: nn.Module) -> Dataflow:
    """Return the dataflow of a traced graph."""
    from torch import fx

    flow = Dataflow()
    for node in graph.nodes:
        reader = end_of(node, model)
        if isinstance(reader, nn.Module):
            # A node that is read twice counts twice, as a tensor does.
            read: list[fx.Node] = []
            fx.map_arg((node.args, node.kwargs), read.append)
            flow.add_call(reader, [end_of(source, model) for source in read])
            flow.add_arguments(reader, node.args, node.kwargs)
        elif not looks_at_shape(node):
            for source in node.all_input_nodes:
                flow.add_reader(end_of(source, model), reader)
                if source.op == "get_attr":
                    tensor = attrgetter(str(source.target))(model)
                    flow.add_read_tensor(tensor, reader)
    return flow


def left_out(model: nn.Module) -> dict[str, None]:
    """Return the arguments of a model that are `None` unless someone passes them.

    A symbol is not `None`: it would lead into the branch of training, for instance,
    where there are targets.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    return {each.name: None for each in parameters if each.default is None}


def end_of(node: Any, root: nn.Module) -> End:
    """Return the module or the name that a node of a traced graph stands for."""
    if node.op == "call_module":
        return root.get_submodule(node.target)
    names = {"placeholder": INPUT, "output": OUTPUT}
    return names.get(node.op, getattr(node.target, "__name__", str(node.target)))


def looks_at_shape(node: Any) -> bool:
    """Return whether a node of a traced graph looks at everything but the values."""
    asked = node.args[1] if node.target is getattr else node.target
    return asked in LOOKS_AT_SHAPE


def order_in_containers(model: nn.Module) -> Dataflow:
    """Return what the order of modules inside `nn.Sequential` says.

    A module that is registered elsewhere, too, may be called from there: of such a one
    nothing is known.
    """
    flow = Dataflow(guessed=True)
    elsewhere: set[nn.Module] = set()
    for container in model.modules():
        if runs_in_order(container):
            for source, reader in pairwise(in_order(container)):
                if is_unit(source) and is_unit(reader):
                    flow.add_order(source, reader)
        else:
            elsewhere.update(container.children())
    for module in elsewhere:
        flow.forget(module)
    return flow


def runs_in_order(module: nn.Module) -> bool:
    """Return whether a container calls its modules one after the other."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
    )


def in_order(container: nn.Module) -> Iterator[nn.Module]:
    """Go through what a container calls, and through containers inside of it."""
    for module in container._modules.values():
        if module is not None and runs_in_order(module):
            yield from in_order(module)
        elif module is not None and type(module) is not nn.Identity:
            yield module

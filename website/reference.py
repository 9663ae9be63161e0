"""The quick reference: the public names, from their own docstrings.

Everything is read from the source text, not from the imported package: so the
page follows every edit, and needs no torch.
"""

import ast
import inspect
import re
from itertools import takewhile
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef

# The order of reading: what a layer builds on comes before it, then what brings the
# layers into a network, and what is done to one that has them.
READING = (
    "batch_norm",
    "batch_channel_norm",
    "functional",
    "weight_standardization",
    "convert",
    "bake",
    "_norms",
    "statistics",
    "weight_decay",
    "checkpoints",
)


def markdown(package: Path) -> str:
    """Return a section for each public name, file by file."""
    init = ast.parse((package / "__init__.py").read_text("utf-8"))
    modules = {
        node.module.rpartition(".")[2]: {alias.name for alias in node.names}
        for node in init.body
        if isinstance(node, ast.ImportFrom) and node.module
    }
    reading = sorted(modules, key=READING.index)
    return "\n\n".join(
        _section(package / f"{module}.py", name)
        for module in reading
        for name in _names_in_file(package / f"{module}.py", modules[module])
    )


def _definitions(path: Path) -> dict[str, Definition]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


def _aliases(path: Path) -> dict[str, str]:
    """Return what is defined as another name of something: `Other = Name`."""
    return {
        node.targets[0].id: node.value.id
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Name)
    }


def _constants(path: Path) -> dict[str, str]:
    """Return what is defined as a tuple, with the comment above it."""
    source = path.read_text("utf-8")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            lines = source.splitlines()[: node.lineno - 1]
            comment = list(takewhile(lambda line: line.startswith("#"), lines[::-1]))
            text = " ".join(line.lstrip("# ") for line in comment[::-1])
            found[ast.unparse(node.targets[0])] = (
                f"```python\n{ast.unparse(node)}\n```\n\n{text}"
            )
    return found


def _names_in_file(path: Path, names: set[str]) -> list[str]:
    defined = (*_definitions(path), *_aliases(path), *_constants(path))
    return [name for name in defined if name in names]


def _section(path: Path, name: str) -> str:
    if meant := _aliases(path).get(name):
        heading = f"## `{name}` {{: #{name} }}"
        return f"{heading}\n\nAnother name of [`{meant}`](#{meant})."
    if constant := _constants(path).get(name):
        return f"## `{name}` {{: #{name} }}\n\n{constant}"
    # A class may take its arguments from a base in another file.
    definitions: dict[str, Definition] = {}
    for other in (*path.parent.glob("*.py"), path):
        definitions |= _definitions(other)
    page = f"{path.parent.name}/{path.name}"
    docstring = ast.get_docstring(definitions[name])
    if not docstring:
        raise ValueError(f"{page}: the public {name} has no docstring")
    return "\n\n".join(
        [
            f"## `{name}` {{: #{name} }}",
            f"```python\n{_signature(name, definitions)}\n```",
            *_summary_and_arguments(docstring, page),
            *_link(path, page, name),
        ]
    )


def _link(path: Path, page: str, name: str) -> list[str]:
    """Return the link to an annotated page, which begins with its front matter."""
    if path.read_text("utf-8").startswith('r"""\n---\n'):
        return [f"[Read it line by line]({page}#{name})"]
    return [f"From `{page}`."]


def _summary_and_arguments(docstring: str, page: str) -> list[str]:
    """Return the first paragraph, and all from the arguments on."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    paragraphs = [each for each in paragraphs if not each.startswith("#")]
    is_part = [each.startswith("**Arguments**") for each in paragraphs]
    start = is_part.index(True) if True in is_part else len(paragraphs)
    return [
        _from_docs(each, page)
        for each in (*paragraphs[:1], *paragraphs[max(start, 1) :])
    ]


def _from_docs(text: str, page: str) -> str:
    # In a docstring, links start from the file; here, from docs/.
    text = re.sub(r"\]\((?=#)", f"]({page}", text)
    return re.sub(r"\]\((?=[a-z_]+\.py)", f"]({page.partition('/')[0]}/", text)


def _signature(name: str, definitions: dict[str, Definition]) -> str:
    arguments = _arguments(_find_init(name, definitions))
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 76:
        return line
    return f"{name}(\n    " + ",\n    ".join(arguments) + ",\n)"


def _find_init(name: str, definitions: dict[str, Definition]) -> ast.FunctionDef:
    """Return the function itself, or the `__init__` of a class or its base."""
    node = definitions[name]
    if isinstance(node, ast.FunctionDef):
        return node
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return each
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in definitions:
            return _find_init(base.id, definitions)
    raise ValueError(f"{name} has no __init__ to be found")


def _arguments(node: ast.FunctionDef) -> list[str]:
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(plain) - len(spec.defaults)) + spec.defaults
    found = [
        _argument(each, default)
        for each, default in zip(plain, defaults, strict=True)
        if each.arg != "self"
    ]
    if spec.vararg:
        found.append(f"*{spec.vararg.arg}")
    elif spec.kwonlyargs:
        found.append("*")
    found += map(_argument, spec.kwonlyargs, spec.kw_defaults)
    if spec.kwarg:
        found.append(f"**{spec.kwarg.arg}")
    return found


def _argument(each: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return each.arg
    # Python would write 1e-5 as 1e-05.
    value = re.sub(r"(?<=\de-)0", "", ast.unparse(default))
    return f"{each.arg}={value}".replace("'", '"')

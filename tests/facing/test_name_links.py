"""Names in code: where they lead, and where they are a place to link to."""

import importlib
import re
from pathlib import Path

import pytest
from facing.features.name_links import NameLinks, read_addresses
from facing.page import build
from facing.problem import Problem
from facing.read.source import Source, read
from helpers.paths import ROOT
from helpers.rendering import write

TORCH = read_addresses(ROOT / "docs" / "torch_names.yml")


class Case:
    """Files of a project, and what their pages link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources: dict[str, Source] = {}

    def file(self, name: str, text: str, page: bool = True) -> None:
        path = write(self.root / name, text)
        if page:
            self.sources[name] = read(path)

    def body(self, name: str = "one.py", links: str = "") -> str:
        addresses = None
        if links:
            addresses = self.root / "links.yml"
            addresses.write_text(links)
        names = NameLinks(list(self.sources.values()), addresses)
        source = self.sources[name]
        return build(source, features=[names.on_page(source)]).body

    def links(self, name: str = "one.py", links: str = "") -> list[str]:
        """Each linked token with its target, links to themselves left out."""
        found = re.findall(
            r'<a href="([^"]*)">(?:<span[^>]*>)?([^<]+)',
            self.body(name, links),
        )
        return [f"{text} {target}" for target, text in found]

    def ids(self, name: str = "one.py") -> list[str]:
        found = re.findall(r'<a id="([^"]*)">[^<]', self.body(name))
        assert len(found) == len(set(found))
        return found


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_names_lead_to_where_they_are_defined(case):
    case.file(
        "one.py",
        """
        import os

        SIZE = 1

        def helper(x):
            return x + SIZE

        class Base:
            def run(self): ...

        class Thing(Base):
            part: int

            def __init__(self):
                super().__init__()
                self.size = helper(SIZE)

            def go(self):
                self.run(self.size, self.part, self.go, self.other)
                return Thing.go, Base, os.path
        """,
    )
    assert case.links() == [
        "SIZE #L3",
        "Base #L8",
        "helper #L5",
        "SIZE #L3",
        "run #L9",
        "size #L16",
        "part #L12",
        "go #L18",
        "Thing #L11",
        "go #L18",
        "Base #L8",
    ]


def test_imports_are_followed_to_the_page_of_the_definition(case):
    case.file("pkg/__init__.py", "from pkg.two import Two\n", page=False)
    case.file("pkg/two.py", "class Two:\n    def go(self): ...\n")
    case.file("pkg/sub/__init__.py", "from ..two import Two as Renamed\n")
    case.file(
        "pkg/one.py",
        """
        import pkg.two
        from pkg import Two, two
        from .two import Two as T
        from .sub import Renamed
        from . import sub

        class One(Two):
            def f(self):
                self.go()
        x = pkg.two.Two, two.Two, T, Renamed.go, sub
        """,
    )
    assert case.links("pkg/one.py") == [
        "pkg.two two.py",
        "Two two.py#L1",
        "two two.py",
        ".two two.py",
        "Two two.py#L1",
        ".sub sub/__init__.py",
        "Renamed two.py#L1",
        "sub sub/__init__.py",
        "Two two.py#L1",
        "go two.py#L2",
        "two two.py",
        "Two two.py#L1",
        "two two.py",
        "Two two.py#L1",
        "T two.py#L1",
        "Renamed two.py#L1",
        "go two.py#L2",
        "sub sub/__init__.py",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def f(): ...\ndef f(): ...\nf()",  # which one?
        "if a:\n    from b import f\nelse:\n    def f(): ...\nf()",
        "def f(): ...\ndef g(f):\n    f()",  # a parameter
        "def f(): ...\ndef g():\n    f = 1\n    return f",  # a variable
        "def f(): ...\n[f for f in a]; lambda f: f",
        "class A:\n    def f(self): ...\na = A\nb.f()",
        "class A:\n    x = 1\n    def g(self):\n        return x",
        "class A:\n    def g(self):\n        self = 1\n",
        "class A:\n    @staticmethod\n    def g(a):\n        a.g()",
        "class A(b.C):\n    def g(self):\n        self.h()",
        "class D:\n    def h(self): ...\n"
        "class A(b.C, D):\n    def g(self):\n        self.h()",
    ],
)
def test_an_ambiguous_name_is_no_link(case, text):
    case.file("one.py", text)
    found = [x for x in case.links() if not re.match("[AD] ", x)]
    assert found == []


def test_python_s_scopes_are_respected(case):
    case.file(
        "one.py",
        """
        from two import f

        def g():
            def f(): ...
            return f

        class A:
            def f(self): ...

            async def g(self):
                return f, (self.f() for _ in ())
        """,
    )
    case.file("two.py", "f = 1\nf = 2\n")
    assert case.links() == [
        "two two.py",
        "f two.py#L1",
        "f #L4",
        "f two.py#L1",
        "f #L8",
    ]


LINKS = """\
https://docs.example.org/{name}.html:
  - lib.Thing
  - lib.part.function
https://docs.example.org/x.html#{name}:
  - lib.Thing.method
"""


def test_others_names_lead_to_their_documentation(case):
    case.file(
        "one.py",
        """
        import lib
        from lib import Thing, part as p

        class Mine(Thing):
            def go(self):
                self.method(p.function, lib.part.function, lib.unlisted)
                self.unlisted()
        """,
    )
    base = "https://docs.example.org"
    assert case.links(links=LINKS) == [
        f"Thing {base}/lib.Thing.html",
        f"Thing {base}/lib.Thing.html",
        f"method {base}/x.html#lib.Thing.method",
        f"function {base}/lib.part.function.html",
        f"function {base}/lib.part.function.html",
    ]


def test_a_name_is_a_place_where_it_is_first_set(case):
    case.file(
        "one.py",
        """
        SIZE = 1
        SIZE = 2

        class Norm:
            kept: int

            def forward(self, x, *more, **rest):
                var, (mean, _) = x
                var = 1
                self.new = self.kept = 3
                for i in x:
                    with x as y:
                        [z for z in x]
                return lambda q: (last := q)

            def other(self):
                global SIZE
                SIZE = 1
                self.new = 1
        """,
    )
    assert case.ids() == [
        "SIZE",
        "Norm.kept",
        "Norm.forward.x",
        "Norm.forward.more",
        "Norm.forward.rest",
        "Norm.forward.var",
        "Norm.forward.mean",
        "Norm.new",
        "Norm.forward.i",
        "Norm.forward.y",
    ]


def test_headings_and_authors_keep_their_ids(case):
    case.file(
        "one.py",
        '''
        """
        # Title

        ## Size

        <a id="f.mine"></a> text
        """

        size = 1
        other = 2


        def f(mine, g):
            def g(): ...
        ''',
    )
    assert case.ids() == ["other"]
    assert '<h2 id="size">' in case.body()
    assert '<h4 id="f.g">' in case.body() or 'id="f.g"' in case.body()


def test_code_is_shown_to_the_letter(case):
    text = 'x = {"<a>": 1}\ny = x["<a>"] < x and "&" or x  # <x>\n'
    case.file("one.py", text)
    code = re.search(r"<pre><code>(.*?)</code></pre>", case.body(), re.S)
    assert code
    shown = re.sub(r"<[^>]*>", "", code[1])
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


@pytest.mark.parametrize(
    "text", ["- a\n", "ftp://x: [a]\n", "https://x: a\n", "a: [\n"]
)
def test_a_malformed_file_of_addresses_is_refused(tmp_path, text):
    path = tmp_path / "links.yml"
    path.write_text(text)
    with pytest.raises(Problem, match=r"links.yml:\d+: "):
        read_addresses(path)


@pytest.mark.parametrize("name", sorted(TORCH))
def test_torch_has_every_name_that_leads_to_its_documentation(name):
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return
    pytest.fail(f"nothing is called {name}")


def test_our_layers_lead_to_each_other_and_to_torch():
    paths = [
        ROOT / "labml_bcn" / name for name in ("batch_norm.py", "batch_channel_norm.py")
    ]
    sources = [read(path) for path in paths]
    names = NameLinks(sources, ROOT / "docs" / "torch_names.yml")
    body = build(sources[1], features=[names.on_page(sources[1])]).body
    line = 1 + sources[0].lines.index("class BatchNorm(nn.Module):")
    assert f'<a href="batch_norm.py#L{line}">BatchNorm</a>' in body
    assert 'id="batch_channel_norm_stepwise.group_var"' in body
    assert TORCH["torch.sqrt"] in body

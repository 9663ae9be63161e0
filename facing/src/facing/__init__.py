"""Annotated Python, rendered side by side with its mathematics.

A book (`Book`) is all annotated files of a project. Each is read into rows (`read`),
and a page (`Page`) is laid out of its notes, formulas and code (`build`). What else
pages show is declared by the project: symbols, names, shapes, papers, tests.

`facing.cli` writes pages by itself, and `facing.mkdocs` hands them to MkDocs.
"""

from facing.book import Book
from facing.feature import BookFeature, Feature, Link
from facing.features.paper_map import PaperMap, paper_map_sections
from facing.features.symbol_file import Symbol
from facing.features.symbols import SymbolTable
from facing.page import Heading, Page, build
from facing.placeholders import fill, kinds_in
from facing.problem import Problem
from facing.read.scopes import Scopes
from facing.read.source import Source, read
from facing.text.code import highlight_python
from facing.text.equations import Equation
from facing.text.markdown_math import MathExtension
from facing.text.mathml import MathError, to_mathml

__version__ = "0.1.0"

__all__ = [
    "Book",
    "BookFeature",
    "Equation",
    "Feature",
    "Heading",
    "Link",
    "MathError",
    "MathExtension",
    "Page",
    "PaperMap",
    "Problem",
    "Scopes",
    "Source",
    "Symbol",
    "SymbolTable",
    "build",
    "fill",
    "highlight_python",
    "kinds_in",
    "paper_map_sections",
    "read",
    "to_mathml",
]

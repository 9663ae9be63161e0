"""
# Annotated Python, rendered side by side with its mathematics

[A file is read into rows](parse.py). The [notes](notes.py) of a row become
HTML, their [formulas](mathmd.py) [MathML](math.py), [equations](equations.py)
are held to their tests, and the [code](code.py) is coloured. Then
[a page](page.py) is laid out of both.

What else a page shows is a feature, each in one file, and off where nothing
is declared for it: [symbols](symbols.py) linked in formulas and code,
[names](names.py) that lead somewhere, [shapes](shapes.py) seen while examples
[ran](record.py), and the [papers' constructs](constructs.py). They share what
a class or function is, its [scope](scopes.py), and a [project](project.py)
brings them together.

[The command](__main__.py) writes pages by itself, and
[the plugin](plugin.py) hands them to MkDocs. Nothing here knows of any norm.
"""

from facing.features.symbols import Symbol
from facing.features.symbols import Table as SymbolTable
from facing.placeholders import fill
from facing.text.mathml import MathError

__version__ = "0.1.0"

__all__ = ["MathError", "Symbol", "SymbolTable", "fill"]

"""Read a Python file: its notes, its code and its scopes."""

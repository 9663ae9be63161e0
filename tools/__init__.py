"""Tools for developers: style, mutants, the subset of the math font."""

"""Turn text into HTML: notes, formulas and code."""

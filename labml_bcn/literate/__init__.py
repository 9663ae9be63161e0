"""
# Annotated Python, rendered side by side with its mathematics

A file is read into rows (`parse`). The notes of a row become HTML (`notes`),
their formulas MathML (`mathmd`, `math`), equations are held to their tests
(`equations`), and the code is coloured (`code`). `page` lays both out.

What else a page shows is a feature, each in one file, and off where nothing
is declared for it: symbols linked in formulas and code (`symbols`), names
that lead somewhere (`names`), shapes seen while examples ran (`shapes`,
`record`), the papers' constructs (`constructs`). They share what a class or
function is (`scopes`), and `project` brings them together.

The command (`__main__`) writes pages by itself, and the plugin (`plugin`)
hands them to MkDocs. Nothing here knows of any norm.
"""

"""
# Annotated Python, rendered side by side with its mathematics

A file is read into rows (`parse`). The notes of a row become HTML (`notes`),
their formulas MathML (`mathmd`, `math`), equations are held to their tests
(`equations`), and the code is coloured (`code`).
`page` lays both out. The command (`__main__`) writes pages by itself, and the
plugin (`plugin`) hands them to MkDocs. Nothing here knows of any norm.
"""

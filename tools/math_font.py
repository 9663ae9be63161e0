"""Make the math font: a part of STIX Two Math.

The whole font is 403 KB. This part keeps what LaTeX in docstrings asks for,
with the MATH table and all the sizes and pieces that it names, in 87 KB.

    python tools/math_font.py stix-two-math-latin-400-normal.woff2 OUT.woff2

The source is the file of that name in the npm package
@fontsource/stix-two-math 5.3.0. fontTools and brotli do the work.
"""

import sys
from collections.abc import Iterator

from fontTools import subset
from fontTools.ttLib import TTFont

# First and last code point of each range, in hexadecimal.
RANGES = """
    20-7e a0 a7-a8 ac af-b1 b4 b7-b8 d7 f7 131 237 2c6-2c7 2d8-2dd
    300-30c 332-333 338 391-3a9 3b1-3c9 3d1 3d5-3d6 3f0-3f1 3f5
    2000-200b 2010-2016 2018-2019 201c-201d 2020-2022 2026 2032-2035 203e
    2044 2057 205f 2061-2064 20d0-20d1 20d6-20d7 20db-20dc
    2102 2104 2107 210a-2113 2115 2118-211d 2122 2124 2126-2128 212c-212d
    212f-2131 2133-2135
    2190-2199 219d 21a6 21a9-21aa 21bc 21c0 21c4 21cc 21d0-21d5 27f5-27fa
    27fc
    2200-221e 2220-2237 223c-223d 2240-2243 2245 2248-2249 224d 2254-2255
    225c 225f-2262 2264-2267 226a-226b 226e-2273 227a-227b 2282-2284
    2286-2287 228a 228e 2293-2299 22a2-22a5 22a8 22c0-22c6 22ee-22ef 22f1
    2a00-2a02 2a7d-2a7e 2a85 2aaf-2ab0
    2308-230b 23b4-23b5 23de-23df 27e6-27e9
    25a0-25a1 25b3 25cb 25ef 2605 2713 fe00-fe01
    1d400-1d4cf 1d504-1d56b 1d5a0-1d607 1d670-1d6a5 1d6a8-1d755
    1d7ce-1d7e1
"""


def _code_points() -> Iterator[int]:
    for part in RANGES.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def make(source: str, target: str) -> None:
    """Write the part of the font at `source` to `target`."""
    options = subset.Options()
    options.layout_features = ["ssty", "flac", "dtls"]
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.hinting = False
    options.notdef_outline = True
    font = TTFont(source, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=_code_points())
    subsetter.subset(font)
    font.flavor = "woff2"
    font.save(target)


if __name__ == "__main__":
    make(*sys.argv[1:])

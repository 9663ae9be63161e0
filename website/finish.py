"""Last touches to a page's HTML, and to stylesheets and scripts."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

Address = Callable[[str], str]

# What a figure that can be dragged needs besides the page's own, by its class.
FIGURES = {
    "explorer": ("explorer.css", "explorer.js"),
    "lab scatter": ("lab.css", "twister.js", "scatter_lab.js"),
    "lab playground": ("lab.css", "twister.js", "playground.js"),
}


def finish(html: str, address: Address | None = None) -> str:
    """Return a whole page as it is written.

    `address` gives the address of a file of the site, seen from this page. The
    page for what is not found has none.
    """
    if address and "<math" in html:
        html = _preload_math_font(html, address)
    if address:
        for figure, files in FIGURES.items():
            if f'class="{figure}"' in html:
                html = _add_figure(html, files, address)
    return _shorten_margins(_let_names_break(_correct_theme(html)))


def _preload_math_font(html: str, address: Address) -> str:
    """Fetch the font at once, so that it is there before formulas are shown."""
    font = address("assets/stix-two-math.woff2")
    link = f'<link rel="preload" href="{font}" as="font" type="font/woff2" crossorigin>'
    return html.replace("</title>", f"</title>{link}", 1)


def _add_figure(html: str, files: tuple[str, ...], address: Address) -> str:
    for name in files:
        where = address(f"assets/{name}")
        if name.endswith(".css"):
            link = f'<link rel="stylesheet" href="{where}">'
            html = html.replace("</head>", f"{link}</head>", 1)
        else:
            script = f'<script src="{where}"></script>'
            html = html.replace("</body>", f"{script}</body>", 1)
    return html


def _correct_theme(html: str) -> str:
    """Correct what an audit finds in the theme's templates."""
    # A dialog needs a name.
    html = html.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )
    # With this attribute, the theme asks the repository's host for stars.
    return html.replace(' data-md-component="source"', "")


def _let_names_break(html: str) -> str:
    """Give long names in navigation and outline places to break at."""
    label = r'(?<=<span class="md-ellipsis">)[^<]*'
    joint = r"(?<=[a-z0-9])(?=[A-Z])|(?<=_)(?=[^\W_])|(?<=\.)(?=\w)"

    def with_joints(name: re.Match[str]) -> str:
        return re.sub(joint, "<wbr>", name[0])

    return re.sub(label, lambda m: re.sub(r"[\w.]{15,}", with_joints, m[0]), html)


def _shorten_margins(html: str) -> str:
    """Take margins off the theme's lines, a twentieth of a page.

    Those of the article are text.
    """
    frame, start, article = html.partition("<article")
    article, end, foot = article.partition("</article>")
    frame, foot = (re.sub(r"\s*\n\s*", "\n", each) for each in (frame, foot))
    return "".join((frame, start, article, end, foot))


def without_comments(text: str, suffix: str) -> str:
    """Take comments and margins off a stylesheet or script of ours.

    In scripts, comments stand on lines of their own.
    """
    comment = r"/\*.*?\*/" if suffix == ".css" else r"^\s*//.*?$"
    text = re.sub(comment, "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\n\s*", "\n", text).lstrip()


def remove_unused(site: Path) -> None:
    """Take out of a built site what the theme brings and no reader asks for.

    These are source maps, and what searches other languages than English.
    """
    shutil.rmtree(site / "assets" / "javascripts" / "lunr", ignore_errors=True)
    for source_map in (site / "assets").rglob("*.map"):
        source_map.unlink()
        user = source_map.with_suffix("")
        text = user.read_text("utf-8")
        mention = rf"\n?/[/*]# sourceMappingURL={re.escape(source_map.name)}( ?\*/)?"
        user.write_text(re.sub(mention, "", text), "utf-8")

"""Last touches to pages, and to what the theme brings."""

from pathlib import Path

from website.finish import finish, remove_unused


def outline(name: str) -> str:
    return f'<span class="md-ellipsis">\n{name}\n</span>'


def test_a_long_name_in_the_outline_may_break_at_its_joints():
    names = "batch_channel_norm_stepwise EstimatedBatchNorm forward_once"
    broken = (
        "batch_<wbr>channel_<wbr>norm_<wbr>stepwise "
        "Estimated<wbr>Batch<wbr>Norm forward_once"
    )
    assert broken in finish(outline(names))
    assert "<wbr>" not in finish(f"<article>{names}</article>")


def test_source_maps_and_other_languages_are_left_out(tmp_path: Path):
    scripts = tmp_path / "assets" / "javascripts"
    (scripts / "lunr").mkdir(parents=True)
    (scripts / "a.js.map").write_text("{}")
    script, style = scripts / "a.js", scripts / "a.css"
    script.write_text("x = 1;\n//# sourceMappingURL=a.js.map\n")
    (scripts / "a.css.map").write_text("{}")
    style.write_text("a{}\n/*# sourceMappingURL=a.css.map */")
    remove_unused(tmp_path)
    assert sorted(path.name for path in scripts.iterdir()) == ["a.css", "a.js"]
    assert script.read_text().strip() == "x = 1;"
    assert style.read_text() == "a{}"

"""How well an annotated page faces its notes with code, measured in a browser.

`HOLES` has two shares of a page's height, taken over all rows with code, folds closed:
`ground`, where the tinted ground of code has no code, and `share`, where a row goes on
below the last thing in its code column, so that a note has nothing beside it.
`DISTANCES` has, for each symbol of each displayed equation that the code has too, the
height in px between it and its nearest place in code. What is folded away stands
where its fold does.
"""

HOLES = """() => {
    const page = document.querySelector(".lit").getBoundingClientRect();
    const found = [...document.querySelectorAll(".lit .row:has(> .code)")].map(row => {
        const filled = [...row.querySelectorAll(":scope > .code > *, :scope > .more")]
            .filter(e => e.checkVisibility())
            .map(e => e.getBoundingClientRect().bottom);
        const hole = row.getBoundingClientRect().bottom - Math.max(...filled);
        const ground = row.querySelector(":scope > .code").getBoundingClientRect();
        return [hole, row.querySelector(".l").id, ground.bottom - Math.max(...filled)];
    });
    const share = nth => found.reduce((sum, row) => sum + row[nth], 0) / page.height;
    return {
        share: share(0),
        ground: share(2),
        largest: found.sort((a, b) => b[0] - a[0]).slice(0, 6),
    };
}"""

DISTANCES = """() => {
    const middle = e => {
        const shown = e.checkVisibility() ? e : e.closest("details");
        const box = shown.getBoundingClientRect();
        return (box.top + box.bottom) / 2;
    };
    const found = {};
    for (const symbol of document.querySelectorAll(".lit .math-block [data-s]")) {
        const same = `.lit .code [data-s="${symbol.dataset.s}"]`;
        const places = [...document.querySelectorAll(same)].map(middle);
        if (!places.length) continue;
        const equation = symbol.closest(".equation")?.id ?? "without a name";
        const of = found[`${equation}: ${symbol.textContent}`] ??= [];
        of.push(...places.map(at => Math.abs(at - middle(symbol))));
    }
    return Object.fromEntries(
        Object.entries(found).map(([name, of]) => [name, Math.min(...of)]));
}"""

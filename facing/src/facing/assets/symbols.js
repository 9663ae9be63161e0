// Point at a symbol, in a formula or in code, by mouse, key or touch: every
// place of it in its scope lights up, and a card tells what it is. The card is
// an entry of the page's legend, so without this nothing is lost.
{
  const card = document.createElement("div");
  card.className = "lit-card";
  card.id = "lit-card";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  let shown = null; // the symbol whose card is open
  let held = false; // opened by key or tap, so it stays when the mouse moves
  let before = null; // what was shown when a tap began
  let leaving = 0;

  const symbolAt = (target) => target.closest?.(".lit [data-s]");
  const entry = (at) => document.querySelector(`.symbols [data-for~="${at.dataset.s}"]`);
  const places = (at) => document.querySelectorAll(`.lit [data-s="${at.dataset.s}"]`);

  function hide() {
    clearTimeout(leaving);
    if (!shown) return;
    for (const place of places(shown)) place.classList.remove("lit-same", "lit-here");
    shown.removeAttribute("aria-describedby");
    card.hidden = true;
    shown = null;
    held = false;
  }

  function show(at, hold) {
    clearTimeout(leaving);
    if (at !== shown) {
      hide();
      const about = entry(at);
      if (!about) return;
      shown = at;
      for (const place of places(at)) place.classList.add("lit-same");
      at.classList.add("lit-here");
      at.setAttribute("aria-describedby", card.id);
      card.innerHTML = about.innerHTML + elsewhere(at);
      at.closest(".lit").append(card);
      card.hidden = false;
      put(at);
    }
    held ||= hold;
  }

  // Where the symbol stands in the other column, if that is out of sight.
  function elsewhere(at) {
    const [frame, words] = at.closest(".code")
      ? [".equation", "in the formula "] : [".l", "in code: line "];
    const away = (place) => Math.abs(place.getBoundingClientRect().top - at.getBoundingClientRect().top);
    const [nearest] = [...places(at)].map((place) => place.closest(frame))
      .filter((place) => place?.checkVisibility()).sort((a, b) => away(a) - away(b));
    const rect = nearest?.getBoundingClientRect();
    if (!rect || (rect.bottom > 0 && rect.top < innerHeight)) return "";
    return `<a href="#${nearest.id}" tabindex="-1">Nearest ${words}${nearest.id.replace(/^L/, "")}</a>`;
  }

  // Within the window, never over the symbol, and where it covers least of what
  // one reads: a free place nearby, be it in the other column.
  function put(at) {
    const gap = 8;
    const symbol = at.getBoundingClientRect();
    const lit = card.offsetParent.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = card;
    const most = document.documentElement.clientWidth - width - gap;
    const inSight = (r) => r.bottom > 0 && r.top < innerHeight;
    const read = [...document.querySelectorAll(".lit .row, nav")]
      .filter((e) => inSight(e.getBoundingClientRect()))
      .flatMap((e) => [...e.querySelectorAll(".l, .h, .note > *, summary, li > a")])
      .map((e) => e.getBoundingClientRect()).filter(inSight);
    const along = (from, size, low, high) => Math.min(from + size, high) - Math.max(from, low);
    let [best, least] = [[gap, symbol.bottom + gap], Infinity];
    for (const wish of [symbol.left, lit.left, lit.right - width, most]) {
      const x = Math.max(gap, Math.min(wish, most));
      for (let y = 60; y < innerHeight - height - gap; y += 8) {
        const across = along(x, width, symbol.left, symbol.right);
        const down = along(y, height, symbol.top, symbol.bottom);
        if (across > -gap && down > -gap) continue;
        let cost = -4 * (Math.min(0, across) + Math.min(0, down));
        for (const r of cost < least ? read : []) {
          cost += Math.max(0, along(x, width, r.left, r.right)) * Math.max(0, along(y, height, r.top, r.bottom));
        }
        if (cost < least) [best, least] = [[x, y], cost];
      }
    }
    card.style.left = `${best[0] - lit.left}px`;
    card.style.top = `${best[1] - lit.top}px`;
  }

  addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const at = symbolAt(event.target);
    if (at) {
      if (!held) show(at, false);
    } else if (card.contains(event.target)) clearTimeout(leaving);
    else if (shown && !held) {
      clearTimeout(leaving);
      leaving = setTimeout(hide, 300);
    }
  });
  addEventListener("pointerdown", () => { before = shown; }, true);
  addEventListener("focusin", (event) => {
    const at = symbolAt(event.target);
    if (at?.matches(":focus-visible")) {
      hide();
      show(at, true);
    } else if (held && !card.contains(event.target)) hide();
  });
  addEventListener("click", (event) => {
    const at = symbolAt(event.target);
    if (at) {
      // The first tap on a linked name tells what it is, the second goes there.
      if (event.pointerType !== "mouse" && event.detail && before !== at) event.preventDefault();
      hide();
      show(at, true);
    } else if (!card.contains(event.target) || event.target.closest("a")) hide();
  }, true);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (event.key === "Enter" && shown?.localName !== "a") card.querySelector("a")?.click();
  });
  addEventListener("resize", hide);
}

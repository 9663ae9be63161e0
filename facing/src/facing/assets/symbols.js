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
      card.innerHTML = about.innerHTML;
      at.closest(".lit").append(card);
      card.hidden = false;
      put(at.getBoundingClientRect());
    }
    held ||= hold;
  }

  // Below the symbol or else above it, within the window, never over it.
  function put(rect) {
    const gap = 8;
    const { offsetWidth: width, offsetHeight: height } = card;
    const room = rect.top - height - gap > 60;
    const above = rect.bottom + height + gap > innerHeight && room;
    const left = Math.max(gap, Math.min(rect.left, document.documentElement.clientWidth - width - gap));
    const from = card.offsetParent.getBoundingClientRect();
    card.style.left = `${left - from.left}px`;
    card.style.top = `${(above ? rect.top - height - gap : rect.bottom + gap) - from.top}px`;
  }

  addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const at = symbolAt(event.target);
    if (at) {
      if (!held) show(at, false);
    } else if (card.contains(event.target)) clearTimeout(leaving);
    else if (shown && !held) {
      clearTimeout(leaving);
      leaving = setTimeout(hide, 150);
    }
  });
  addEventListener("pointerdown", () => { before = shown; }, true);
  addEventListener("focusin", (event) => {
    const at = symbolAt(event.target);
    if (at?.matches(":focus-visible")) {
      hide();
      show(at, true);
    } else if (held) hide();
  });
  addEventListener("click", (event) => {
    const at = symbolAt(event.target);
    if (at) {
      // The first tap on a linked name tells what it is, the second goes there.
      if (event.pointerType !== "mouse" && event.detail && before !== at) event.preventDefault();
      hide();
      show(at, true);
    } else if (!card.contains(event.target)) hide();
  }, true);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  addEventListener("resize", hide);
}

// A box that scrolls must be within reach of the keyboard, and one that does
// not scroll must not stand in the way. Pages read whole without this.
function reachable() {
  for (const box of document.querySelectorAll(".math-block, .lit .row pre, .lit table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// Each row is one stop of the Tab key, however many symbols, lines and linked
// names it has. The arrow keys go through these, and on into the next row.
const inRow = ":is([data-s], .code a)";
const number = ".l > :first-child";

function stopAt(row, stop) {
  for (const each of row.querySelectorAll(inRow)) each.tabIndex = each === stop ? 0 : -1;
}

// What is folded away is passed over.
const shown = (stop) => stop.checkVisibility();

function oneStop(row) {
  const all = [...row.querySelectorAll(inRow)];
  stopAt(row, all.find(shown) ?? all[0]);
}

function goFrom(from, key) {
  const all = [...document.querySelectorAll(`.lit .row ${inRow}`)].filter(shown);
  const step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
  const byLine = key === "ArrowUp" || key === "ArrowDown";
  let at = all.indexOf(byLine ? from.closest(".l")?.firstElementChild ?? from : from) + step;
  while (byLine && all[at] && !all[at].matches(number)) at += step;
  all[at]?.focus();
}

// A link to its own place (a line's number, a name where it is first set, a
// heading's #) is there to be passed on: it goes into the address bar, and
// onto the clipboard.
const bar = document.createElement("p");
bar.className = "lit-bar";
bar.innerHTML = '<span role="status"></span><span aria-hidden="true">' +
  "<kbd>←</kbd> <kbd>→</kbd> symbols and names, <kbd>↑</kbd> <kbd>↓</kbd> lines, " +
  "<kbd>Enter</kbd> copies the link, <kbd>Esc</kbd> closes</span>";
let fading = 0;

async function pass(link) {
  let said = "Link copied";
  try {
    await navigator.clipboard.writeText(link.href);
  } catch {
    said = "The link is in the address bar";
  }
  bar.firstChild.textContent = `${said}: ${link.hash}`;
  clearTimeout(fading);
  fading = setTimeout(() => { bar.firstChild.textContent = ""; }, 3000);
}

addEventListener("click", (event) => {
  const link = event.target.closest?.(":is(.lit a)[href^='#']");
  const place = link && document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (place?.contains(link) && !event.defaultPrevented) pass(link);
});
addEventListener("focusin", (event) => {
  const stop = event.target.closest?.(`.lit .row ${inRow}`);
  if (stop) stopAt(stop.closest(".row"), stop);
  bar.classList.toggle("keys", Boolean(stop?.matches(":focus-visible")));
});
addEventListener("keydown", (event) => {
  const stop = event.target.closest?.(`.lit .row ${inRow}`);
  if (!stop || !event.key.startsWith("Arrow") || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  goFrom(stop, event.key);
});
// Escape closes the card of a formula's mark, also under a mouse that rests there.
addEventListener("keydown", ({ key, target }) => {
  if (key !== "Escape") return;
  if (target.closest?.(".proof")) target.blur();
  const under = document.querySelector(".proof:hover");
  under?.classList.add("closed");
  under?.addEventListener("pointerleave", () => under.classList.remove("closed"), { once: true });
});
addEventListener("toggle", (event) => {
  if (!event.target.matches?.(".lit .fold")) return;
  oneStop(event.target.closest(".row"));
  reachable();
}, true);

function start() {
  reachable();
  for (const name of document.querySelectorAll(".lit .l a[id]")) name.href ||= `#${name.id}`;
  document.querySelectorAll(".lit .row").forEach(oneStop);
  if (document.querySelector(".lit .row")) document.body.append(bar);
}

// Material announces pages by `document$`; elsewhere a page comes once.
if (window.document$) window.document$.subscribe(start);
else start();
addEventListener("resize", reachable);
document.fonts?.ready.then(reachable);

// The switch of pages written by the command: system, light, dark.
const schemes = { system: "light", light: "dark", dark: "system" };
const button = document.querySelector(".standalone .scheme");
if (button) {
  const choose = (scheme) => {
    if (scheme === "system") delete document.documentElement.dataset.scheme;
    else document.documentElement.dataset.scheme = scheme;
    button.textContent = `Colours: ${scheme}`;
    button.value = scheme;
    try { localStorage.setItem("literate-scheme", scheme); } catch { /* private */ }
  };
  button.hidden = false;
  button.addEventListener("click", () => choose(schemes[button.value]));
  choose(document.documentElement.dataset.scheme ?? "system");
}

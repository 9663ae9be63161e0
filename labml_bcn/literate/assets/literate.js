// A box that scrolls must be within reach of the keyboard, and one that does
// not scroll must not stand in the way. Pages read whole without this.
function reachable() {
  for (const box of document.querySelectorAll(".math-block, .lit pre, .lit table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// Material announces pages by `document$`; elsewhere a page comes once.
if (window.document$) window.document$.subscribe(reachable);
else reachable();
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

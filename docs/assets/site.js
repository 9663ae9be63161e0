// What the theme leaves undone. The page reads well without this.
const all = (selector) => document.querySelectorAll(selector);

const mend = () => {
  // Each copy button sits in an unnamed <nav>, and so do a result's words: too
  // many landmarks.
  for (const nav of all("nav.md-code__nav, nav.md-tags")) nav.setAttribute("role", "presentation");
  // What scrolls sideways must be within reach of the keyboard.
  for (const box of all(".md-typeset pre:not(.stepper *) > code, .md-typeset table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
};

mend();
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);

// Labels that work as buttons: within reach of the keyboard, and pressed by
// its keys. The switch of colours knows Enter; Space is a button's key, too.
for (const [name, words] of [["drawer", "Navigation"], ["search", "Search"]]) {
  const label = document.querySelector(`.md-header__button[for=__${name}]`);
  if (!label) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.className = label.className;
  button.dataset.opens = name;
  button.ariaLabel = words;
  button.append(...label.childNodes);
  button.addEventListener("click", () => document.getElementById(`__${name}`).click());
  label.replaceWith(button);
}
for (const label of all(".md-nav--primary label[for]")) label.tabIndex = 0;
// What opens or closes in the drawer takes the focus along.
for (const toggle of all(".md-nav--primary .md-nav__toggle")) {
  toggle.addEventListener("change", () => {
    const to = toggle.checked ? ".md-nav > .md-nav__title" : "label.md-nav__link";
    toggle.parentElement.querySelector(`:scope > ${to}`)?.focus();
  });
}
addEventListener("keydown", (event) => {
  const { target, key } = event;
  const pressed = target.matches?.("label[tabindex]") && (key === "Enter" || key === " ");
  const switched = target.matches?.(".md-option") && key === " ";
  if (!pressed && !switched) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  (switched ? target.nextElementSibling : target).click();
}, true);

// The drawer and the search lie over the page. They take the focus when they
// open, give it back on Escape, and close when it leaves them.
for (const [name, inside] of [["drawer", ".md-sidebar--primary"], ["search", ".md-search"]]) {
  const toggle = document.getElementById(`__${name}`);
  const box = document.querySelector(inside);
  const opener = document.querySelector(`[data-opens=${name}]`);
  if (!toggle || !box) continue;
  const close = () => {
    if (toggle.checked) toggle.click();
  };
  toggle.addEventListener("change", () => {
    if (name !== "drawer" || !toggle.checked) return;
    const titles = [...box.querySelectorAll(".md-nav__title")];
    setTimeout(() => titles.filter((title) => title.checkVisibility({ visibilityProperty: true })).at(-1)?.focus());
  });
  box.addEventListener("focusout", ({ relatedTarget: to }) => {
    if (to && !box.contains(to) && to !== opener) close();
  });
  box.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || !toggle.checked) return;
    close();
    opener?.focus();
  });
}

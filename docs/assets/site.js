// Two things that the theme leaves undone. The page reads well without them.
const mend = () => {
  // Each copy button sits in an unnamed <nav>: too many landmarks.
  for (const nav of document.querySelectorAll("nav.md-code__nav")) {
    nav.setAttribute("role", "presentation");
  }
  // What scrolls sideways must be within reach of the keyboard.
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
};

mend();
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);

// Lets the reader choose the sizes of the figure on batch-channel norm. The
// page shows it at its default without this; see website/norm_diagrams.py.
for (const figure of document.querySelectorAll(".explorer")) {
  const form = figure.querySelector("form");
  const { batch, channels, groups, positions } = form.elements;

  const draw = () => {
    const [B, C, L] = [batch, channels, positions].map((input) => +input.value);
    // Groups divide the channels: take the nearest number that does.
    const fits = Array.from({ length: C }, (_, i) => i + 1).filter((n) => C % n === 0);
    const away = (n) => Math.abs(n - groups.value);
    const G = fits.reduce((best, n) => (away(n) < away(best) ? n : best));
    const D = C / G;
    const chosen = Math.min(2, C - 1);
    const group = (c) => Math.floor(c / D);

    for (const [name, value] of Object.entries({ batch: B, channels: C, groups: G, positions: L })) {
      form.elements[name].previousElementSibling.textContent = value;
      form.elements[name].setAttribute("aria-valuetext", value);
    }
    const show = (step, shared) => {
      figure.querySelectorAll(".samples")[step].innerHTML = Array.from({ length: B }, (_, b) =>
        `<div style="--channels:${C}">` + Array.from({ length: C }, (_, c) =>
          `<i${shared(b, c) ? ' class="on"' : ""}></i>`).join("").repeat(L) + "</div>").join("");
    };
    show(0, (b, c) => c === chosen);
    show(1, (b, c) => b === 0 && group(c) === group(chosen));

    const numbers = { C, BL: B * L, BG: B * G, DL: D * L, D };
    for (const place of figure.querySelectorAll("[data-n]")) place.textContent = numbers[place.dataset.n];
    for (const place of figure.querySelectorAll("[data-one]")) place.hidden = numbers[place.dataset.one] !== 1;
  };

  form.addEventListener("input", draw);
  draw();
}

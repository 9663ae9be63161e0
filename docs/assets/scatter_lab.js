// Lets the reader choose batch size, momentum and channel in the scatter lab.
// The page shows it at its default without this; see website/scatter_lab.py.

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// Each step measures a batch and moves the estimate, as the layer does. Of an
// image, its mean and its mean square are all that is needed.
const replay = (channel, { batch, momentum, around, seed, steps }) => {
  const draw = twister(seed);
  const seen = { batchMean: [], batchVar: [], mean: [], var: [] };
  let [mean, variance] = [0, 1];
  for (let step = 0; step < steps; step++) {
    let [m, square] = [0, 0];
    for (let b = 0; b < batch; b++) {
      const image = draw() % channel.mean.length;
      m += channel.mean[image] / batch;
      square += channel.square[image] / batch;
    }
    const centre = around === "running_mean" ? mean : m;
    const v = square - 2 * centre * m + centre * centre;
    mean = (1 - momentum) * mean + momentum * m;
    variance = (1 - momentum) * variance + momentum * v;
    seen.batchMean.push(m);
    seen.batchVar.push(v);
    seen.mean.push(mean);
    seen.var.push(variance);
  }
  return seen;
};

for (const lab of document.querySelectorAll(".lab.scatter")) {
  const data = JSON.parse(lab.querySelector("script[type='application/json']").textContent);
  const { steps, sizes, momenta, frame: [left, top, width, height] } = data;
  const { batch, momentum, around, channel, seed } = lab.querySelector("form").elements;

  const plot = (svg, axis, start, dots, line, lines) => {
    const place = (value) => {
      const share = (value - axis.low) / (axis.high - axis.low);
      return (top + height * (1 - Math.min(Math.max(share, 0), 1))).toFixed(1);
    };
    const across = (step) => (left + (step * width) / steps).toFixed(1);
    const one = (selector) => svg.querySelector(selector);
    axis.ticks.forEach((tick, k) => (svg.querySelectorAll("text")[k].textContent = tick));
    one(".dots").setAttribute("d", dots.map((y, k) => `M${across(k + 1)} ${place(y)}h0`).join(""));
    one(".estimate").setAttribute("points", [start, ...line].map((y, k) => `${across(k)},${place(y)}`).join(" "));
    const [truth, settled] = lines.map(place);
    const above = +settled >= +truth;
    const names = svg.querySelectorAll(".name");
    [["truth", truth, above], ["settled", settled, !above]].forEach(([name, y, higher], k) => {
      one(`.${name}`).setAttribute("d", `M${left} ${y}h${width}`);
      names[k].setAttribute("y", y);
      names[k].setAttribute("dy", higher ? -3 : 11);
    });
  };

  const draw = () => {
    const [B, r] = [sizes[batch.value], momenta[momentum.value]];
    for (const [input, value] of [[batch, B], [momentum, r]]) {
      input.previousElementSibling.textContent = value;
      input.setAttribute("aria-valuetext", value);
    }
    const chosen = data.channels[channel.value];
    const choice = { batch: B, momentum: r, around: around.value, seed: +seed.value, steps };
    const seen = replay(chosen, choice);
    // What a reader at the console, or a test, may look at.
    lab.seen = seen;

    const truth = average(chosen.mean);
    const between = average(chosen.mean.map((m) => (m - truth) ** 2));
    const within = average(chosen.mean.map((m, i) => chosen.square[i] - m * m));
    const total = within + between;
    const share = around.value === "running_mean" ? 1 + r / (2 - r) / B : 1 - 1 / B;
    const settled = within + share * between;
    const [first, second] = lab.querySelectorAll("svg");
    plot(first, chosen.axes[0], 0, seen.batchMean, seen.mean, [truth, truth]);
    plot(second, chosen.axes[1], 1, seen.batchVar, seen.var, [total, settled]);

    const scatter = Math.sqrt(between / B);
    const numbers = {
      batch: B,
      momentum: r,
      batch_std: scatter.toFixed(3),
      mean_std: (scatter * Math.sqrt(r / (2 - r))).toFixed(3),
      settled: settled.toFixed(3),
      percent: ((100 * settled) / total).toFixed(0),
      total: total.toFixed(3),
      seen: (100 * (1 - 1 / B)).toFixed(0),
      steps,
      start: (100 * (1 - r) ** steps).toFixed(1),
    };
    for (const place of lab.querySelectorAll("[data-n]")) place.textContent = numbers[place.dataset.n];
    for (const place of lab.querySelectorAll("[data-around]")) place.hidden = place.dataset.around !== around.value;
  };

  lab.querySelector("form").addEventListener("input", draw);
  seed.addEventListener("click", () => {
    seed.value = +seed.value + 1;
    draw();
  });
  draw();
}

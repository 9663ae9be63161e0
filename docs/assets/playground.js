// Trains a toy network in the page; see website/playground.py, which trains the
// same one with PyTorch. A layer is a function of its input; it returns its output
// and `back`, which adds to the gradients of its parameters and returns the input's.

const [L, CLASSES, C, GROUPS, K, EPS, NEW] = [12, 4, 8, 2, 3, 1e-5, 200];

const parameter = (values) => ({ value: Float64Array.from(values), grad: new Float64Array(values.length) });
const parameters = (size, value) => parameter(Array(size).fill(value));
const uniform = (seed) => {
  const draw = twister(seed);
  return () => ((draw() % 65536) + 0.5) / 65536;
};
const drawn = (size, inputs, next) =>
  parameter(Array.from({ length: size }, () => (2 * next() - 1) / Math.sqrt(inputs)));

// Who shares a statistic: the channel, group, or group of one sample of each value.
const known = {};
const owners = (kind, size) => known[kind + size] ??= Int32Array.from({ length: size }, (_, i) => {
  const channel = Math.floor(i / L) % C;
  const group = Math.floor((channel * GROUPS) / C);
  return { channel, group, sample: Math.floor(i / (L * C)) * GROUPS + group }[kind];
});

// What all norms and weight standardization do: of values with the same owner, the
// mean becomes 0 and the variance 1.
const standardize = (x, owner, sets) => {
  const n = x.length / sets;
  const [mean, variance, y] = [sets, sets, x.length].map((size) => new Float64Array(size));
  for (let i = 0; i < x.length; i++) mean[owner[i]] += x[i] / n;
  for (let i = 0; i < x.length; i++) variance[owner[i]] += (x[i] - mean[owner[i]]) ** 2 / n;
  const scale = variance.map((v) => 1 / Math.sqrt(v + EPS));
  for (let i = 0; i < x.length; i++) y[i] = (x[i] - mean[owner[i]]) * scale[owner[i]];
  const back = (dy) => {
    const [a, b] = [new Float64Array(sets), new Float64Array(sets)];
    for (let i = 0; i < x.length; i++) {
      a[owner[i]] += dy[i] / n;
      b[owner[i]] += (dy[i] * y[i]) / n;
    }
    return dy.map((d, i) => scale[owner[i]] * (d - a[owner[i]] - y[i] * b[owner[i]]));
  };
  return { y, back, mean, variance, n };
};

const affine = (x, gamma, beta, owner) => ({
  y: x.map((v, i) => v * gamma.value[owner[i]] + beta.value[owner[i]]),
  back: (dy) => dy.map((d, i) => {
    gamma.grad[owner[i]] += d * x[i];
    beta.grad[owner[i]] += d;
    return d * gamma.value[owner[i]];
  }),
});

const chain = (x, ...layers) => {
  const [backs, seen] = [[], []];
  for (const layer of layers) {
    const step = layer(x);
    x = step.y;
    seen.push(x);
    backs.unshift(step.back);
  }
  return { y: x, seen, back: (dy) => backs.reduce((d, back) => back(d), dy) };
};

const makeNorm = (kind, r) => {
  const [gamma, beta] = [parameters(C, 1), parameters(C, 0)];
  const [groupGamma, groupBeta] = [parameters(GROUPS, 1), parameters(GROUPS, 0)];
  const [mean, variance] = [new Float64Array(C), new Float64Array(C).fill(1)];
  // Batch norm keeps the unbiased variance; the estimate, that around the running
  // mean as it was.
  const learn = (batch) => {
    for (let c = 0; c < C; c++) {
      const unbiased = (batch.variance[c] * batch.n) / (batch.n - 1);
      const around = batch.variance[c] + (batch.mean[c] - mean[c]) ** 2;
      variance[c] += r * ((kind === "bn" ? unbiased : around) - variance[c]);
      mean[c] += r * (batch.mean[c] - mean[c]);
    }
  };
  const forward = (x, training) => {
    const [channel, group, sample] = ["channel", "group", "sample"].map((k) => owners(k, x.length));
    const groups = (y) => standardize(y, sample, (x.length / (L * C)) * GROUPS);
    const own = (y) => affine(y, gamma, beta, channel);
    if (kind === "gn") return chain(x, groups, own);
    const batch = training && standardize(x, channel, C);
    if (training) learn(batch);
    const scale = variance.map((v) => 1 / Math.sqrt(v + EPS));
    const running = () => ({
      y: x.map((v, i) => (v - mean[channel[i]]) * scale[channel[i]]),
      back: (dy) => dy.map((d, i) => d * scale[channel[i]]),
    });
    if (kind === "bn") return chain(x, training ? () => batch : running, own);
    return chain(x, running, own, groups, (y) => affine(y, groupGamma, groupBeta, group));
  };
  const all = kind === "bcn" ? [gamma, beta, groupGamma, groupBeta] : [gamma, beta];
  return { forward, parameters: all, mean, variance };
};

const makeConvolution = (inputs, next, ws) => {
  const size = C * inputs * K;
  const weight = drawn(size, inputs * K, next);
  const filter = Int32Array.from({ length: size }, (_, i) => Math.floor(i / (inputs * K)));
  const forward = (x) => {
    const samples = x.length / (inputs * L);
    const used = ws ? standardize(weight.value, filter, C) : { y: weight.value, back: (d) => d };
    const y = new Float64Array(samples * C * L);
    // One walk for both directions: which output reads which input, by which weight.
    const walk = (visit) => {
      for (let b = 0; b < samples; b++) for (let o = 0; o < C; o++) for (let i = 0; i < inputs; i++) {
        for (let k = 0; k < K; k++) for (let l = Math.max(0, 1 - k); l < Math.min(L, L + 1 - k); l++) {
          visit((b * C + o) * L + l, (o * inputs + i) * K + k, (b * inputs + i) * L + l + k - 1);
        }
      }
    };
    walk((to, by, from) => { y[to] += used.y[by] * x[from]; });
    const back = (dy) => {
      const [dx, dw] = [new Float64Array(x.length), new Float64Array(size)];
      walk((to, by, from) => {
        dx[from] += used.y[by] * dy[to];
        dw[by] += x[from] * dy[to];
      });
      used.back(dw).forEach((d, i) => { weight.grad[i] += d; });
      return dx;
    };
    return { y, back };
  };
  return { forward, parameters: [weight] };
};

const relu = (x) => ({
  y: x.map((v) => Math.max(v, 0)),
  back: (dy) => dy.map((d, i) => (x[i] > 0 ? d : 0)),
});

const makeHead = (next) => {
  const [weight, bias] = [drawn(CLASSES * C * L, C * L, next), parameters(CLASSES, 0)];
  const forward = (x) => {
    const samples = x.length / (C * L);
    const y = new Float64Array(samples * CLASSES);
    const walk = (visit) => {
      for (let to = 0; to < y.length; to++) for (let i = 0; i < C * L; i++) {
        visit(to, (to % CLASSES) * C * L + i, Math.floor(to / CLASSES) * C * L + i);
      }
    };
    walk((to, by, from) => { y[to] += weight.value[by] * x[from]; });
    const back = (dy) => {
      const dx = new Float64Array(x.length);
      walk((to, by, from) => {
        dx[from] += weight.value[by] * dy[to];
        weight.grad[by] += x[from] * dy[to];
      });
      dy.forEach((d, to) => { bias.grad[to % CLASSES] += d; });
      return dx;
    };
    return { y: y.map((v, to) => v + bias.value[to % CLASSES]), back };
  };
  return { forward, parameters: [weight, bias] };
};

const makeNetwork = ({ norm, ws, momentum, seed }) => {
  const next = uniform(seed);
  const block = (inputs) => [makeConvolution(inputs, next, ws), makeNorm(norm, momentum), { forward: relu }];
  const layers = [...block(1), ...block(C), makeHead(next)];
  return {
    forward: (x, training) => chain(x, ...layers.map((layer) => (y) => layer.forward(y, training))),
    parameters: layers.flatMap((layer) => layer.parameters ?? []),
  };
};

// A signal of class k has its bump at place k, and a height and contrast of its own.
const drawSignals = (next, count) => {
  const [x, labels] = [new Float64Array(count * L), []];
  for (let b = 0; b < count; b++) {
    labels.push(Math.floor(next() * CLASSES));
    const height = 20 * (2 * next() - 1);
    const contrast = 0.5 + next();
    for (let l = 0; l < L; l++) {
      const bump = Math.cos(2 * Math.PI * (l / L - labels[b] / CLASSES));
      x[b * L + l] = height + contrast * (bump + 1.5 * (2 * next() - 1));
    }
  }
  return { x, labels };
};

const scoresOf = (y, b) => y.subarray(b * CLASSES, (b + 1) * CLASSES);
const countRight = (y, labels) =>
  labels.filter((label, b) => scoresOf(y, b).indexOf(Math.max(...scoresOf(y, b))) === label).length;
const lossGradient = (y, labels) => {
  const gradient = new Float64Array(y.length);
  labels.forEach((label, b) => {
    const exponents = scoresOf(y, b).map((v) => Math.exp(v - Math.max(...scoresOf(y, b))));
    const sum = exponents.reduce((all, e) => all + e);
    exponents.forEach((e, k) => { gradient[b * CLASSES + k] = (e / sum - (k === label)) / labels.length; });
  });
  return gradient;
};

const train = ({ batch, images, every, lr, ...choice }) => {
  const network = makeNetwork(choice);
  const stream = uniform(choice.seed + 1);
  const fresh = drawSignals(uniform(choice.seed + 2), NEW);
  const points = [];
  let [right, evaluated] = [0, null];
  for (let seen = batch; seen <= images; seen += batch) {
    const { x, labels } = drawSignals(stream, batch);
    const { y, back } = network.forward(x, true);
    right += countRight(y, labels);
    back(lossGradient(y, labels));
    for (const { value, grad } of network.parameters) {
      for (let i = 0; i < value.length; i++) value[i] -= lr * Math.sqrt(batch) * grad[i];
      grad.fill(0);
    }
    if (seen % every === 0) {
      evaluated = network.forward(fresh.x, false);
      points.push([right / every, countRight(evaluated.y, fresh.labels) / NEW]);
      right = 0;
    }
  }
  const zeros = Array(C).fill(0);
  const last = evaluated.seen.at(-2);
  last.forEach((v, i) => { zeros[Math.floor(i / L) % C] += v === 0; });
  return { points, zeros: zeros.map((count) => count / (NEW * L)) };
};

for (const lab of document.querySelectorAll(".lab.playground")) {
  const data = JSON.parse(lab.querySelector("script[type='application/json']").textContent);
  const { recipe, names, frame: [left, top, width, height] } = data;
  const { batch, norm, ws, seed } = lab.querySelector("form").elements;

  const show = (choice, { points, zeros }) => {
    const at = (k) => (left + ((k + 1) * width) / points.length).toFixed(1);
    const up = (share) => (top + height * (1 - share)).toFixed(4);
    // The higher one has its name above it, the other below.
    const above = points.at(-1)[0] >= points.at(-1)[1];
    ["training", "evaluation"].forEach((mode, m) => {
      const places = points.map((point, k) => `${at(k)},${up(point[m])}`);
      lab.querySelector(`.${mode}`).setAttribute("points", places.join(" "));
      const name = lab.querySelectorAll("svg .name")[m];
      name.setAttribute("y", up(points.at(-1)[m]));
      name.setAttribute("dy", above === !!m ? 11 : -3);
    });
    const bars = zeros.map((share, c) => {
      const x = left + (c * width) / zeros.length + 4;
      return `M${x.toFixed(1)} ${top + height}V${up(share)}h${(width / zeros.length - 8).toFixed(1)}V${top + height}z`;
    });
    lab.querySelector(".bars").setAttribute("d", bars.join(""));
    lab.dataset.norm = choice.norm;
    const percent = (share) => Math.floor(100 * share + 0.5);
    const [training, evaluation] = points.at(-1);
    const numbers = {
      name: names[choice.norm] + (choice.ws ? "+WS" : ""),
      batch: choice.batch,
      training: percent(training),
      evaluation: percent(evaluation),
      silent: percent(Math.max(...zeros)),
    };
    for (const place of lab.querySelectorAll("[data-n]")) place.textContent = numbers[place.dataset.n];
  };

  let soon;
  const draw = () => {
    const choice = { norm: norm.value, ws: ws.checked, batch: +batch.value, seed: +seed.value };
    lab.seen = train({ ...recipe, ...choice });
    show(choice, lab.seen);
    lab.removeAttribute("aria-busy");
  };
  // A run takes a moment: first the page says so, and of several choices only the last is run.
  const ask = () => {
    lab.setAttribute("aria-busy", "true");
    clearTimeout(soon);
    soon = setTimeout(draw, 50);
  };
  // The run that is shown at first is recorded: the same, without the wait.
  lab.querySelector("form").addEventListener("change", ask);
  seed.addEventListener("click", () => {
    seed.value = +seed.value + 3;
    ask();
  });
}

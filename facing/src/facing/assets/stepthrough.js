// Makes of a table of steps something to drag: the line that is lit, what it
// sets as cells, and the formula with its numbers. All of it is read from the
// table and the page, and nothing is computed.
for (const figure of document.querySelectorAll(".stepper")) {
  const table = figure.querySelector("table");
  const presets = [...table.tHead.rows[0].cells];
  const steps = [...table.tBodies].map((body, index) => {
    const [link, name] = body.querySelectorAll("a, code");
    const [first, last = first] = link.textContent.split("–").map(Number);
    const lines = [document.getElementById(`L${first}`)];
    while (lines.length <= last - first) lines.push(document.getElementById(`L${first + lines.length}`));
    return {
      index, lines, link, name: name.textContent, shape: name.nextSibling.data.trim(),
      runs: body.rows[1].cells, meaning: meaningOf(name.textContent, lines), title: titleOf(lines[0]),
    };
  });

  // What the legend says of a name.
  function meaningOf(name, lines) {
    const at = lines.flatMap((line) => [...line.querySelectorAll("[data-s]")]).find((e) => e.textContent === name);
    const entry = at && document.querySelector(`.symbols [data-for~="${at.dataset.s}"] dd`);
    return [...entry?.childNodes ?? []].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  }

  // The bold words at the head of the note, which may stand some rows above.
  function titleOf(line) {
    for (let row = line.closest(".row"); row; row = row.previousElementSibling) {
      if (row.querySelector("h1, h2, h3, h4, h5, h6")) return "Given";
      const lead = row.querySelector(".note > p:first-of-type > :is(strong:first-child, i + strong)");
      if (lead) return lead.textContent.replace(/[.,:]$/, "");
    }
    return "";
  }

  const plain = (number) => number.replace("-", "−").replace("*", "");
  const live = figure.querySelector(".live");
  // A browser that goes back would restore what was chosen, and not what it shows.
  const labels = presets.map((preset, i) => `<label><input type="radio" autocomplete="off" name="${table.dataset.of}" ` +
    `value="${i}"${i ? "" : " checked"}> ${preset.firstChild.data}</label>`);
  live.innerHTML = `<fieldset><legend>Example</legend>${labels.join("")}</fieldset><p class="says"></p>` +
    '<div class="scrub"><button type="button" aria-label="Previous step">←</button>' +
    '<input type="range" autocomplete="off" min="0" aria-label="Step"><button type="button" aria-label="Next step">→</button>' +
    '<output aria-hidden="true"></output></div><div class="faces"><div>' +
    '<div class="cells" role="img"></div><div role="status"><p class="what"></p><p class="how"></p></div></div>' +
    '<div class="lines" role="group" aria-label="The lines"><pre><code></code></pre></div></div>';
  const find = (selector) => live.querySelector(selector);
  const [back, on] = live.querySelectorAll("button");
  const range = find("[type=range]");
  const list = find(".lines");

  // The lines once more, together, without the notes between them.
  const copies = new Map();
  for (const [line, alone] of steps.flatMap(({ lines }) => lines.map((line) => [line, lines.length === 1]))) {
    if (copies.has(line)) continue;
    const copy = line.cloneNode(true);
    for (const hint of copy.querySelectorAll(".h, .in")) hint.remove();
    for (const each of [copy, ...copy.querySelectorAll("[id], a")]) each.removeAttribute("id");
    for (const link of copy.querySelectorAll("a")) link.tabIndex = -1;
    const text = copy.childNodes[1];
    if (alone && text.nodeType === 3) text.data = text.data.trimStart();
    find("code").append(copy);
    copies.set(line, copy);
  }

  let run = 0;
  let now = 0; // a step's index in the table
  let lit = [];
  const taken = () => steps.filter((step) => step.runs[run].firstChild);

  function drawCells({ name, shape, runs }) {
    const text = runs[run].querySelector("samp");
    const rows = text.textContent.split("\n").map((row) => row.split("\t\t").map((block) => block.split("\t")));
    // Where a dimension was split in groups, these lie a little apart.
    const groups = JSON.parse(shape)[1];
    const begins = (r) => r && groups < rows.length && r % (rows.length / groups) === 0;
    const cell = (number, r) => {
      const size = [0.005, 0.3, 1, 2.5].filter((least) => Math.abs(parseFloat(number)) >= least).length;
      const kind = [number.includes("-") && "minus", number.includes("*") && "at", begins(r) && "begins"];
      return `<i class="${kind.filter(Boolean).join(" ")}" style="--size: ${size}">${plain(number)}</i>`;
    };
    const box = find(".cells");
    box.innerHTML = rows[0].map((_, b) => `<div style="--columns: ${rows[0][b].length}">` +
      rows.map((row, r) => row[b].map((number) => cell(number, r)).join("")).join("") + "</div>").join("");
    box.setAttribute("aria-label", `${name} ${shape}: ${text.textContent.replace(/\t+/g, " ").replace("*", "").replace(/\n/g, "; ")}`);
  }

  function show(light = true) {
    const steps = taken();
    const place = steps.findIndex((step) => step.index >= now);
    const step = steps.at(place);
    const at = steps.indexOf(step);
    now = step.index;
    range.max = steps.length - 1;
    range.value = at;
    range.setAttribute("aria-valuetext", `${at + 1} of ${steps.length}, line ${step.link.textContent}`);
    find("output").value = `${at + 1} / ${steps.length}`;
    find(".says").textContent = presets[run].lastChild.textContent;
    const where = step.link.cloneNode(true);
    where.prepend("Line ");
    const what = [step.title && `${step.title}: `, `${step.name} ${step.shape}`, step.meaning && `, ${step.meaning}`];
    find(".what").replaceChildren(where, ". ", what.filter(Boolean).join(""), ".");
    const worked = step.runs[run].querySelector("p")?.textContent;
    const [outlined] = step.runs[run].textContent.match(/[^\s]+(?=\*)/);
    find(".how").textContent = `The outlined number: ${worked ? `${worked} = ` : ""}${plain(outlined)}`;
    drawCells(step);
    for (const line of lit) line.classList.remove("stepped");
    lit = step.lines.flatMap((line) => light ? [line, copies.get(line)] : [copies.get(line)]);
    for (const line of lit) line.classList.add("stepped");
    const copy = copies.get(step.lines[0]);
    list.scrollTop = copy.offsetTop - (list.clientHeight - copy.offsetHeight) / 2;
  }

  function go(places) {
    const all = taken();
    const at = all.findIndex((step) => step.index === now) + places;
    now = all[Math.max(0, Math.min(at, all.length - 1))].index;
    show();
  }

  back.addEventListener("click", () => go(-1));
  on.addEventListener("click", () => go(1));
  range.addEventListener("input", () => { now = taken()[range.value].index; show(); });
  find("fieldset").addEventListener("change", (event) => { run = +event.target.value; show(); });
  find("code").addEventListener("click", (event) => {
    const copy = event.target.closest(".l");
    const step = copy && taken().find(({ lines }) => lines.some((line) => copies.get(line) === copy));
    if (step && !event.target.closest("a")) { now = step.index; show(); }
  });
  const reach = () => { list.tabIndex = list.scrollHeight > list.clientHeight || list.scrollWidth > list.clientWidth ? 0 : -1; };
  addEventListener("resize", reach);
  live.classList.add("ready");
  show(false);
  reach();
}

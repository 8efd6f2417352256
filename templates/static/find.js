// Find a backbone: what of index.json fits, the most accurate of it, a plot of all, a table. The state is in the address.
"use strict";

const form = document.getElementById("find");
const figure = document.getElementById("find-plot");
const best = document.getElementById("find-best");
const body = document.querySelector(".modules tbody");
const heads = [...document.querySelectorAll(".modules thead th")].map((head) => head.dataset.key);
const plot = plotOf(figure);
const field = form.elements;
const AXES = {
  parameters: ["parameters (millions, logarithmic)", (m) => m.parameters / 1e6],
  gflops: ["GFLOPs for one image (logarithmic)", (m) => m.gflops],
  speed: ["images/s, batch 1 (logarithmic)", (m) => m.rate],
};
const [W, H, L, R, T, B] = [640, 400, 46, 626, 26, 352];

const fixed = (value, digits = 1) => (value ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "–");
const millions = (count) => fixed(count / 1e6, count < 1e7 ? 2 : 1);

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function draw(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function most(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0]?.[0];
}

function start(index) {
  const machine = (m) => `${m.speed.cpu} ${m.speed.threads}`;
  const modules = index.modules.filter((m) => m.newest && m.yanked === null);
  const usual = most(modules.filter((m) => m.speed).map(machine));  // speeds of other machines cannot stand beside these
  for (const m of modules) {
    m.rate = m.speed && machine(m) === usual ? m.speed.images_per_second["1"] : null;
    m.licence = index.names.license[m.license];
    m.on = m.datasets.at(-1);
  }
  const ranked = modules.filter((m) => m.top1 !== null);
  const sets = [...new Set(ranked.map((m) => m.on))];
  const families = [...new Set(ranked.map((m) => m.title))].sort();
  const option = (value, textContent) => make("option", { value, textContent });
  field.data.append(...sets.map((each) => option(each, index.names.dataset[each] ?? each)));
  field.data.parentElement.hidden = sets.length < 2;
  field.resolution.append(...[...new Set(ranked.map((m) => m.resolution))].sort((a, b) => a - b).map((each) => option(each, each)));
  const standard = { what: "features", licence: "commercial", parameters: "", resolution: "", x: "parameters", data: most(ranked.map((m) => m.on)) ?? "" };
  const given = new URLSearchParams(location.search);
  for (const key of Object.keys(standard)) {
    field[key].value = given.get(key) ?? standard[key];
    if (!field[key].value) field[key].value = standard[key];
  }

  function table(fitting) {
    body.replaceChildren(...fitting.slice(0, 200).map((m, i) => {
      const name = make("a", { className: "handle", href: `../${m.page}` });
      name.append(...m.name.split(/(?=_)/).flatMap((part) => [document.createElement("wbr"), part]));
      const chip = () => make("span", { className: "licence" }, m.licence, m.commercial_use ? "" : " ",
        m.commercial_use ? "" : make("span", { className: "tag tag-warning", textContent: "non-commercial" }));
      const data = m.data.replaceAll("_", ", then ");
      const cells = {
        top1: [fixed(m.top1), `${m.top1} %, ${m.top1_measured ? "measured" : "reported"}`],
        parameters: [fixed(m.parameters / 1e6), `${m.parameters?.toLocaleString("en")} parameters`], gflops: [fixed(m.gflops), m.gflops],
        images_per_second_1: [fixed(m.rate), m.rate ?? ""], resolution: [m.resolution, ""], download: [fixed(m.archive.bytes / 1e6), `${m.archive.bytes.toLocaleString("en")} bytes`],
      };
      const row = make("tr", { className: i ? "" : "is-best" }, make("th", { scope: "row" }, name, make("span", { className: "narrow" }, chip(), ` ${data}`)));
      row.dataset.handle = m.handle;
      for (const key of heads.slice(1)) {
        const [textContent, title] = cells[key] ?? ["", ""];
        row.append(key === "licence" ? make("td", { className: "wide" }, chip()) : key === "data" ? make("td", { className: "wide", textContent: data })
          : make("td", { className: "number", textContent, title }));
      }
      return row;
    }));
  }

  function answer(m) {
    best.hidden = !m;
    if (!m) return;
    const link = best.querySelector("a");
    link.textContent = m.name;
    link.href = best.querySelector("#find-page").href = `../${m.page}`;
    const facts = [[`Top-1, ${m.top1_measured ? "measured" : "reported"}`, `${fixed(m.top1, 2)} %`], ["Parameters", `${millions(m.parameters)} M`],
      ["GFLOPs", fixed(m.gflops)], ["Images/s", fixed(m.rate)], ["Licence", m.licence], ["Download", `${fixed(m.archive.bytes / 1e6, 0)} MB`]];
    best.querySelector("dl").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
    const address = `"${index.url}/${m.handle}"`;
    best.querySelector("code").textContent = m.head === "classifier"
      ? `import tensorflow as tf\nimport tensorflow_hub as hub\n\nphoto = tf.io.decode_jpeg(tf.io.read_file("photo.jpg"), channels=3)\nmodule = hub.load(\n    ${address}\n)\nlogits = module(photo[None])`
      : `import tensorflow_hub as hub\nimport tf_keras\n\nclasses = 5  # yours\nmodel = tf_keras.Sequential([\n    hub.KerasLayer(\n        ${address},\n        trainable=${m.fine_tunable ? "True" : "False"},\n    ),\n    tf_keras.layers.Dense(classes),\n])`;
  }

  function picture(all, fitting) {
    const [unit, size] = AXES[field.x.value];
    const marks = all.filter((m) => size(m)).map((m) => ({ m, fits: fitting.includes(m), x: Math.log10(size(m)), y: m.top1 }));
    const svg = figure.querySelector("svg");
    svg.replaceChildren();
    if (!marks.length) return;
    const [xs, ys] = [marks.map((k) => k.x), marks.map((k) => k.y)];
    const [x0, x1] = [Math.min(...xs) - 0.1, Math.max(...xs) + 0.1];
    const step = Math.max(...ys) - Math.min(...ys) > 10 ? 5 : 1;
    const y1 = Math.min(100, Math.floor(Math.max(...ys) / step + 1) * step);
    const y0 = Math.min(Math.floor(Math.min(...ys) / step) * step, y1 - step);
    const px = (x) => L + ((x - x0) / (x1 - x0)) * (R - L);
    const py = (y) => B - ((y - y0) / (y1 - y0)) * (B - T);
    const axis = draw("g", { class: "axis", "aria-hidden": "true" });
    for (let y = y0; y <= y1; y += step) axis.append(draw("line", { x1: L, x2: R, y1: py(y), y2: py(y) }), draw("text", { x: L - 8, y: py(y) + 4, "text-anchor": "end" }, y));
    for (let power = Math.floor(x0); power <= x1; power += 1) {
      for (let digit = 1; digit < 10; digit += 1) {
        const x = px(power + Math.log10(digit));
        if (x < L || x > R) continue;
        const major = [1, 2, 5].includes(digit);
        axis.append(draw("line", { x1: x, x2: x, y1: T, y2: B, class: major ? "" : "minor" }));
        if (major) axis.append(draw("text", { x, y: B + 18, "text-anchor": "middle" }, Number((digit * 10 ** power).toPrecision(3))));
      }
    }
    axis.append(draw("text", { x: R, y: H - 6, "text-anchor": "end" }, unit), draw("text", { x: L, y: T - 9 }, "top-1 (%)"));
    svg.append(axis);
    for (const k of marks) [k.x, k.y] = [px(k.x), py(k.y)];
    const outline = (k, r = 5) => (k.m.resolution < 384 ? `M${k.x - r} ${k.y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z` : `M${k.x - r} ${k.y - r}h${2 * r}v${2 * r}h${-2 * r}z`);
    const series = (k) => `series-${families.indexOf(k.m.title) % 6}`;
    for (const k of marks) if (!k.fits) svg.append(draw("path", { class: `mark is-faded ${series(k)}`, d: outline(k) }));
    const inside = marks.filter((k) => k.fits).sort((a, b) => a.y - b.y);
    inside.forEach((k, i) => {  // side by side where one would cover another's centre
      const at = k.x;
      for (let n = 0; n < 40 && inside.slice(0, i).some((o) => Math.hypot(o.x - k.x, o.y - k.y) < 8); n += 1) k.x = at + (n % 2 ? 1 : -1) * 3 * Math.ceil((n + 1) / 2);
    });
    const edge = [];
    const way = field.x.value === "speed" ? -1 : 1;  // more is better
    for (const k of [...inside].sort((a, b) => way * (a.x - b.x) || a.y - b.y)) if (!edge.length || k.y < edge.at(-1).y) edge.push(k);
    if (edge.length) svg.append(draw("path", { class: "steps", d: `M${edge[0].x} ${edge[0].y}${edge.slice(1).map((k) => `H${k.x}V${k.y}`).join("")}` }));
    for (const k of inside) {
      const who = k.m.top1_measured ? "measured" : "reported";
      svg.append(draw("a", { href: `../${k.m.page}`, class: `point ${series(k)}`, "data-module": k.m.name, "data-x": k.x, "data-y": k.y,
        "aria-label": `${k.m.name}: ${fixed(k.m.top1, 2)} % ${who}, ${millions(k.m.parameters)} M parameters, ${fixed(k.m.gflops)} GFLOPs, ${k.m.licence}` },
      draw("path", { class: "mark", d: outline(k) })));
    }
    const taken = inside.map((k) => [k.x - 4, k.y - 4, 8, 8]);
    for (const k of edge.reverse()) {  // the best first; a name without a free place is left to its card
      const text = draw("text", { class: "label", "aria-hidden": "true" }, k.m.name.replace(/_(fe|feature_extractor|classification)$/, ""));
      svg.append(text);
      const { width, height } = text.getBBox();
      const free = [[-width - 8, -height], [-width - 8, height / 3 - height], [8, 4], [8, -height], [-width / 2, -height - 8], [-width / 2, 8]].map(([x, y]) => [k.x + x, k.y + y, width, height])
        .find(([x, y]) => x > L && x + width < R && y > T && y + height < B && taken.every((o) => x > o[0] + o[2] || o[0] > x + width || y > o[1] + o[3] || o[1] > y + height));
      if (!free) text.remove();
      else {
        taken.push(free);
        text.setAttribute("x", free[0]);
        text.setAttribute("y", free[1] + height * 0.78);
      }
    }
    plot.ready();
  }

  function apply() {
    const chosen = Object.fromEntries(new FormData(form));
    const head = chosen.what === "classify" ? "classifier" : "feature_extractor";
    const all = ranked.filter((m) => m.head === head && m.on === chosen.data);
    const fitting = all.filter((m) => (chosen.licence === "any" || m.commercial_use) && !(chosen.parameters && m.parameters > chosen.parameters * 1e6)
      && (!chosen.resolution || m.resolution === Number(chosen.resolution)));
    fitting.sort((a, b) => b.top1 - a.top1 || a.parameters - b.parameters || (a.name < b.name ? -1 : 1));
    document.getElementById("find-count").textContent = `${fitting.length} of ${all.length} fit${fitting.length ? `; the most accurate has ${fixed(fitting[0].top1)} % top-1${chosen.what === "classify" ? "" : " as a classifier of the same checkpoint"}` : ": allow more parameters, or another licence"}.`;
    answer(fitting[0]);
    table(fitting);
    picture(all, fitting);
    const query = new URLSearchParams(Object.entries(chosen).filter(([key, value]) => standard[key] !== undefined && value !== standard[key]));
    const compared = new URLSearchParams(location.search).get("compare");
    if (compared) query.set("compare", compared);
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
  }

  const legend = document.getElementById("find-legend");
  legend.prepend(...families.map((name, i) => make("li", {}, draw("svg", { viewBox: "0 0 16 16", width: 13, height: 13, "aria-hidden": "true" },
    draw("circle", { class: `mark series-${i % 6}`, cx: 8, cy: 8, r: 5.5 })), name)));
  form.addEventListener("input", (event) => {
    if (event.target === field.size) field.parameters.value = Number((10 ** field.size.value).toPrecision(2));
    else if (field.parameters.value > 0) field.size.value = Math.log10(field.parameters.value);
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const each of document.querySelectorAll("[data-find]")) each.hidden = false;
  field.size.max = Math.log10(Math.max(...ranked.map((m) => m.parameters / 1e6), 10));
  field.size.value = field.parameters.value > 0 ? Math.log10(field.parameters.value) : field.size.max;
  apply();
}

fetch(form.dataset.index)
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`${answer.status}`))))
  .then(start)
  .catch(() => {
    document.getElementById("find-failed").hidden = false;
  });

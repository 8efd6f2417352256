// Search over index.json: all words must occur, facets narrow down, the state is in the address. Needs no server.
"use strict";

const form = document.getElementById("search");
const list = document.getElementById("results");
const more = document.getElementById("more");
const found = document.getElementById("found");
const clear = form.querySelector("button[type=reset]");
const PAGE = 50;

const millions = (count) => `${Number((count / 1e6).toPrecision(3))} M`;

function read(index) {
  const names = index.names ?? {};
  const named = (vocabulary, value) => names[vocabulary]?.[value] ?? value;
  const items = (index.modules ?? index.documents).filter((item) => item.newest !== false);
  return items.map((item, number) => ({
    number,
    name: item.name,
    publisher: item.publisher,
    description: item.description.replaceAll("`", ""),
    page: item.page,
    task: item.task ? [item.task].flat().map((each) => named("task", each)) : [],
    architecture: [item.network_architecture ?? []].flat().map((each) => named("network_architecture", each)),
    dataset: (item.datasets ?? []).map((each) => named("dataset", each)),
    language: (item.languages ?? []).map((each) => named("language", each)),
    license: item.license ? [named("license", item.license)] : [],
    owner: [item.publisher],
    kind: item.kind ? [item.kind] : [],
    tuning: item.fine_tunable === undefined || item.fine_tunable === null ? [] : [item.fine_tunable ? "yes" : "no"],
    precision: item.precision ? [item.precision] : [],
    parameters: item.parameters ?? null,
    accuracy: item.measured_top1 ?? item.reported_top1 ?? null,
    measured: (item.measured_top1 ?? null) !== null,
    yanked: item.yanked ?? null,
  })).map((item) => ({
    ...item,
    words: [
      item.publisher, item.name, item.description, ...item.task, ...item.architecture, ...item.dataset, ...item.language, ...item.license, ...item.kind,
    ].join(" ").toLowerCase(),
  }));
}

const FACETS = [
  ["kind", "Kind"], ["task", "Task"], ["architecture", "Architecture"], ["dataset", "Data set"], ["language", "Language"], ["license", "Licence"], ["owner", "Publisher"],
  ["tuning", "Fine-tunable"], ["precision", "Precision"],
];

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function build(items) {
  const place = form.querySelector("fieldset");
  const facets = new Map();
  for (const [key, label] of FACETS) {
    const values = [...new Set(items.flatMap((item) => item[key]))].sort((a, b) => a.localeCompare(b, "en"));
    if (values.length < 2) continue;
    const select = element("select", { name: key }, element("option", { value: "", textContent: "all" }));
    for (const value of values) select.append(element("option", { value, textContent: value }));
    place.append(element("label", {}, `${label} `, select));
    facets.set(key, select);
  }
  const numbers = [["parameters", "Parameters up to (M)", "any"], ["accuracy", "Top-1 from (%)", "any"]];
  for (const [key, label, step] of numbers) {
    if (!items.some((item) => item[key] !== null)) continue;
    place.append(element("label", {}, `${label} `, element("input", { type: "number", name: key, min: 0, step, inputMode: "decimal" })));
  }
  return facets;
}

function start(items, root) {
  const facets = build(items);
  let shown = PAGE;

  const state = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== ""));

  function fits(item, chosen, words, except) {
    if (!words.every((word) => item.words.includes(word))) return false;
    for (const key of facets.keys()) {
      if (key !== except && chosen[key] && !item[key].includes(chosen[key])) return false;
    }
    if (chosen.parameters && !(item.parameters !== null && item.parameters <= chosen.parameters * 1e6)) return false;
    return !(chosen.accuracy && !(item.accuracy !== null && item.accuracy >= chosen.accuracy));
  }

  function rank(item, words) {
    // The name first, then what begins like the words, then the index's own order.
    const name = item.name.toLowerCase();
    const hits = words.filter((word) => name.includes(word)).length;
    return [-hits, words.length && name.startsWith(words[0]) ? 0 : 1, item.yanked === null ? 0 : 1, item.number];
  }

  function entry(item) {
    const line = element("li", {}, element("a", { className: "handle", href: root + item.page, textContent: item.name }));
    const facts = [...item.kind.filter((kind) => kind !== "Module"), item.parameters === null ? "" : millions(item.parameters),
      item.accuracy === null ? "" : `${Number(item.accuracy.toFixed(2))} % ${item.measured ? "measured" : "reported"}`].filter(Boolean);
    if (facets.has("owner")) facts.unshift(item.publisher);
    for (const fact of facts) line.append(" ", element("span", { className: "tag", textContent: fact }));
    if (item.yanked !== null) line.append(" ", element("span", { className: "tag tag-warning", textContent: "withdrawn" }));
    if (item.description) line.append(" ", element("span", { className: "quiet", textContent: item.description }));
    return line;
  }

  function apply() {
    const chosen = state();
    const words = (chosen.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const hits = items.filter((item) => fits(item, chosen, words)).map((item) => [rank(item, words), item]);
    hits.sort(([a], [b]) => {
      const at = a.findIndex((value, i) => value !== b[i]);
      return at < 0 ? 0 : a[at] - b[at];
    });
    list.replaceChildren(...hits.slice(0, shown).map(([, item]) => entry(item)));
    found.textContent = hits.length === 1 ? "1 result" : `${hits.length.toLocaleString("en")} results`;
    more.hidden = hits.length <= shown;
    clear.hidden = Object.keys(chosen).length === 0;
    for (const [key, select] of facets) {
      const counts = new Map();
      for (const item of items) {
        if (fits(item, chosen, words, key)) for (const value of item[key]) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
      for (const option of select.options) {
        if (!option.value) continue;
        const count = counts.get(option.value) ?? 0;
        option.textContent = `${option.value} (${count})`;
        option.disabled = count === 0 && option.value !== select.value;
      }
    }
    const query = new URLSearchParams(chosen);
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
  }

  const query = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name || !query.has(field.name)) continue;
    const value = query.get(field.name);
    if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
  }
  form.addEventListener("input", () => {
    shown = PAGE;
    apply();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.focus();
  });
  form.addEventListener("reset", () => window.setTimeout(() => {
    shown = PAGE;
    apply();
    form.elements.q.focus();
  }));
  more.addEventListener("click", () => {
    const first = shown;
    shown += PAGE * 4;
    apply();
    list.children[first]?.querySelector("a").focus();
  });
  document.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const inField = document.activeElement === form.elements.q;
    if (event.key === "ArrowDown" && (inField || at >= 0)) links[at + 1]?.focus();
    else if (event.key === "ArrowUp" && at > 0) links[at - 1].focus();
    else if (event.key === "ArrowUp" && at === 0) form.elements.q.focus();
    else if (event.key === "Escape" && at >= 0) form.elements.q.focus();
    else return;
    event.preventDefault();
  });
  form.hidden = false;
  apply();
  if (!query.size) return;
  form.elements.q.focus();
}

fetch(form.dataset.index)
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`${answer.status}`))))
  .then((index) => start(read(index), form.dataset.root))
  .catch(() => {
    // The list that is in the page already stays.
    document.getElementById("announcement").textContent = "Search is not available here; the list is complete.";
  });

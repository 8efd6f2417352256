// Search over index.json: all words must occur, facets narrow down, the state is in the address. Needs no server.
// One typing error in a word is forgiven where nothing is found.
"use strict";

const form = document.getElementById("search");
const list = document.getElementById("results");
const more = document.getElementById("more");
const found = document.getElementById("found");
const clear = form.querySelector("button[type=reset]");
const PAGE = 50;

// "-", "_", ".", "/" and blanks are alike.
const plain = (text) => text.toLowerCase().replaceAll(/[-_./\s]+/g, " ").trim();

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
    family: item.title ? [item.title] : [],
    architecture: item.title ? [] : [item.network_architecture ?? []].flat().map((each) => named("network_architecture", each)),
    dataset: (item.datasets ?? []).map((each) => named("dataset", each)),
    language: (item.languages ?? []).map((each) => named("language", each)),
    license: item.license ? [named("license", item.license)] : [],
    owner: [item.publisher],
    kind: item.kind ? [item.kind] : [],
    tuning: item.fine_tunable === undefined || item.fine_tunable === null ? [] : [item.fine_tunable ? "yes" : "no"],
    precision: item.precision ? [item.precision] : [],
    parameters: item.parameters ?? null,
    accuracy: item.top1 ?? null,
    measured: item.top1_measured ?? false,
    commercial: item.commercial_use ?? null,
    published: item.published ?? "",
    yanked: item.yanked ?? null,
  })).map((item) => ({
    ...item,
    title: plain(item.name),
    words: plain([
      item.publisher, item.name, item.description, ...item.task, ...item.family, ...item.architecture, ...item.dataset, ...item.language, ...item.license,
      ...item.kind,
    ].join(" ")),
  })).map((item) => ({ ...item, words: item.words + synonyms(item) }));
}

function synonyms(item) {
  // Words that people search by, and that no description contains.
  const found = [];
  if (/feature|embedding/.test(item.words)) found.push("backbone embedding features");
  if (/regnet/.test(item.words)) found.push("resnet");
  if (item.commercial) found.push("permissive commercial use");
  return ` ${found.join(" ")}`;
}

function near(a, b) {
  // Whether one letter more, less, other or exchanged with its neighbour makes `b` of `a`.
  if (Math.abs(a.length - b.length) > 1) return false;
  let i = 0;
  while (i < a.length && a[i] === b[i]) i += 1;
  const rest = (text, from) => text.slice(from);
  return rest(a, i + 1) === rest(b, i + 1) || rest(a, i + 1) === rest(b, i) || rest(a, i) === rest(b, i + 1)
    || (a[i] === b[i + 1] && a[i + 1] === b[i] && rest(a, i + 2) === rest(b, i + 2));
}

const FACETS = [
  ["kind", "Kind"], ["task", "Task"], ["family", "Family"], ["architecture", "Architecture"], ["dataset", "Data set"], ["language", "Language"],
  ["owner", "Publisher"],
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
  const licences = [...new Set(items.flatMap((item) => item.license))].sort((a, b) => a.localeCompare(b, "en"));
  if (licences.length > 1) {
    const box = (name, value, text) => element("label", {}, element("input", { type: "checkbox", name, value }), ` ${text}`);
    const choices = element("div", { className: "choices" });
    if (items.some((item) => item.commercial === false)) choices.append(box("commercial", "yes", "commercial use"));
    choices.append(...licences.map((value) => box("license", value, value)));
    place.append(element("fieldset", { className: "licences" }, element("legend", { textContent: "Licence, any of" }), choices));
  }
  const numbers = [["parameters", "Parameters up to (M)", "any"], ["accuracy", "Top-1 from (%)", "any"]];
  for (const [key, label, step] of numbers) {
    if (!items.some((item) => item[key] !== null)) continue;
    place.append(element("label", {}, `${label} `, element("input", { type: "number", name: key, min: 0, step, inputMode: "decimal" })));
  }
  const orders = [["", "best match"], ["accuracy", "accuracy"], ["parameters", "fewest parameters"], ["published", "newest"], ["name", "name"]];
  const known = orders.filter(([key]) => !key || items.some((item) => item[key] !== null && item[key] !== ""));
  place.append(element("label", {}, "Sort by ", element("select", { name: "sort" }, ...known.map(([value, textContent]) => element("option", { value, textContent })))));
  return facets;
}

const ORDERS = {
  accuracy: (a, b) => (b.accuracy ?? -1) - (a.accuracy ?? -1),
  parameters: (a, b) => (a.parameters ?? Infinity) - (b.parameters ?? Infinity),
  published: (a, b) => (a.published < b.published ? 1 : a.published > b.published ? -1 : 0),
  name: (a, b) => a.title.localeCompare(b.title, "en", { numeric: true }),
};

function start(items, root) {
  const facets = build(items);
  let shown = PAGE;

  const given = () => [...new FormData(form)].filter(([, value]) => value.trim() !== "");

  function fits(item, chosen, words, except) {
    if (!words.every((word) => item.words.includes(word))) return false;
    if (chosen.licences.length && !item.license.some((each) => chosen.licences.includes(each))) return false;
    if (chosen.commercial && !item.commercial) return false;
    for (const key of facets.keys()) {
      if (key !== except && chosen[key] && !item[key].includes(chosen[key])) return false;
    }
    if (chosen.parameters && !(item.parameters !== null && item.parameters <= chosen.parameters * 1e6)) return false;
    return !(chosen.accuracy && !(item.accuracy !== null && item.accuracy >= chosen.accuracy));
  }

  function rank(item, words) {
    // The phrase as the name, then in it, then most words in it, then what begins like the words, then the index's own order.
    const phrase = words.join(" ");
    const hits = words.filter((word) => item.title.includes(word)).length;
    const place = !phrase || !item.title.includes(phrase) ? 2 : item.title === phrase ? 0 : 1;
    return [place, -hits, words.length && item.title.startsWith(words[0]) ? 0 : 1, item.yanked === null ? 0 : 1, item.number];
  }

  function forgive(words) {
    // Replace each word that occurs nowhere by one that occurs and differs in one letter; null where there is none.
    const occurring = new Set(items.flatMap((item) => item.words.split(" ")));
    const found = words.map((word) => (word.length < 4 || items.some((item) => item.words.includes(word)) ? word
      : [...occurring].find((each) => near(word, each)) ?? null));
    return found.includes(null) || found.every((word, i) => word === words[i]) ? null : found;
  }

  function entry(item) {
    const line = element("li", {}, element("a", { className: "handle", href: root + item.page, textContent: item.name }));
    const facts = [...item.kind.filter((kind) => kind !== "Module"), item.parameters === null ? "" : millions(item.parameters),
      item.accuracy === null ? "" : `${Number(item.accuracy.toFixed(2))} % ${item.measured ? "measured" : "reported"}`].filter(Boolean);
    if (facets.has("owner")) facts.unshift(item.publisher);
    for (const fact of facts) line.append(" ", element("span", { className: "tag", textContent: fact }));
    for (const licence of item.license) {
      const forbids = item.commercial === false;
      line.append(" ", element("span", { className: forbids ? "tag tag-warning" : "tag", textContent: licence + (forbids ? ", non-commercial" : "") }));
    }
    if (item.yanked !== null) line.append(" ", element("span", { className: "tag tag-warning", textContent: "withdrawn" }));
    if (item.description) line.append(" ", element("span", { className: "quiet", textContent: item.description }));
    return line;
  }

  function apply() {
    const pairs = given();
    const chosen = { ...Object.fromEntries(pairs), licences: pairs.filter(([key]) => key === "license").map(([, value]) => value) };
    let words = plain(chosen.q ?? "").split(" ").filter(Boolean);
    const asked = words.join(" ");
    const search = () => items.filter((item) => fits(item, chosen, words)).map((item) => [rank(item, words), item]);
    let hits = search();
    const other = hits.length ? null : forgive(words);
    if (other) {
      words = other;
      hits = search();
    }
    hits.sort(([a, one], [b, two]) => {
      const at = a.findIndex((value, i) => value !== b[i]);
      return ORDERS[chosen.sort]?.(one, two) || (at < 0 ? 0 : a[at] - b[at]);
    });
    list.replaceChildren(...hits.slice(0, shown).map(([, item]) => entry(item)));
    found.textContent = hits.length === 1 ? "1 result" : `${hits.length.toLocaleString("en")} results`;
    if (other) found.textContent += ` for “${words.join(" ")}”, none for “${asked}”`;
    more.hidden = hits.length <= shown;
    clear.hidden = pairs.length === 0;
    for (const [key, select] of facets) {
      const counts = new Map();
      for (const item of items) {
        if (fits(item, chosen, words, key)) for (const value of item[key]) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
      for (const option of select.options) {
        if (!option.value) continue;
        const count = counts.get(option.value) ?? 0;
        option.textContent = `${option.value} (${count})`;
        option.hidden = option.disabled = count === 0 && option.value !== select.value;
      }
    }
    const query = new URLSearchParams(pairs);
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
  }

  const query = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name || !query.has(field.name)) continue;
    const value = query.get(field.name);
    if (field.type === "checkbox") field.checked = query.getAll(field.name).includes(field.value);
    else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
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
  form.classList.remove("is-waiting");
  narrow.open = window.matchMedia("(min-width: 34rem)").matches;
  apply();
  if (!query.size) return;
  form.elements.q.focus();
}

// What was asked for is in its field from the beginning, whether the index comes or not.
const narrow = form.querySelector("details");
form.hidden = false;
form.elements.q.value = new URLSearchParams(location.search).get("q") ?? "";

fetch(form.dataset.index)
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`${answer.status}`))))
  .then((index) => start(read(index), form.dataset.root))
  .catch(() => {
    // The list that is in the page already stays, and so do the words.
    narrow.remove();
    found.textContent = "The search could not be loaded. The list below is complete; reload the page to try again.";
  });

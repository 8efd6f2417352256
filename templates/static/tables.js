// Collections: filters and sorting, with their state in the address; the plots (see plot.js) show what the tables show.
"use strict";

function tables(form) {
  const rows = [...document.querySelectorAll("tr[data-module]")];
  const points = [...document.querySelectorAll(".point[data-module]")];
  const plots = [...document.querySelectorAll("[data-plot]")].map(plotOf);
  const heads = [...document.querySelectorAll("table.modules th[data-key]")];
  const clear = form.querySelector("button[type=reset]");
  let sorted = { key: "", descending: false };

  function sort(key, descending) {
    sorted = { key, descending };
    for (const head of heads) {
      const mine = head.dataset.key === key;
      if (mine) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      if (!mine) continue;
      const body = head.closest("table").tBodies[0];
      const column = head.cellIndex;
      const numeric = "numeric" in head.dataset;
      const value = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // empty cells last, whatever the direction
        const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
        return descending ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    }
  }

  function apply() {
    const state = new FormData(form);
    const words = state.get("q").toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    for (const row of rows) {
      const fits = [...state].every(([key, value]) => key === "q" || !value || row.dataset[key] === value);
      const found = words.every((word) => row.dataset.module.toLowerCase().includes(word));
      row.hidden = !(fits && found);
      if (!row.hidden) shown.add(row.dataset.module);
    }
    for (const plot of plots) plot.draw(shown);
    for (const list of document.querySelectorAll("[data-list]")) {
      const visible = list.querySelectorAll("tbody tr:not([hidden])").length;
      list.querySelector(".count").textContent = visible;
      list.hidden = visible === 0;
    }
    form.querySelector("output").textContent = `${shown.size} of ${rows.length} modules`;
    clear.hidden = [...state.values()].every((value) => !value);
    const query = new URLSearchParams([...state].filter(([, value]) => value));
    if (sorted.key) query.set("sort", (sorted.descending ? "-" : "") + sorted.key);
    const compared = new URLSearchParams(location.search).get("compare");
    if (compared) query.set("compare", compared);
    const address = `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`;
    history.replaceState(null, "", address);
  }

  function restore() {
    const query = new URLSearchParams(location.search);
    for (const field of form.elements) {
      if (!field.name) continue;
      const value = query.get(field.name) ?? "";
      const known = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value);
      field.value = known ? value : "";
    }
    const wanted = query.get("sort") ?? "";
    const key = wanted.replace(/^-/, "");
    if (heads.some((head) => head.dataset.key === key)) sort(key, wanted.startsWith("-"));
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = head.getAttribute("aria-sort");
      sort(head.dataset.key, again ? again === "ascending" : "numeric" in head.dataset);
      apply();
    });
  }
  const light = (name, on) => {
    for (const point of points) if (point.dataset.module === name) point.classList.toggle("is-lit", on);
  };
  for (const row of rows) {
    for (const kind of ["mouseenter", "focusin"]) row.addEventListener(kind, () => light(row.dataset.module, true));
    for (const kind of ["mouseleave", "focusout"]) row.addEventListener(kind, () => light(row.dataset.module, false));
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => window.setTimeout(() => {
    apply();
    form.elements.q.focus();
  }));
  form.hidden = false;
  restore();
  apply();
}

tables(document.getElementById("filters"));

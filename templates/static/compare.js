// Compare up to four modules: a box in each row of the tables, what differs below. The choice is in the address.
"use strict";

{
  const MOST = 4;
  const source = document.currentScript.dataset.index;
  const root = new URL(source, location.href);
  let index = null;
  let names = (new URLSearchParams(location.search).get("compare") ?? "").split(",").filter(Boolean).slice(0, MOST);
  let full = false;

  const make = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const nameOf = (row) => row.dataset.handle.split("/").slice(1, -1).join("/");
  const figure = (value, scale = 1) => (value === null || value === undefined ? null : value / scale);
  const speed = (m, batch) => m.speed?.images_per_second[batch] ?? null;
  // Heading, value, decimals of a figure, and whether less (-1) or more (1) is better.
  const ROWS = [
    ["Top-1 (%)", (m) => figure(m.top1), 2, 1],
    ["Parameters (M)", (m) => figure(m.parameters, 1e6), 2, -1],
    ["GFLOPs", (m) => figure(m.gflops), 2, -1],
    ["Images/s, batch 1", (m) => speed(m, "1"), 1, 1],
    ["Images/s, batch 8", (m) => speed(m, "8"), 1, 1],
    ["Download (MB)", (m) => figure(m.archive.bytes, 1e6), 1, -1],
    ["Resolution", (m) => `${m.resolution}x${m.resolution}`],
    ["Licence", (m) => `${index.names.license[m.license]}${m.commercial_use ? "" : ", non-commercial"}`],
    ["Trained on", (m) => m.data.replaceAll("_", ", then ")],
    ["Head", (m) => (m.head === "classifier" ? "classifier" : "features")],
    ["Family", (m) => m.title],
    ["Fine-tunable", (m) => (m.fine_tunable ? "yes" : "no")],
    ["Precision", (m) => m.precision],
  ];

  const title = make("summary", {});
  const table = make("table", {});
  const note = make("p", { className: "note" });
  const markdown = make("pre", { id: "compare-markdown", hidden: true });
  const copy = make("button", { type: "button", className: "copy", title: "Copy this comparison as Markdown" }, make("span", { textContent: "Copy" }), " as Markdown");
  copy.dataset.copy = markdown.id;
  const clear = make("button", { type: "button", className: "copy", textContent: "Clear" });
  const scroll = make("div", { className: "compare-table", tabIndex: 0, role: "region", ariaLabel: "Comparison" }, table);
  const tray = make("details", { className: "compare", open: true, hidden: true }, title, make("div", { className: "compare-tools" }, copy, clear), scroll, note, markdown);
  document.getElementById("content").append(tray);
  clear.addEventListener("click", () => choose([]));

  function facts(modules) {
    const machines = new Set(modules.map((m) => m.speed && `${m.speed.cpu} ${m.speed.threads}`));
    const found = [];
    for (const [heading, value, decimals, way] of ROWS) {
      if (heading.startsWith("Images/s") && machines.size > 1) continue;  // of two machines they cannot be compared
      const values = modules.map(value);
      if (modules.length > 1 && new Set(values).size === 1) continue;
      const known = values.filter((each) => each !== null);
      const best = way && known.length > 1 ? Math[way > 0 ? "max" : "min"](...known) : undefined;
      found.push([heading, values.map((each) => ({
        text: each === null ? "–" : way ? each.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }) : each,
        best: each !== null && each === best,
      }))]);
    }
    return found;
  }

  function draw() {
    const modules = names.map((name) => index?.modules.find((m) => m.newest && m.name === name)).filter(Boolean);
    tray.hidden = modules.length === 0;
    if (tray.hidden) return;
    title.textContent = `Compare ${modules.length}`;
    const head = make("tr", {}, make("td", {}), ...modules.map((m) => {
      const remove = make("button", { type: "button", className: "remove", textContent: "×", ariaLabel: `Remove ${m.name}` });
      remove.addEventListener("click", () => {
        choose(names.filter((name) => name !== m.name));
        (scroll.querySelector(".remove") ?? document.querySelector(".compare-box"))?.focus();
      });
      return make("th", { scope: "col" }, make("a", { className: "handle", href: new URL(m.page, root), textContent: m.name }), " ", remove);
    }));
    const rows = modules.length < 2 ? [] : facts(modules);
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows.map(([heading, cells]) => make("tr", {}, make("th", { scope: "row", textContent: heading }),
      ...cells.map(({ text, best }) => make("td", {}, best ? make("strong", { textContent: text }) : text))))));
    note.textContent = full ? `${MOST} modules at most.` : modules.length < 2 ? "Choose another module." : "Only what differs; the best figure is bold.";
    copy.hidden = modules.length < 2;
    const line = (cells) => `| ${cells.join(" | ")} |`;
    markdown.textContent = [line(["", ...modules.map((m) => `[${m.name}](${index.url}/${m.handle})`)]), line(["---", ...modules.map(() => "---:")]),
      ...rows.map(([heading, cells]) => line([heading, ...cells.map(({ text, best }) => (best ? `**${text}**` : text))]))].join("\n");
  }

  function mark() {
    for (const row of document.querySelectorAll(".modules tr[data-handle]")) {
      let box = row.querySelector(".compare-box");
      if (!box) {
        box = make("input", { type: "checkbox", className: "compare-box", ariaLabel: `Compare ${nameOf(row)}` });
        row.cells[0].prepend(box);
      }
      box.checked = names.includes(nameOf(row));
    }
  }

  async function choose(chosen) {
    full = chosen.length > MOST;
    names = chosen.slice(0, MOST);
    const query = new URLSearchParams(location.search);
    if (names.length) query.set("compare", names.join(","));
    else query.delete("compare");
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
    mark();
    if (names.length && !index) {
      const answer = await fetch(source).catch(() => null);
      if (answer?.ok) index = await answer.json();
      else document.getElementById("announcement").textContent = "The comparison could not be loaded.";
    }
    draw();
    if (full) document.getElementById("announcement").textContent = note.textContent;
  }

  document.addEventListener("change", (event) => {
    if (!event.target.matches(".compare-box")) return;
    const name = nameOf(event.target.closest("tr"));
    choose(event.target.checked ? [...names, name] : names.filter((each) => each !== name));
  });
  for (const body of document.querySelectorAll(".modules tbody")) new MutationObserver(mark).observe(body, { childList: true });
  choose(names);
}

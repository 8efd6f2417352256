// Copy buttons, and "/" for search. The pages are complete without it.
"use strict";

function select(element) {
  const selection = window.getSelection();
  selection.removeAllRanges();
  const range = document.createRange();
  range.selectNodeContents(element);
  selection.addRange(range);
}

async function copy(element) {
  // The clipboard exists on https and localhost only; elsewhere the old command still works, or the text is at least selected.
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(element.textContent.trimEnd());
    return true;
  }
  select(element);
  return document.execCommand("copy");
}

for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;

// The code of documents that others wrote has no buttons yet.
document.querySelectorAll(".document pre").forEach((pre, number) => {
  pre.id ||= `code-block-${number + 1}`;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", title: `Copy code block ${number + 1}` });
  button.dataset.copy = pre.id;
  button.append(Object.assign(document.createElement("span"), { textContent: "Copy" }));
  pre.before(button);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const label = button.querySelector("span");
  const target = document.getElementById(button.dataset.copy);
  const done = await copy(target).catch(() => {
    select(target);
    return false;
  });
  const message = done ? "Copied" : "Selected: press Ctrl+C";
  label.textContent = message;
  document.getElementById("announcement").textContent = message;
  window.setTimeout(() => {
    label.textContent = "Copy";
    document.getElementById("announcement").textContent = "";
  }, 2000);
});

// "/" goes to the page's search field.
document.addEventListener("keydown", (event) => {
  const field = document.querySelector("main [data-search]") ?? document.querySelector("[data-search]");
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.key === "/" && field && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    field.focus();
  }
});

// Tabs: the chosen one is in the address, and remembered for the next module.
for (const group of document.querySelectorAll(".tabs")) {
  const inputs = [...group.querySelectorAll(":scope > input")];
  const key = inputs[0].name;
  const find = (name) => inputs.find((input) => input.id === `tab-${name}`);
  let kept = null;
  try {
    kept = localStorage.getItem(`tab-${key}`);
  } catch { /* storage is forbidden: nothing is remembered */ }
  const chosen = find(new URLSearchParams(location.search).get(key)) ?? find(kept);
  if (chosen) chosen.checked = true;
  group.addEventListener("change", (event) => {
    const name = event.target.id.replace("tab-", "");
    const query = new URLSearchParams(location.search);
    query.set(key, name);
    history.replaceState(null, "", `${location.pathname}?${query}${location.hash}`);
    try {
      localStorage.setItem(`tab-${key}`, name);
    } catch { /* as above */ }
  });
}

// Plots: a card for the mark under the pointer, the finger or the focus; arrow keys move from mark to mark.
// `plotOf(figure)` gives { draw(shown) }, which hides what a filter leaves out and lays the lines through the rest.
"use strict";

function frontier(marks) {
  // What nothing smaller reaches; y grows downwards.
  const best = [];
  for (const mark of [...marks].sort((a, b) => a.x - b.x || a.y - b.y)) {
    if (!best.length || mark.y < best.at(-1).y) best.push(mark);
  }
  return best;
}

function plotOf(figure) {
  const svg = figure.querySelector("svg");
  const card = document.createElement("div");
  card.className = "plot-card";
  card.hidden = true;
  figure.append(card);
  const links = () => [...svg.querySelectorAll(".point:not(.is-out)")];
  const place = (link) => ({ link, x: Number(link.dataset.x), y: Number(link.dataset.y) });
  let current = null;
  let pressed = null;

  function show(link) {
    current = link;
    const [name, ...figures] = link.getAttribute("aria-label").split(/: |, /);
    const title = document.createElement("strong");
    title.textContent = name;
    card.replaceChildren(title, ...figures.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    card.hidden = false;
    const [frame, mark] = [figure.getBoundingClientRect(), link.getBoundingClientRect()];
    const left = mark.x + mark.width / 2 - frame.x - card.offsetWidth / 2;
    card.style.left = `${Math.max(4, Math.min(left, frame.width - card.offsetWidth - 4))}px`;
    const above = mark.y - frame.y - card.offsetHeight - 8;
    card.style.top = `${above < 0 ? mark.bottom - frame.y + 8 : above}px`;
  }

  function hide() {
    current = null;
    card.hidden = true;
  }

  function stop(at) {
    // The one mark that the Tab key reaches.
    for (const link of svg.querySelectorAll(".point")) link.setAttribute("tabindex", link === at ? "0" : "-1");
  }

  function ready() {
    for (const title of svg.querySelectorAll(".point title")) title.remove();  // the card says it
    const inside = links();
    stop(inside.includes(document.activeElement) ? document.activeElement : inside[0]);
  }

  // On the figure: Chrome puts an SVG element that listens to focus into the order of the Tab key.
  const of = (event) => event.target.closest?.(".point");
  figure.addEventListener("pointerover", (event) => of(event) && event.pointerType !== "touch" && show(of(event)));
  figure.addEventListener("pointerout", (event) => of(event) && event.pointerType !== "touch" && hide());
  figure.addEventListener("focusin", (event) => {
    if (!of(event)) return;
    stop(of(event));
    show(of(event));
  });
  figure.addEventListener("focusout", hide);
  figure.addEventListener("pointerdown", (event) => {
    pressed = event.pointerType === "touch" ? { again: of(event) === current } : null;
  });
  figure.addEventListener("click", (event) => {
    if (!of(event)) hide();
    else if (pressed && !pressed.again) {  // the first tap shows, the second one opens
      event.preventDefault();
      show(of(event));
    }
    pressed = null;
  });
  figure.addEventListener("keydown", (event) => {
    const byAccuracy = ["ArrowUp", "ArrowDown"].includes(event.key);
    const order = links().map(place).sort((a, b) => (byAccuracy ? b.y - a.y || a.x - b.x : a.x - b.x || b.y - a.y));
    const at = order.findIndex((each) => each.link === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    order[to]?.link.focus();
  });

  function draw(shown) {
    for (const link of svg.querySelectorAll(".point")) link.classList.toggle("is-out", !shown.has(link.dataset.module));
    for (const line of svg.querySelectorAll("polyline[data-series]")) {
      const mine = links().filter((link) => link.dataset.series === line.dataset.series).map(place);
      line.setAttribute("points", frontier(mine).map(({ x, y }) => `${x},${y}`).join(" "));
    }
    ready();
  }

  ready();
  return { draw, ready };
}

for (const figure of document.querySelectorAll("[data-plot=alone]")) plotOf(figure);

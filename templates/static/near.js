// The page for missing addresses: the modules or documents whose handles are near the address.
"use strict";

{
  const { index, root } = document.currentScript.dataset;
  const FEW = 5;

  function distance(a, b) {
    // Levenshtein's: letters to insert, delete or replace.
    let row = Array.from({ length: b.length + 1 }, (_, i) => i);
    for (let i = 1; i <= a.length; i += 1) {
      const next = [i];
      for (let j = 1; j <= b.length; j += 1) next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
      row = next;
    }
    return row.at(-1);
  }

  function show({ modules, documents }) {
    const asked = decodeURIComponent(location.pathname).slice(root.length).replace(/\/(index\.html)?$/, "").toLowerCase().slice(0, 80);
    const near = (modules ?? documents).filter((each) => each.newest && !each.yanked)
      .map((each) => ({ ...each, far: Math.min(distance(asked, each.handle.toLowerCase()), distance(asked, each.name.toLowerCase())) }))
      .filter((each) => each.far <= Math.max(2, asked.length / 3)).sort((a, b) => a.far - b.far || (a.handle < b.handle ? -1 : 1)).slice(0, FEW);
    const place = document.getElementById("near");
    place.querySelector("ul").replaceChildren(...near.map((each) => {
      const link = Object.assign(document.createElement("a"), { className: "handle", href: root + each.page, textContent: each.handle });
      const line = document.createElement("li");
      line.append(link);
      return line;
    }));
    place.hidden = near.length === 0;
  }

  fetch(index).then((answer) => answer.json()).then(show).catch(() => {});  // the page says what to do without it, too
}

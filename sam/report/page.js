"use strict";

// A table sorts by the mean of a column: ascending, descending, then as it was. What has no number comes last.
for (const table of document.querySelectorAll(".block .scroll > table")) {
  const original = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.tagName === "TH" || !cell.className) return cell.textContent; // the name of the row
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : original.some((own) => "sort" in own.cells[column].dataset) ? null : cell.textContent;
  };
  const compare = (a, b) => (typeof a === "string" && typeof b === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const order = (a, b) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
      const sorted = original.toSorted((a, b) => order(key(a, column), key(b, column)));
      table.tBodies[0].append(...(next === "none" ? original : sorted));
    });
  });
}

// A link to a run opens it.
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
addEventListener("click", (event) => { if (event.target.closest("a")?.getAttribute("href") === location.hash) reveal(); });

document.getElementById("theme").addEventListener("click", () => {
  const own = document.documentElement.style;
  const dark = own.colorScheme ? own.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  own.colorScheme = dark ? "light" : "dark";
});

// On paper every run and figure stands open, of the tables what the reader opened; what was closed is closed again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open], .block details, .run details)")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

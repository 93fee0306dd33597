"use strict";

// A table sorts by the mean of a column: ascending, descending, then as it was. What has no number comes last.
for (const table of document.querySelectorAll(".block .scroll > table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.tagName === "TH" || !cell.className) return cell.textContent; // the name of the row
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : null;
  };
  const compare = (a, b) => (typeof a === "string" && typeof b === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = original.map((row) => ({ row, value: key(row, column) }));
      if (next !== "none") {
        rows.sort((a, b) => {
          if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
          return sign * compare(a.value, b.value);
        });
      }
      body.append(...rows.map(({ row }) => row));
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
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => { if (link.getAttribute("href") === location.hash) reveal(); });
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// On paper every run and figure stands open, of the tables what the reader opened; what was closed is closed again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open], .block details, .run details)")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

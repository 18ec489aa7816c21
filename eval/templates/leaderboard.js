"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// A click on a column's head sorts its table, a second one turns the order; rows without a number stay last.
function sort(head) {
  const heads = [...head.parentElement.children], column = heads.indexOf(head);
  const before = head.getAttribute("aria-sort"), first = head.dataset.first;
  const order = !before ? first : before === "ascending" ? "descending" : "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const body = head.closest("table").tBodies[0], key = (row) => row.children[column].dataset.v ?? "";
  const numeric = column > 0 && [...body.rows].every((row) => !isNaN(key(row)));
  const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b);
  body.append(...[...body.rows].sort((one, two) => {
    const a = key(one), b = key(two);
    if (a === "" || b === "") return (a === "") - (b === "");
    return order === "ascending" ? compare(a, b) : compare(b, a);
  }));
}
for (const head of all("thead th")) head.querySelector("button").addEventListener("click", () => sort(head));

// What is of another kind or origin is hidden, then every plot, table and section that has nothing left to show.
const filters = document.getElementById("filters");
let kindBefore = "";
function filter() {
  const suite = filters.suite.value, kind = filters.kind.value;
  const origins = all("[name=origin]:checked", filters).map((box) => box.value);
  for (const part of all("[data-kind]")) part.hidden = kind !== "" && part.dataset.kind !== kind;
  for (const row of all("[data-origin]")) row.hidden = !origins.includes(row.dataset.origin);
  for (const block of all(".block")) {
    const heads = all("thead th", block), columns = heads.length === 0 || heads.slice(1).some((head) => !head.hidden);
    const other = kind !== "" && (block.dataset.kind ?? kind) !== kind;
    block.hidden = other || !columns || all("[data-origin]", block).every((row) => row.hidden);
  }
  if (kind !== kindBefore) for (const closer of all("details.closer")) closer.open = closer.dataset.kind === kind;
  kindBefore = kind;
  for (const section of all("section")) {
    // A published column of this kind does not make the suite ask it.
    const asked = kind === "" || !section.dataset.kinds || JSON.parse(section.dataset.kinds).includes(kind);
    const empty = all(".block", section).every((block) => block.hidden);
    section.hidden = (suite !== "" && section.id !== suite) || !asked || empty;
  }
  const shown = all("section:not([hidden])").length;
  filters.shown.value = shown === 0 ? "nothing fits; reset to see all" : `${shown} of ${all("section").length} sections`;
}
filters.hidden = false;
filters.addEventListener("change", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filter));
filter(); // a browser may keep the choices of an earlier visit

"use strict";
// Cards of another kind or dataset are hidden, then every section that has none left to show.
const filters = document.getElementById("filters"), cards = [...document.querySelectorAll("article")];
function filter() {
  const kind = filters.kind.value, dataset = filters.dataset.value;
  const fits = (one, wanted) => wanted === "" || one === wanted;
  for (const card of cards) card.hidden = !fits(card.dataset.kind, kind) || !fits(card.dataset.dataset, dataset);
  for (const section of document.querySelectorAll("section"))
    section.hidden = section.querySelector("article") !== null && section.querySelector("article:not([hidden])") === null;
  const shown = cards.filter((card) => !card.hidden).length;
  filters.shown.value = shown === 0 ? "nothing fits; reset to see all" : `${shown} of ${cards.length} answers`;
}
filters.hidden = cards.length === 0;
filters.addEventListener("change", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filter));
if (cards.length) filter(); // a browser may keep the choices of an earlier visit

"use strict";

// A click on a column's name sorts by it: numbers the largest first, then the other way round.
function value(row, column) {
  const cell = row.cells[column];
  return "v" in cell.dataset ? JSON.parse(cell.dataset.v) : cell.textContent;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
}

function sort(header) {
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const before = header.getAttribute("aria-sort");
  const numbers = !header.classList.contains("text");
  const down = before ? before === "ascending" : numbers;
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  rows.sort((a, b) => {
    const empty = a[0] === null || b[0] === null; // empty cells stay below
    return empty ? compare(a[0], b[0]) : (down ? -1 : 1) * compare(a[0], b[0]);
  });
  body.append(...rows.map((pair) => pair[1]));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}

const search = document.querySelector(".search input");
if (search) {
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of document.querySelectorAll("#calls tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

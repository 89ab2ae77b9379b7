"use strict";

// What a mark says when it is pointed at or reached by the keyboard, and numbers to copy. Without
// this program the page shows the same: the marks have titles, and the table has the numbers.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

// A number with its interval, as it is in the results.
function full(triple) {
  if (!triple) return "-";
  const [value, low, high] = triple;
  const digits = (x) => String(Number(x.toPrecision(6)));
  return low === null ? digits(value) : `${digits(value)} [${digits(low)}, ${digits(high)}]`;
}

function show(point) {
  const [experiment, way, , measure] = point.dataset.key.split(" ");
  const name = measure.replaceAll("_", " ");
  const { label, n, values, differences } = data[experiment].variants[way];
  tip.replaceChildren();
  const bold = document.createElement("b");
  bold.dir = "auto";
  bold.textContent = label;
  const lines = [`${data[experiment].titles[name]} ${full(values[name])}`];
  if (differences[name]) lines.push(`difference ${full(differences[name])}`);
  lines.push(`n = ${n}`);
  tip.append(bold);
  for (const line of lines) tip.append(document.createElement("br"), line);
  tip.hidden = false;
  const mark = point.lastElementChild.getBoundingClientRect();
  const most = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(mark.right + 8, most))}px`;
  const above = mark.top - tip.offsetHeight - 8;
  tip.style.top = `${scrollY + (above < 0 ? mark.bottom + 8 : above)}px`;
}

function hide() {
  tip.hidden = true;
}

// One stop of the Tab key for each plot; arrows, Home and End go from mark to mark.
function next(points, index, key) {
  if (key === "ArrowRight" || key === "ArrowDown") return Math.min(index + 1, points.length - 1);
  if (key === "ArrowLeft" || key === "ArrowUp") return Math.max(index - 1, 0);
  if (key === "Home") return 0;
  return key === "End" ? points.length - 1 : -1;
}

for (const plot of document.querySelectorAll(".plot")) {
  const points = [...plot.querySelectorAll(".point")];
  points.forEach((point, index) => {
    point.setAttribute("tabindex", index ? -1 : 0);
    point.querySelector("title").remove(); // the tip says it
    point.addEventListener("pointerenter", () => show(point));
    point.addEventListener("pointerleave", hide);
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", hide);
    point.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const place = next(points, index, event.key);
      if (place < 0) return;
      event.preventDefault();
      point.setAttribute("tabindex", -1);
      points[place].setAttribute("tabindex", 0);
      points[place].focus();
    });
  });
}

// Numbers separated by tabs, as a spreadsheet takes them.
function text(experiment) {
  const parts = ["", " low", " high"];
  const heads = experiment.measures.flatMap((name) => [
    ...parts.map((part) => name + part),
    ...parts.map((part) => `${name} difference${part}`),
  ]);
  const rows = experiment.variants.map(({ label, n, values, differences }) => [
    label.replace(/\s+/g, " "),
    n,
    ...experiment.measures.flatMap((name) => [
      ...(values[name] ?? ["", "", ""]),
      ...(differences[name] ?? ["", "", ""]),
    ]),
  ]);
  return [["variant", "n", ...heads], ...rows].map((row) => row.join("\t")).join("\n");
}

document.querySelectorAll(".results").forEach((results, index) => {
  const said = results.querySelector("output");
  results.querySelector("button").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text(data[index]));
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(results.querySelector("table"));
      said.textContent = "the table is selected: copy it with Ctrl+C";
    }
  });
});

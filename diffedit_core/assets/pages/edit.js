"use strict";

// From a noise map to a mask: diffedit_core/parts.py's mask_of, number for number. Python computes
// in float32 and rounds after every operation. Here each result is rounded by Math.fround, or by
// being stored in a Float32Array. tests/test_report.py compares the two cell by cell.

const fround = Math.fround;

// mask.total: the first `count` numbers summed by halves, in place.
function total(values, count) {
  while (count > 1) {
    const half = 2 ** (31 - Math.clz32(count - 1)); // the largest power of two below count
    for (let i = half; i < count; i++) values[i - half] += values[i];
    count = half;
  }
  return values[0];
}

// mask.gaussian_weights: n x n, row by row. In float64, whose last bit, in which libraries differ,
// float32 does not see.
function gaussianWeights(n, sigma) {
  const near = Array.from({ length: n }, (_, d) => Math.exp(-((d / sigma) ** 2) / 2));
  const kept = near.map((weight) => (weight < 2 ** -52 ? 0 : weight));
  const weights = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += kept[Math.abs(i - j)];
    for (let j = 0; j < n; j++) weights[i * n + j] = kept[Math.abs(i - j)] / sum;
  }
  return weights;
}

// mask._weighted along one axis: `lines` lines of n cells, `stride` from cell to cell and `gap`
// from line to line.
function weighted(values, n, stride, lines, gap, sigma) {
  const weights = gaussianWeights(n, sigma);
  const out = new Float32Array(values.length);
  const products = new Float32Array(n);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        products[j] = weights[i * n + j] * values[line * gap + j * stride];
      }
      out[line * gap + i * stride] = total(products, n);
    }
  }
  return out;
}

// mask.smooth
function smooth(map, height, width, sigma) {
  if (sigma === 0) return map;
  const down = weighted(map, height, width, width, 1, sigma);
  return weighted(down, width, 1, height, width, sigma);
}

// mask.quantile of the whole map
function quantile(map, q) {
  const ordered = map.slice().sort();
  const place = q * (map.length - 1);
  const low = Math.min(Math.floor(place), map.length - 1);
  const high = Math.min(low + 1, map.length - 1);
  const step = fround(ordered[high] - ordered[low]);
  return fround(ordered[low] + fround(step * fround(place - low)));
}

// mask.normalise and mask.threshold, after mask.smooth. `options` has the names of options.py.
function maskOf(map, height, width, options) {
  const smoothed = smooth(map, height, width, options.mask_smoothing);
  const mean = () => fround(total(smoothed.slice(), smoothed.length) / smoothed.length);
  const clamp = options.mask_clamp_quantile
    ? quantile(smoothed, options.mask_clamp_quantile)
    : fround(mean() * fround(options.mask_clamp_ratio));
  const level = fround(options.mask_threshold);
  const divisor = clamp > 0 ? clamp : 1;
  return smoothed.map((m) => (fround(Math.min(m, clamp) / divisor) > level ? 1 : 0));
}

// What is shown.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.querySelector(".controls");

function numbers(text) {
  return new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

const targets = data.targets.map((target, i) => {
  const section = document.querySelectorAll(".target")[i];
  const canvas = section.querySelector(".mask");
  const area = section.querySelector(".area");
  return { ...target, cells: numbers(target.cells), canvas, area };
});

// Dim what is outside the mask, and draw a bright line just inside its edge.
function draw(canvas, mask, height, width) {
  const size = Math.max(1, Math.round(1024 / Math.max(height, width)));
  const line = Math.max(1, Math.round((Math.max(height, width) * size) / 200));
  canvas.width = width * size;
  canvas.height = height * size;
  const context = canvas.getContext("2d");
  const inside = (i, j) =>
    i >= 0 && j >= 0 && i < height && j < width && mask[i * width + j] >= 0.5;
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      const [x, y] = [j * size, i * size];
      context.fillStyle = `rgb(0 0 0 / ${0.65 * (1 - mask[i * width + j])})`;
      context.fillRect(x, y, size, size);
      if (!inside(i, j)) continue;
      context.fillStyle = "rgb(60 255 240)";
      if (!inside(i - 1, j)) context.fillRect(x, y, size, line);
      if (!inside(i + 1, j)) context.fillRect(x, y + size - line, size, line);
      if (!inside(i, j - 1)) context.fillRect(x, y, line, size);
      if (!inside(i, j + 1)) context.fillRect(x + size - line, y, line, size);
    }
  }
}

function show() {
  const options = form && chosen();
  for (const target of targets) {
    const { cells, height, width } = target;
    target.mask = target.given ? cells : maskOf(cells, height, width, options);
    draw(target.canvas, target.mask, height, width);
    const sum = target.mask.reduce((a, b) => a + b, 0);
    const share = ((100 * sum) / cells.length).toFixed(1);
    target.area.textContent = `${share} % of ${cells.length} cells`;
    target.canvas.setAttribute("aria-label", `mask over the source, ${share} %`);
  }
  if (!form) return;
  const quantiles = form.clamp.value === "quantile";
  row("mask_clamp_ratio").classList.toggle("off", quantiles);
  row("mask_clamp_quantile").classList.toggle("off", !quantiles);
  document.getElementById("command").textContent = command(options);
  document.getElementById("copied").textContent = "";
}

// The panel.

function row(option) {
  return form.querySelector(`[data-option="${option}"]`);
}

// The options of the mask as the panel has them; an invalid number counts as the last valid one.
const valid = { ...data.run };

function chosen() {
  const options = {};
  for (const name of Object.keys(data.run)) {
    const number = document.getElementById(name);
    if (number.value !== "" && number.validity.valid) valid[name] = number.valueAsNumber;
    options[name] = valid[name];
  }
  if (form.clamp.value === "ratio") options.mask_clamp_quantile = 0;
  return options;
}

// The command that makes this mask: what the recipe has already is left out.
function command(options) {
  const words = [data.command];
  for (const [name, value] of Object.entries(options)) {
    const unused = name === "mask_clamp_ratio" && options.mask_clamp_quantile;
    if (value !== data.recipe[name] && !unused) words.push(`--${data.flags[name]} ${value}`);
  }
  return words.join(" ");
}

async function copy() {
  const code = document.getElementById("command");
  const said = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(code);
    said.textContent = "selected: copy it with Ctrl+C";
  }
}

function startPanel() {
  for (const name of Object.keys(data.run)) {
    const range = row(name).querySelector('input[type="range"]');
    const number = document.getElementById(name);
    const choose = () => {
      if (name.startsWith("mask_clamp_")) form.clamp.value = name.replace("mask_clamp_", "");
      show();
    };
    range.addEventListener("input", () => {
      number.value = range.value;
      choose();
    });
    number.addEventListener("input", () => {
      if (number.value !== "" && number.validity.valid) range.value = number.value;
      choose();
    });
  }
  const start = () => {
    form.clamp.value = data.clamp;
    Object.assign(valid, data.run);
    show();
  };
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(start));
  document.getElementById("copy").addEventListener("click", copy);
  form.reset();
  start();
}

for (const stage of document.querySelectorAll(".compare")) {
  const range = stage.querySelector("input");
  range.addEventListener("input", () => stage.style.setProperty("--at", `${range.value}%`));
}

if (form) startPanel();
else show();

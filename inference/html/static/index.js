// An index of runs: sorts by a column, filters by text, model and data, and compares selected runs.
"use strict";
const table = document.getElementById("runs"), body = table.tBodies[0], rows = [...body.rows];
const data = JSON.parse(document.getElementById("data").textContent);
const make = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

// Sorting: each heading is a button. Rows without a value come last in both orders.
[...table.tHead.rows[0].cells].forEach((cell, column) => {
  const button = make("button", { type: "button" }, ...cell.childNodes);
  cell.replaceChildren(button);
  cell.ariaSort = "none";
  button.onclick = () => {
    const sign = cell.ariaSort === "ascending" ? -1 : 1;
    for (const other of cell.parentNode.cells) if (other.ariaSort) other.ariaSort = "none";
    cell.ariaSort = sign > 0 ? "ascending" : "descending";
    const key = row => {
      const of = row.querySelectorAll("th:not(.pick), td:not(.pick)")[column];
      return "value" in of.dataset ? Number(of.dataset.value) : of.textContent.trim();
    };
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
    });
    body.append(...rows);
  };
});

// Filtering.
const query = make("input", { type: "search", id: "query" });
const choose = (name, key) => {
  const options = [...new Set(rows.map(row => row.dataset[key]))].sort();
  return make("select", { id: name }, make("option", { value: "" }, "all"), ...options.map(option => make("option", { value: option }, option)));
};
const model = choose("model", "model"), set = choose("set", "data");
const shown = make("output");
const field = (text, input) => make("label", {}, `${text} `, input);
document.getElementById("filters").append(field("search", query), field("model", model), field("data", set), shown);
function filter() {
  const asked = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(asked.every(word => text.includes(word))
      && (!model.value || row.dataset.model === model.value) && (!set.value || row.dataset.data === set.value));
  }
  shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} shown`;
}
[query, model, set].forEach(input => input.addEventListener("input", filter));
filter();

// Comparison: the selected runs, in the order of selection.
const chosen = [];
table.tHead.rows[0].prepend(make("th", { scope: "col", className: "pick" }, "compare"));
for (const row of rows) {
  const name = row.dataset.run;
  const box = make("input", { type: "checkbox", ariaLabel: `compare ${name}` });
  box.onchange = () => {
    box.checked ? chosen.push(name) : chosen.splice(chosen.indexOf(name), 1);
    compare();
  };
  row.prepend(make("td", { className: "pick" }, box));
}

function compare() {
  document.getElementById("comparison").hidden = !chosen.length;
  document.getElementById("compared").replaceChildren(...(chosen.length ? [settingsAndResults(), ...curvesOfChosen(), ...figuresOfChosen()] : []));
  const box = document.querySelector("#compared .curves");
  if (box) readable(box, box.data);
}

// A table of the settings that differ, and of all results.
function settingsAndResults() {
  const union = part => [...new Set(chosen.flatMap(name => Object.keys(data[name][part])))];
  const line = (key, part) => make("tr", {}, make("th", { scope: "row" }, key),
    ...chosen.map(name => make("td", {}, data[name][part][key] ?? "")));
  const differ = union("settings").filter(key => new Set(chosen.map(name => data[name].settings[key])).size > 1);
  const head = make("tr", {}, make("th", { scope: "col" }, "run"), ...chosen.map((name, at) =>
    make("th", { scope: "col", className: `s${at % 8}` }, name)));
  const grid = make("table", { className: "numbers" }, make("caption", {}, "Settings that differ, and results on the test set"),
    make("thead", {}, head), make("tbody", {}, ...differ.map(key => line(key, "settings")), ...union("results").map(key => line(key, "results"))));
  return make("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: "Comparison" }, grid);
}

// Curves on the test set, with one panel per metric and one colour per run, as in a report.
const SVG = "http://www.w3.org/2000/svg";
function svgElement(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.textContent = text;
  return element;
}
function ticks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(Number(tick.toPrecision(12)));
  return found;
}
function curvesOfChosen() {
  const series = Object.create(null), names = Object.create(null); // a metric may be called __proto__
  for (const name of chosen) {
    for (const [term, points] of Object.entries(data[name].curves)) {
      (series[term] ||= {})[name] = points;
      names[term] = data[name].names[term];
    }
  }
  if (!Object.keys(series).length) return [];
  const box = make("div", { className: "curves" }, make("div", { className: "panels" }, ...Object.keys(series).map((term, number) => panel(number, term, series[term], names[term]))));
  box.data = { series, names };
  return [make("h3", {}, "Curves on the test set"), box];
}
function panel(number, term, curves, words) {
  const left = 62, right = 374, top = 10, bottom = 206;
  const points = Object.values(curves).flat(), last = Math.max(1, ...points.map(point => point[0]));
  // The range ignores the first 3 % of the steps, whose values are far off.
  const late = Object.values(curves).flatMap(curve => curve.filter(point => point[0] >= 0.03 * curve.at(-1)[0]).map(point => point[1]));
  const margin = 0.06 * (Math.max(...late) - Math.min(...late)) || 0.1;
  const low = Math.min(...late) - margin, high = Math.max(...late) + margin;
  const x = step => left + (right - left) * step / last, y = value => bottom - (bottom - top) * (value - low) / (high - low);
  const svg = svgElement("svg", { viewBox: "0 0 400 250", role: "img", "aria-label": `${words} of the selected runs over training` });
  for (const tick of ticks(0, last, 4)) {
    svg.append(svgElement("path", { class: "grid", d: `M${x(tick)} ${top}V${bottom}` }),
      svgElement("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, spaced(tick)));
  }
  for (const tick of ticks(low, high, 5)) {
    svg.append(svgElement("path", { class: "grid", d: `M${left} ${y(tick)}H${right}` }),
      svgElement("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  svg.append(svgElement("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }),
    svgElement("text", { x: (left + right) / 2, y: 242, "text-anchor": "middle" }, "step"));
  const clip = svgElement("clipPath", { id: `clip-${number}` });
  clip.append(svgElement("rect", { x: left, y: top, width: right - left, height: bottom - top }));
  const inside = svgElement("g", { "clip-path": `url(#clip-${number})` });
  svg.append(clip, inside);
  const legend = make("ul", { className: "legend" });
  chosen.forEach((name, at) => {
    if (!curves[name]) return;
    inside.append(svgElement("path", { class: `line s${at % 8}`, d: "M" + curves[name].map(point => `${x(point[0])} ${y(point[1])}`).join("L") }));
    const item = make("li", { className: `s${at % 8}` }, `${name} `, make("output"));
    item.dataset.series = name;
    legend.append(item);
  });
  const figure = make("figure", { className: "panel" }, make("figcaption", {}, words), legend, svg);
  Object.assign(figure.dataset, { term, last, low, high, left, right, top, bottom });
  return figure;
}

function figuresOfChosen() {
  const kinds = [...new Set(chosen.flatMap(name => Object.keys(data[name].figures)))];
  return kinds.map(kind => make("div", { className: "row" }, ...chosen.filter(name => kind in data[name].figures).map(name =>
    make("figure", {}, make("img", { src: data[name].figures[kind], alt: `${kind} of ${name}` }), make("figcaption", {}, `${name}: ${kind}`)))));
}

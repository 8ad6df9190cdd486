// Shows the values of curves at a step, chosen with a slider or by pointing at a panel.
// All panels of a box show the same step.
"use strict";

const spaced = step => String(step).replace(/\B(?=(\d{3})+$)/g, "\u202f");

function readable(box, data) {
  const SVG = "http://www.w3.org/2000/svg";
  const panels = [...box.querySelectorAll(".panel")];
  const steps = [...new Set(Object.values(data.series).flatMap(of => Object.values(of).flat().map(point => point[0])))];
  steps.sort((a, b) => a - b);
  if (!steps.length) return;

  const reader = document.createElement("div");
  reader.className = "reader";
  reader.innerHTML = '<label>step <output></output></label><input type="range" min="0" aria-label="step of the values">';
  const [shown, slider] = [reader.querySelector("output"), reader.querySelector("input")];
  slider.max = steps.length - 1;
  slider.value = slider.max;
  reader.firstChild.htmlFor = slider.id = `step-${readable.boxes = (readable.boxes || 0) + 1}`;
  box.prepend(reader);

  const number = value => String(Number(value.toPrecision(5)));

  // The last measurement at or before a step: not every split is measured at every step.
  const before = (curve, step) => curve.findLast(point => point[0] <= step);

  const parts = panels.map(panel => {
    const svg = panel.querySelector("svg"), at = panel.dataset;
    const [left, right, top, bottom] = [at.left, at.right, at.top, at.bottom].map(Number);
    const [low, high, last] = [at.low, at.high, at.last].map(Number);
    const cross = svg.appendChild(document.createElementNS(SVG, "path"));
    cross.setAttribute("class", "cross");
    const legend = [...panel.querySelectorAll(".legend li")].map(item => {
      const dot = svg.appendChild(document.createElementNS(SVG, "circle"));
      dot.setAttribute("class", `at ${item.className}`);
      dot.setAttribute("r", 4.5);
      return { name: item.dataset.series, words: item.firstChild.textContent.trim(), value: item.querySelector("output"), dot };
    });
    const x = step => left + (right - left) * step / Math.max(last, 1);
    const y = value => bottom - (bottom - top) * (value - low) / (high - low);
    const point = event => {
      const frame = svg.getBoundingClientRect();
      const across = (event.clientX - frame.left) / frame.width * svg.viewBox.baseVal.width;
      const step = (across - left) / (right - left) * last;
      const distances = steps.map(other => Math.abs(other - step));
      slider.value = distances.indexOf(Math.min(...distances));
      show();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    return { panel, cross, legend, x, y, top, bottom, curves: data.series[at.term], name: data.names[at.term] };
  });

  function show() {
    const step = steps[slider.value];
    const texts = [`step ${step}`];
    for (const part of parts) {
      part.cross.setAttribute("d", `M${part.x(step)} ${part.top}V${part.bottom}`);
      for (const { name, words, value, dot } of part.legend) {
        const found = before(part.curves[name], step);
        value.textContent = found ? number(found[1]) + (found[0] < step ? ` at ${spaced(found[0])}` : "") : "-";
        const y = found ? part.y(found[1]) : -1;
        const seen = found && found[0] === step && y >= part.top && y <= part.bottom;
        dot.style.display = seen ? "" : "none";
        if (seen) [["cx", part.x(step)], ["cy", y]].forEach(([key, at]) => dot.setAttribute(key, at));
        if (found) texts.push(`${part.name}, ${words}: ${value.textContent}`);
      }
    }
    shown.textContent = spaced(step);
    slider.setAttribute("aria-valuetext", texts.join("; "));
  }
  slider.addEventListener("input", show);
  show();
}

for (const box of document.querySelectorAll(".curves")) {
  const data = box.querySelector("script");
  if (data) readable(box, JSON.parse(data.textContent));
}

// The latent explorer: runs the decoder in the page, with the weights that inference/html/explorer.py packs.
"use strict";
(() => {
  const root = document.getElementById("explorer");
  const find = (name) => root.querySelector("." + name);
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  // Petroff 2021, Accessible Color Sequences for Data Visualization (arXiv 2107.02270), with a lighter red and
  // violet for dark backgrounds.
  const COLOURS = [
    "#3f90da", "#ffa90e", "#d62f12", "#94a4a2", "#9a4fd0", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
  ];
  const STOPS = 9; // images from A to B

  // ---- codes and their decoding ----

  const state = { z: null, y: 0, a: null, b: null, only: null };
  const decoder = explorerDecoder(data.layers);

  // Returns levels from 0 to 1, pixel by pixel with interleaved channels; for points, the mean and the scales.
  function decode(z, y = state.y) {
    const label = Array.from({ length: data.classes }, (_, k) => Number(k === y));
    const out = Float32Array.from(decoder(Float32Array.of(...z, ...label)));
    if (!data.points) return out;
    const scale = Math.exp(out[2]);
    return Float32Array.of(out[0], out[1], scale, out.length > 3 ? Math.exp(out[3]) : scale);
  }

  const d = data.mean.length, codes = explorerUnpack(data.z), n = codes.length / d;
  const code = (i) => Float64Array.from(codes.subarray(i * d, (i + 1) * d));
  const coordinate = (z, k) => data.directions[k].reduce((sum, v, j) => sum + v * (z[j] - data.mean[j]), 0);
  const inPlane = (z) => [coordinate(z, 0), coordinate(z, 1)];
  const plane = Array.from({ length: n }, (_, i) => inPlane(code(i)));

  function moved(z, k, value) {
    const by = value - coordinate(z, k);
    return z.map((v, j) => v + by * data.directions[k][j]);
  }

  function interpolate(t) {
    return state.a.map((v, j) => (1 - t) * v + t * state.b[j]);
  }

  function nearest(z) {
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (data.y && data.y[i] !== state.y) continue;
      let distance = 0;
      for (let j = 0; j < d; j++) distance += (z[j] - codes[i * d + j]) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  function start() {
    const other = data.labels ? data.labels.findIndex((label) => label !== data.labels[0]) : 1;
    find("progress").value = 0;
    return { z: code(0), a: code(0), b: code(Math.max(other, 1) % n), y: data.y ? data.y[0] : 0 };
  }

  // ---- the two planes ----

  const largest = (points, [x, y]) => Math.max(...points.map((p) => Math.max(Math.abs(p[0] - x), Math.abs(p[1] - y))));
  const faded = (i) => state.only !== null && data.labels[i] !== state.only;
  const order = data.points && data.points.map((_, i) => i).sort((i, j) => data.points[i][0] - data.points[j][0]);
  const rank = order && order.reduce((ranks, i, place) => ((ranks[i] = place / n), ranks), []);

  function colour(i) {
    if (data.labels) return COLOURS[data.labels[i] % COLOURS.length];
    return rank ? mix(rank[i]) : COLOURS[0];
  }

  // From blue to orange, for points without labels.
  const mix = (t) => `rgb(${[[63, 231], [144, 99], [218, 0]].map(([from, to]) => from + t * (to - from)).join()})`;
  const scatter = (on, points) => points.forEach((point, i) => on.speck(point, colour(i), faded(i) ? 0.06 : 0.75));

  const pad = explorerChart(find("pad"), [0, 0], Math.max(1.1 * largest(plane, [0, 0]), 2), (on) => {
    data.prior.forEach(on.cross);
    scatter(on, plane);
  });
  const middle = (k) => (Math.min(...data.points.map((p) => p[k])) + Math.max(...data.points.map((p) => p[k]))) / 2;
  const centre = data.points && [middle(0), middle(1)];
  const view =
    data.points && explorerChart(find("decoded"), centre, 1.15 * largest(data.points, centre), (on) => scatter(on, data.points));

  // ---- images ----

  const [channels, height, width] = data.points ? [0, 0, 0] : data.shape, sheet = new Image();
  const columns = Math.ceil(Math.sqrt(n));

  function sized(canvas, pixels) {
    [canvas.width, canvas.height] = [pixels, height];
    return canvas.getContext("2d", { willReadFrequently: true });
  }

  function draw(context, levels, left) {
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * levels[channels * i + (c % channels)]; // clamped by the canvas
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, left, 0);
  }

  const gap = Math.max(Math.round(width / 14), 1);
  const [shown, nearestContext, strip] = data.points
    ? []
    : [sized(find("decoded"), width), sized(find("nearest"), width), sized(find("strip"), STOPS * (width + gap) - gap)];

  // ---- a frame ----

  let asked = false, path = null, settled = 0;

  function change(what = {}) {
    if (["a", "b", "y"].some((name) => name in what && what[name] !== state[name])) path = null;
    Object.assign(state, what);
    if (!asked) requestAnimationFrame(frame);
    asked = true;
  }

  function frame() {
    asked = false;
    const near = nearest(state.z), stops = Array.from({ length: STOPS }, (_, i) => interpolate(i / (STOPS - 1)));
    pad.clear();
    pad.line([inPlane(state.a), inPlane(state.b)]);
    pad.letter(inPlane(state.a), "A");
    pad.letter(inPlane(state.b), "B");
    pad.ring(inPlane(state.z), 17);
    if (data.points) {
      path ||= Array.from({ length: 61 }, (_, i) => decode(interpolate(i / 60)));
      const [x, y, scaleX, scaleY] = decode(state.z);
      view.clear();
      view.line(path);
      view.letter(path[0], "A");
      view.letter(path[path.length - 1], "B");
      for (const scales of [1, 2]) view.ellipse([x, y], scales * scaleX, scales * scaleY);
      view.dot([x, y], 4, "#222");
    } else {
      draw(shown, decode(state.z), 0);
      const [left, top] = [(near % columns) * width, Math.floor(near / columns) * height];
      if (sheet.complete) nearestContext.drawImage(sheet, left, top, width, height, 0, 0, width, height);
      if (!path) stops.forEach((z, i) => draw(strip, decode(z), i * (width + gap)));
      path = true;
    }
    for (const { k, input, output } of sliders) {
      input.value = coordinate(state.z, k) / data.scales[k];
      output.value = (+input.value).toFixed(1);
    }
    for (const radio of find("classes").querySelectorAll("input")) radio.checked = +radio.value === state.y;
    clearTimeout(settled);
    settled = setTimeout(describe, 250, near);
  }

  function describe(near) {
    const [first, second] = inPlane(state.z).map((v) => (Math.round(100 * v) / 100 || 0).toFixed(2)), label = data.labels ? `; nearest test code: label ${data.labels[near]}` : "";
    find("position").textContent = `point ${first}, ${second}${label}`;
  }

  // ---- controls ----

  const on = (name, event, act) => find(name).addEventListener(event, act);
  const add = (parent, name, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    parent.append(made);
    return made;
  };
  const go = (x, y) => {
    const clamped = [x, y].map((v) => Math.min(Math.max(v, -pad.reach), pad.reach));
    change({ z: moved(moved(state.z, 0, clamped[0]), 1, clamped[1]) });
  };

  const canvas = find("pad");
  const follow = (event) => go(...pad.back(event.offsetX, event.offsetY));
  on("pad", "pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    follow(event);
  });
  on("pad", "pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && follow(event));
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  on("pad", "keydown", (event) => {
    if (!arrows[event.key]) return;
    event.preventDefault(); // do not scroll the page
    const step = pad.reach / (event.shiftKey ? 8 : 40), [x, y] = inPlane(state.z);
    go(x + step * arrows[event.key][0], y + step * arrows[event.key][1]);
  });

  const sliders = [];
  for (let k = 2; k < data.scales.length; k++) {
    if (data.fractions[k] < 5e-4) continue; // z does not vary in this direction
    const input = Object.assign(document.createElement("input"), { type: "range", min: -4, max: 4, step: 0.05 });
    const output = document.createElement("output");
    add(find("sliders"), "label", {}, `${k + 1} (${percent(data.fractions[k])})`, input, output);
    input.setAttribute("aria-label", `principal direction ${k + 1}, in standard deviations`);
    input.addEventListener("input", () => change({ z: moved(state.z, k, input.value * data.scales[k]) }));
    sliders.push({ k, input, output });
  }
  for (let y = 0; y < data.classes; y++) {
    const label = add(find("classes"), "label");
    add(label, "input", { type: "radio", name: "explorer-class", value: y }).addEventListener("change", () => change({ y }));
    add(label, "span", { textContent: y });
  }

  const to = (i) => change({ z: code(i), ...(data.y ? { y: data.y[i] } : {}) });
  on("random", "click", () => to(Math.floor(Math.random() * n)));
  on("reset", "click", () => change(start()));
  for (const [name, end] of [["a", 0], ["b", 100]])
    on(`set-${name}`, "click", () => {
      find("progress").value = end;
      change({ [name]: state.z });
    });
  on("progress", "input", () => change({ z: interpolate(find("progress").value / 100) }));

  // Moves from A to B and back in six seconds, until the user stops it or does something else.
  let playing = null;
  on("play", "click", () => (playing ? stop() : (playing = requestAnimationFrame(play))));
  function play(now, begin = now) {
    const phase = ((now - begin) / 3000) % 2, t = phase < 1 ? phase : 2 - phase;
    find("progress").value = 100 * t;
    find("play").textContent = "stop";
    change({ z: interpolate(t) });
    playing = requestAnimationFrame((later) => play(later, begin));
  }
  function stop() {
    cancelAnimationFrame(playing);
    playing = null;
    find("play").textContent = "play";
  }
  for (const event of ["pointerdown", "keydown"])
    root.addEventListener(event, (e) => playing && e.target !== find("play") && stop());

  // ---- texts and start ----

  function percent(fraction) {
    return `${(100 * fraction).toFixed(fraction < 0.0995 ? 1 : 0)}\u00a0%`;
  }

  const what = data.points ? "points" : "images", both = data.fractions[0] + data.fractions[1];
  find("note").textContent =
    `Codes (guide means) of ${n} test ${what}, projected onto their first two principal directions ` +
    `(${percent(both)} of the variance). Grey crosses are samples of p(z). Drag the point, or move it with the ` +
    `arrow keys.` + (data.classes ? " All points are decoded with the selected class." : "");
  if (data.labels)
    for (const label of [...new Set(data.labels)].sort((i, j) => i - j)) {
      const button = add(find("legend"), "button", { type: "button", title: `show only label ${label}` });
      add(button, "i", {}).style.background = COLOURS[label % COLOURS.length];
      button.append(label);
      button.setAttribute("aria-pressed", false);
      button.addEventListener("click", () => {
        state.only = state.only === label ? null : label;
        for (const other of find("legend").children) other.setAttribute("aria-pressed", state.only !== null && other === button);
        fit();
      });
    }
  else if (data.points) find("legend").textContent = "coloured by x 1: blue on the left, orange on the right";
  if (data.points) {
    for (const name of ["nearest-figure", "strip"]) find(name).remove();
    find("decoded").classList.add("points");
    find("random").textContent = "random test point";
    find("decoded-caption").textContent = "test points; the ellipses are one and two scales of p(x | z) around its mean";
  }
  find("classes").hidden = !data.classes;
  find("sliders").hidden = !sliders.length;

  function fit() {
    pad.fit();
    if (view) view.fit();
    change();
  }

  sheet.onload = () => change();
  if (data.images) sheet.src = data.images;
  find("stage").hidden = false;
  Object.assign(state, start());
  new ResizeObserver(fit).observe(canvas);
  // For tests and the console.
  root.decode = decode;
  root.show = (z, y = state.y) => change({ z: Float64Array.from(z), y });
  Object.defineProperties(root, {
    z: { get: () => Array.from(state.z) },
    y: { get: () => state.y },
    anchors: { get: () => [Array.from(state.a), Array.from(state.b)] },
  });
})();

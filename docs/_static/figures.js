// Interactive figures of the derivations: <div class="interactive" data-figure="NAME"></div> shows figures[NAME].
// Without JavaScript, and on a code host, the element is empty.
"use strict";
(() => {
  // ---- building blocks ----

  const SVG = "http://www.w3.org/2000/svg";

  // Appends an element with attributes and text to a parent and returns it.
  function add(parent, name, attributes = {}, text = "") {
    const inSvg = name === "svg" || parent.namespaceURI === SVG;
    const element = inSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return parent.appendChild(element);
  }

  // A slider over the values of a list; returns a function that gives the chosen value.
  function slider(controls, name, label, values, start, redraw) {
    const line = add(controls, "label");
    add(line, "span", {}, label);
    const range = { type: "range", name, min: 0, max: values.length - 1, value: values.indexOf(start) };
    const input = add(line, "input", range), output = add(line, "output");
    const show = () => {
      output.textContent = String(values[input.value]);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => { show(); redraw(); });
    show();
    return () => values[input.value];
  }

  // A group of radio buttons; returns a function that gives the chosen value, or chooses one.
  function choice(controls, name, legend, options, start, redraw) {
    const set = add(controls, "fieldset"), group = `${name}-${document.querySelectorAll("fieldset").length}`;
    add(set, "legend", {}, legend);
    const inputs = Object.entries(options).map(([value, words]) => {
      const label = add(set, "label"), input = add(label, "input", { type: "radio", name: group, value });
      label.append(" ", words);
      input.addEventListener("change", redraw);
      return input;
    });
    const choose = (value) => { inputs.find((input) => input.value === value).checked = true; };
    choose(start);
    return (value) => (value ? choose(value) : inputs.find((input) => input.checked).value);
  }

  const steps = (low, high, step) =>
    Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => Number((low + i * step).toFixed(6)));
  const powers = (low, high) => steps(low, high, 0.25).map((v) => Number((2 ** v).toPrecision(3)));
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // A number with a name, by which tests find it. Large ones have fewer digits: the quadrature of `gap` is less exact there.
  const value = (name, number, digits = Math.abs(number) < 10 ? 3 : 2) =>
    `<output data-value="${name}">${number.toFixed(digits).replace(/^-(0\.?0*)$/, "$1")}</output>`;

  // ---- the bounds of a model with one latent: derivations 4 and 6 ----

  // p(z) = N(0, 1) and p(x | z) = N(m(z), s^2) at one x. `moments` are the means of m(z) and m(z)^2 under N(mu, sd^2).
  const MODELS = {
    linear: { x: 1.5, s: 0.6, m: (z) => z, moments: (mu, v) => [mu, mu ** 2 + v] },
    square: {
      x: 1.5, s: 0.6, m: (z) => z * z,
      moments: (mu, v) => [mu ** 2 + v, mu ** 4 + 6 * mu ** 2 * v + 3 * v ** 2],
    },
    exponential: {
      x: 1, s: 0.4, m: (z) => Math.exp(z / 2),
      moments: (mu, v) => [Math.exp(mu / 2 + v / 8), Math.exp(mu + v / 2)],
    },
  };
  const STEP = 0.01, GRID = steps(-12, 12, STEP); // of the quadrature over z

  const logNormal = (x, loc, scale) =>
    -0.5 * ((x - loc) / scale) ** 2 - Math.log(scale) - 0.5 * Math.log(2 * Math.PI);
  const logJoint = ({ x, s, m }, z) => logNormal(z, 0, 1) + logNormal(x, m(z), s);
  const logLikelihood = (model) => Math.log(STEP * sum(GRID.map((z) => Math.exp(logJoint(model, z)))));

  function elbo({ x, s, moments }, mu, sd) {
    const [first, second] = moments(mu, sd ** 2);
    const prior = -0.5 * (mu ** 2 + sd ** 2 + Math.log(2 * Math.PI));
    const likelihood = logNormal(0, 0, s) - (x ** 2 - 2 * x * first + second) / (2 * s ** 2);
    return prior + likelihood + Math.log(sd) + 0.5 * Math.log(2 * Math.PI * Math.E);
  }

  // log p(x) - L_K. For r = w / p(x) and the mean R of K values of r,
  //     E log R = integral over t > 0 of (e^-t - E e^(-t R)) / t,    E e^(-t R) = (E e^(-t r / K))^K.
  // The expectation is a sum over the grid. The outer integral is a sum over v with t = exp(sinh(v)).
  function gap(model, mu, sd, K) {
    const logP = logLikelihood(model), logR = [], q = [];
    for (const z of GRID) {
      const density = logNormal(z, mu, sd);
      if (density < -50) continue;
      logR.push(logJoint(model, z) - density - logP);
      q.push(STEP * Math.exp(density));
    }
    const low = -Math.asinh(40), width = (Math.asinh(1e5) - low) / 400;
    let total = 0;
    for (let i = 0; i <= 400; i++) {
      const v = low + i * width, logT = Math.sinh(v);
      let below = 0; // 1 - E e^(-t r / K)
      for (let j = 0; j < q.length; j++) below -= q[j] * Math.expm1(-Math.exp(logT + logR[j] - Math.log(K)));
      total += (Math.exp(-Math.exp(logT)) - Math.exp(K * Math.log1p(-Math.min(below, 1)))) * Math.cosh(v) * width;
    }
    return -total;
  }

  function drawElbo(box, width, redraw) {
    const model = choice(box.controls, "mean", "p(x | z) has the mean",
      { linear: "z: normal posterior", square: "z²: two modes", exponential: "exp(z / 2): skewed" }, "square", redraw);
    const mu = slider(box.controls, "mu", "mean of the guide", steps(-2, 2, 0.05), 0.5, redraw);
    const sd = slider(box.controls, "sd", "standard deviation", steps(0.2, 1.2, 0.02), 0.6, redraw);
    const samples = slider(box.controls, "K", "samples K", [1, 2, 5, 10, 20, 50, 100], 10, redraw);
    box.note("Green: posterior. Orange: guide. Dashed: prior N(0, 1). A bar ends at the bound, its outline at log p(x). "
      + "The ELBO is in closed form; log p(x) and the IWAE bound, the mean over all sets of K samples, are by quadrature.");
    return () => {
      const of = MODELS[model()], K = samples(), logP = logLikelihood(of), height = 220, W = width();
      const svg = box.picture(height, "densities of the posterior, the guide and the prior");
      const z = steps(-4, 4, 0.02);
      const curves = {
        prior: z.map((at) => Math.exp(logNormal(at, 0, 1))),
        first: z.map((at) => Math.exp(logJoint(of, at) - logP)),
        second: z.map((at) => Math.exp(logNormal(at, mu(), sd()))),
      };
      const top = Math.max(...Object.values(curves).flat()), base = height - 22;
      for (const [name, curve] of Object.entries(curves)) {
        const at = curve.map((y, i) => `${(W * i) / (z.length - 1)} ${base - (y / top) * (base - 8)}`);
        add(svg, "path", { class: `line ${name}`, d: `M${at.join("L")}` });
      }
      add(svg, "path", { class: "axis", d: `M0 ${base}H${W}` });
      for (let at = -3; at <= 3; at++) add(svg, "text", { x: (W * (at + 4)) / 8, y: height - 6 }, at);
      add(svg, "text", { x: W - 6, y: height - 6 }, "z");
      const closed = elbo(of, mu(), sd());
      const rows = [["log p(x)", "logp", 0], [`IWAE, K = ${K}`, "iwae", K === 1 ? logP - closed : gap(of, mu(), sd(), K)],
        ["ELBO", "elbo", logP - closed]];
      box.values(`<table><tr><td></td><th scope="col">nats</th><th scope="col">gap</th></tr>${rows.map(([words, name, lost]) =>
        `<tr><th scope="row">${words}</th><td>${value(name, logP - lost)}</td><td>${value(`${name}-gap`, lost)}</td>
        <td class="bar"><i style="width: ${Math.max(0, 100 - 25 * lost)}%"></i></td></tr>`).join("")}</table>
        <p>The bars cover the 4 nats below log p(x). The gap of the ELBO is KL(q ‖ posterior).</p>`);
    };
  }

  // ---- collapse in a linear model: derivations 10, 18 and 21 ----

  const VARIANCES = [8, 4, 2, 1, 0.5, 0.25]; // of the data along six directions

  function drawCollapse(box, width, redraw) {
    const beta = slider(box.controls, "beta", "KL weight β", powers(-2, 4), 1, redraw);
    const noise = slider(box.controls, "noise", "noise σ²", powers(-2, 3), 1, redraw);
    box.note("A bar is the variance λ of the data along a direction, on a logarithmic scale. The number below it is λ, the "
      + "number above it the KL term of the direction in nats. The dashed line is βσ². What lies above the line is explained by z; "
      + "its height on this scale is twice the KL term. A direction with λ ≤ βσ² collapses, so only the product of β and σ² decides which do. "
      + "The weight of beta_vae sets σ² = βD/2, at a KL weight of 1.");
    return () => {
      const level = beta() * noise(), height = 260, base = height - 24, W = width();
      const svg = box.picture(height, "variance of six directions, and the level of beta times sigma squared");
      const y = (v) => Math.min(base, Math.max(22, base - ((base - 34) * Math.log2(16 * v)) / 7));
      const kl = VARIANCES.map((v) => Math.max(0, 0.5 * Math.log(v / level)));
      const error = VARIANCES.map((v) => Math.min(v, level));
      VARIANCES.forEach((v, i) => {
        const step = (W - 10) / 6, x = 10 + i * step, middle = x + 0.4 * step, bar = { x, width: 0.8 * step };
        add(svg, "rect", { ...bar, y: y(error[i]), height: base - y(error[i]), class: "error" });
        add(svg, "rect", { ...bar, y: y(v), height: Math.max(0, y(error[i]) - y(v)), class: "explained" });
        add(svg, "text", { x: middle, y: height - 7 }, v);
        add(svg, "text", { x: middle, y: y(v) - 6, "data-value": `kl-${i + 1}` }, kl[i].toFixed(3));
      });
      add(svg, "path", { class: "level", d: `M0 ${y(level)}H${W}` });
      const reconstruction = sum(error.map((e) => e / (2 * noise()) + 0.5 * Math.log(2 * Math.PI * noise())));
      const best = sum(VARIANCES.map((v) => Math.max(v, noise())).map((c, i) =>
        0.5 * (Math.log(2 * Math.PI * c) + VARIANCES[i] / c)));
      const active = kl.filter((v) => v > 0).length, bound = reconstruction + sum(kl);
      box.values(`<table>
        <tr><th scope="row">collapsed directions</th><td>${value("collapsed", 6 - active, 0)} of 6</td></tr>
        <tr><th scope="row">squared error</th><td>${value("error", sum(error))}</td></tr>
        <tr><th scope="row">reconstruction term</th><td>${value("reconstruction", reconstruction)} nats</td></tr>
        <tr><th scope="row">KL term, all directions</th><td>${value("kl", sum(kl))} nats</td></tr>
        <tr><th scope="row">−ELBO, their sum</th><td>${value("bound", bound)} nats</td></tr>
        <tr><th scope="row">more than at β = 1</th><td>${value("excess", bound - best)} nats</td></tr></table>
        <p>Means over the data, at the minimum of reconstruction + β KL. At β = 1 the −ELBO is −log p(x) of the best model with this σ².</p>`);
    };
  }

  // ---- the masks of a MADE: derivation 1 ----

  // Which units of the last layer are connected to which units of the first, as lists of booleans.
  const connected = (masks) => masks.reduce((reached, mask) =>
    mask.map((row) => reached[0].map((_, i) => row.some((on, j) => on && reached[j][i]))),
  masks[0][0].map((_, i) => masks[0][0].map((_, j) => i === j)));

  function drawMade(box, width, redraw) {
    const n = 5, hidden = 6;
    let seed = 6, degrees, output = 3;
    const random = (below) => Math.floor((((seed = (seed * 48271) % 2147483647) - 1) / 2147483646) * below);
    function sample() {
      const order = Array.from({ length: n }, (_, i) => i + 1);
      if (ordering() === "random") for (let i = n - 1; i > 0; i--) {
        const j = random(i + 1);
        [order[i], order[j]] = [order[j], order[i]];
      }
      const between = Array.from({ length: Number(layers()) }, () =>
        Array.from({ length: hidden }, () => 1 + random(n - 1)).sort());
      degrees = [order, ...between, order];
      redraw();
    }
    const ordering = choice(box.controls, "order", "order", { natural: "natural", random: "random" }, "natural", sample);
    const layers = choice(box.controls, "layers", "hidden layers", { 1: "1", 2: "2", 3: "3" }, "2", sample);
    const names = Object.fromEntries(steps(1, n, 1).map((i) => [i, `x${i}`]));
    const chosen = choice(box.controls, "output", "output", names, "4", redraw);
    add(box.controls, "button", { type: "button" }, "Sample new numbers").addEventListener("click", sample);
    box.note("Point at an output, or select it above. A connection is kept if the number does not decrease, "
      + "and into an output if it increases. Orange: the inputs that the output sees, and the paths from them.");
    sample();
    return () => {
      output = Number(chosen());
      const height = 290, W = width(), last = degrees.length - 1;
      const masks = degrees.slice(1).map((to, l) =>
        to.map((b) => degrees[l].map((a) => (l + 1 === last ? b > a : b >= a))));
      const sees = connected(masks)[output - 1];
      const path = masks.map((mask, l) => { // the units of layer l + 1 that the output depends on
        const after = l + 1 === last ? null : connected(masks.slice(l + 1))[output - 1];
        return mask.map((_, j) => (after ? after[j] : j === output - 1));
      });
      const before = masks.map((_, l) => (l ? connected(masks.slice(0, l)) : null)); // the inputs of a unit
      const svg = box.picture(height, "the network, with the connections that its masks keep");
      const x = (l) => 34 + (l * (W - 68)) / last;
      const y = (l, i) => height / 2 + (i - (degrees[l].length - 1) / 2) * 46;
      for (const kind of ["edge", "edge on"]) masks.forEach((mask, l) => mask.forEach((row, j) => row.forEach((kept, i) => {
        const on = path[l][j] && (l ? before[l][i].some(Boolean) : true);
        if (kept && on === (kind === "edge on"))
          add(svg, "path", { class: kind, d: `M${x(l)} ${y(l, i)}L${x(l + 1)} ${y(l + 1, j)}` });
      })));
      degrees.forEach((layer, l) => layer.forEach((degree, i) => {
        const on = (l === 0 && sees[i]) || (l === last && i === output - 1);
        const unit = add(svg, "g", { class: on ? "unit on" : "unit", "data-layer": l });
        add(unit, "circle", { cx: x(l), cy: y(l, i), r: 14 });
        add(unit, "text", { x: x(l), y: y(l, i) + 5 }, degree);
        if (l === 0 || l === last) add(unit, "text", { x: x(l) + (l ? 25 : -25), y: y(l, i) + 5 }, `x${i + 1}`);
        if (l === last) for (const event of ["pointerover", "click"]) unit.addEventListener(event, () => {
          if (output === i + 1) return;
          chosen(String(i + 1));
          redraw();
        });
      }));
      const inputs = sees.flatMap((on, i) => (on ? [`x${i + 1}`] : [])), below = degrees[0][output - 1] - 1;
      const given = inputs.length ? ` | ${inputs.join(", ")}` : "";
      box.values(`<p>Output x${output} gives <output data-value="conditional">p(x${output}${given})</output>. It sees
        ${inputs.length} of the ${below} inputs before it.</p>`);
    };
  }

  // ---- the boxes ----

  function show(root, draw) {
    const controls = add(root, "div", { class: "controls" }), picture = add(root, "div");
    const values = add(root, "div", { class: "values", "aria-live": "polite" });
    let update = null;
    const width = () => picture.clientWidth;
    const redraw = () => update && width() && update(); // a hidden figure has no width; it is drawn when it appears
    update = draw({
      controls,
      picture(height, label) {
        picture.replaceChildren();
        return add(picture, "svg", { width: width(), height, role: "img", "aria-label": label });
      },
      values(html) { values.innerHTML = html; },
      note(text) { add(root, "p", { class: "note" }, text); },
    }, width, redraw);
    new ResizeObserver(redraw).observe(root);
  }

  const figures = { elbo: drawElbo, collapse: drawCollapse, made: drawMade };
  document.addEventListener("DOMContentLoaded", () => {
    for (const root of document.querySelectorAll(".interactive")) show(root, figures[root.dataset.figure]);
  });
})();

// A square part of a plane on a canvas, at the resolution of the screen; `reach` is half its side.
// `background` draws the static part once; each frame is drawn over a copy of it.
"use strict";
function explorerChart(canvas, centre, reach, background) {
  const context = canvas.getContext("2d"), kept = document.createElement("canvas");
  let side = 0, size = 12; // of the square and of its text, in CSS pixels
  const at = ([x, y]) => [((x - centre[0]) / reach / 2 + 0.5) * side, (0.5 - (y - centre[1]) / reach / 2) * side];
  const self = {
    at,
    centre,
    reach,
    back: (x, y) => [(x / side - 0.5) * 2 * reach + centre[0], (0.5 - y / side) * 2 * reach + centre[1]],
    fit() {
      const ratio = window.devicePixelRatio || 1;
      side = canvas.clientWidth;
      if (!side) return; // not laid out yet
      size = Math.round(0.75 * parseFloat(getComputedStyle(canvas).fontSize));
      canvas.width = canvas.height = Math.round(side * ratio);
      context.scale(ratio, ratio);
      grid();
      background(self);
      [kept.width, kept.height] = [canvas.width, canvas.height];
      kept.getContext("2d").drawImage(canvas, 0, 0);
    },
    clear() {
      context.clearRect(0, 0, side, side);
      if (side) context.drawImage(kept, 0, 0, side, side);
    },
    // Lines, rings and letters are dark with a light edge, so that they are visible on any background.
    line(points) {
      for (const [colour, width] of [["#fff", 5], ["#222", 2]]) stroke(points.map(at), colour, width);
    },
    ellipse(point, radiusX, radiusY) {
      const pixels = side / reach / 2;
      for (const [colour, width] of [["#fff", 5], ["#222", 2.5]]) {
        context.beginPath();
        context.ellipse(...at(point), radiusX * pixels, radiusY * pixels, 0, 0, 2 * Math.PI);
        Object.assign(context, { strokeStyle: colour, lineWidth: width }).stroke();
      }
    },
    ring: (point, radius) => self.ellipse(point, (2 * radius * reach) / side, (2 * radius * reach) / side),
    // A dot whose size depends on that of the square.
    speck: (point, colour, alpha) => self.dot(point, 2 + side / 600, colour, alpha),
    dot(point, radius, colour, alpha = 1) {
      context.beginPath();
      context.arc(...at(point), radius, 0, 2 * Math.PI);
      Object.assign(context, { fillStyle: colour, globalAlpha: alpha }).fill();
      context.globalAlpha = 1;
    },
    cross([x, y]) {
      const arm = (6 * reach) / side;
      for (const ends of [[[x - arm, y], [x + arm, y]], [[x, y - arm], [x, y + arm]]])
        stroke(ends.map(at), "#888", 1);
    },
    letter(point, text) {
      self.dot(point, 12, "#fff");
      self.dot(point, 10.5, "#222");
      write(text, ...at(point), "bold 14px", "#fff", "center", "middle");
    },
  };
  function stroke(pixels, strokeStyle, lineWidth) {
    context.beginPath();
    pixels.forEach(([x, y]) => context.lineTo(x, y));
    Object.assign(context, { strokeStyle, lineWidth, lineJoin: "round" }).stroke();
  }
  function write(text, x, y, size, fillStyle, textAlign, textBaseline) {
    Object.assign(context, { font: `${size} system-ui, sans-serif`, fillStyle, textAlign, textBaseline });
    context.fillText(text, x, y);
  }
  function grid() {
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((size) => reach / size <= 4) || reach;
    for (const axis of [0, 1])
      for (let i = Math.ceil((centre[axis] - reach) / step); i * step < centre[axis] + reach; i++) {
        const [x, y] = at(axis ? [centre[0], i * step] : [i * step, centre[1]]), text = String(+(i * step).toFixed(1));
        stroke(axis ? [[0, y], [side, y]] : [[x, 0], [x, side]], `rgba(136,136,136,${i ? 0.25 : 0.6})`, 1);
        if (axis && y > 10 && y < side - 24) write(text, 4, y - 2, `${size}px`, "#888", "left", "bottom");
        if (!axis && x > 24 && x < side - 14) write(text, x + 3, side - 3, `${size}px`, "#888", "left", "bottom");
      }
  }
  return self;
}

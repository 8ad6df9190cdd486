// Runs a decoder in the page, from layers that inference/html/export_layers.py exports and explorer.py packs.
"use strict";
function explorerBytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Unpacks integers of `bits` bits, with a scale for each row.
function explorerUnpack({ shape, bits, scales, levels }) {
  const scale = new Float32Array(explorerBytes(scales).buffer), packed = explorerBytes(levels);
  const row = shape[shape.length - 1], out = new Float32Array(scale.length * row), most = 2 ** (bits - 1) - 1;
  const mask = 2 ** bits - 1;
  let held = 0, have = 0, at = 0;
  for (let i = 0, r = 0; r < scale.length; r++)
    for (const end = i + row; i < end; i++) {
      for (; have < bits; have += 8) held = (held << 8) | packed[at++]; // the bits that are shifted out have been read
      have -= bits;
      out[i] = (((held >> have) & mask) - most) * scale[r];
    }
  return out;
}

// Returns a function from the decoder's input to its output, in an array that the next call overwrites.
function explorerDecoder(layers) {
  // Triples of input pixel, output pixel and tap, for each connection.
  function routes({ size_in, size_out, kernel, stride, padding, transposed }) {
    const found = [], near = transposed ? size_in : size_out, far = transposed ? size_out : size_in;
    for (let tap = 0; tap < kernel[0] * kernel[1]; tap++)
      for (let row = 0; row < near[0]; row++)
        for (let column = 0; column < near[1]; column++) {
          const down = stride[0] * row + Math.floor(tap / kernel[1]) - padding[0];
          const across = stride[1] * column + (tap % kernel[1]) - padding[1];
          if (down < 0 || down >= far[0] || across < 0 || across >= far[1]) continue;
          const here = row * near[1] + column, there = down * far[1] + across;
          found.push(...(transposed ? [here, there] : [there, here]), tap);
        }
    return Int32Array.from(found);
  }

  const activations = {
    "": (x) => x,
    leaky: (x, slope) => (x > 0 ? x : slope * x),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  };
  const prepared = layers.map((layer) => ({
    weight: explorerUnpack(layer.weight),
    bias: explorerUnpack(layer.bias),
    into: layer.weight.shape[1],
    routes: routes(layer),
    activation: activations[layer.activation],
    slope: layer.slope,
    out: new Float32Array(layer.size_out[0] * layer.size_out[1] * layer.weight.shape[2]),
  }));

  function run(layer, x) {
    const { weight, bias, into, routes, activation, slope, out } = layer, width = bias.length;
    const rows = new Int32Array(into), values = new Float64Array(into);
    for (let i = 0; i < out.length; i += width) out.set(bias, i);
    for (let r = 0; r < routes.length; r += 3) {
      const from = routes[r] * into, to = routes[r + 1] * width, tap = routes[r + 2] * into * width;
      let n = 0, k = 0;
      for (let i = 0; i < into; i++) // zeros are frequent after a ReLU
        if (x[from + i] !== 0) {
          rows[n] = tap + i * width;
          values[n++] = x[from + i];
        }
      for (; k + 3 < n; k += 4) { // four at a time, because reading and writing `out` is slow
        const a = values[k], b = values[k + 1], c = values[k + 2], d = values[k + 3];
        const first = rows[k], second = rows[k + 1], third = rows[k + 2], fourth = rows[k + 3];
        for (let o = 0; o < width; o++)
          out[to + o] += a * weight[first + o] + b * weight[second + o] + c * weight[third + o] + d * weight[fourth + o];
      }
      for (; k < n; k++)
        for (let o = 0; o < width; o++) out[to + o] += values[k] * weight[rows[k] + o];
    }
    for (let i = 0; i < out.length; i++) out[i] = activation(out[i], slope);
    return out;
  }
  return (input) => prepared.reduce((x, layer) => run(layer, x), input);
}

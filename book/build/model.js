// A GPT-2 in plain JavaScript: its forward pass with cached keys and values, and vectors that are added on the way.
// Tensors are Float32Arrays, row by row; a comment such as [n, d] gives their shape. Names are Hugging Face's.

// The weights travel as 16-bit floats: all low bytes, then all high bytes, which gzip packs better, in base64.
async function unpack(text, size) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const values = new Float32Array(size), bits = new Uint32Array(values.buffer);
  for (let i = 0; i < size; i++) {
    const half = bytes[i] | (bytes[size + i] << 8), sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent) bits[i] = sign | ((exponent + 112) << 23) | (fraction << 13);
    else values[i] = (sign ? -1 : 1) * fraction * 2 ** -24; // zero and the smallest numbers
  }
  return values;
}

// x [n, inner] times weight [inner, width] plus bias [width]: [n, width]. Four rows of the weight at a time.
function linear(x, n, weight, bias) {
  const width = bias.length, inner = weight.length / width, y = new Float32Array(n * width);
  for (let t = 0; t < n; t++) y.set(bias, t * width);
  for (let i = 0; i < inner; i += 4) {
    const r0 = i * width, r1 = r0 + width, r2 = r1 + width, r3 = r2 + width;
    for (let t = 0; t < n; t++) {
      const at = t * inner + i, to = t * width, a = x[at], b = x[at + 1], c = x[at + 2], d = x[at + 3];
      for (let o = 0; o < width; o++) {
        y[to + o] += a * weight[r0 + o] + b * weight[r1 + o] + c * weight[r2 + o] + d * weight[r3 + o];
      }
    }
  }
  return y;
}

// Layer norm of each row of x [n, d].
function norm(x, weight, bias) {
  const d = weight.length, y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += d) {
    let mean = 0, variance = 0;
    for (let i = 0; i < d; i++) mean += x[start + i] / d;
    for (let i = 0; i < d; i++) variance += ((x[start + i] - mean) * (x[start + i] - mean)) / d;
    const scale = 1 / Math.sqrt(variance + 1e-5);
    for (let i = 0; i < d; i++) y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
  }
  return y;
}

function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
}

function softmax(logits) {
  const most = Math.max(...logits), exps = logits.map((value) => Math.exp(value - most));
  const sum = exps.reduce((total, value) => total + value, 0);
  return exps.map((value) => value / sum);
}

class Model {
  // `about` has n_layer, n_head, n_embd, n_positions, vocabulary, and `tensors`: [name, size] in the order of `values`.
  constructor(about, values) {
    Object.assign(this, about);
    this.tensor = {};
    let at = 0;
    for (const [name, size] of about.tensors) this.tensor[name] = values.subarray(at, (at += size));
  }

  static async load(about) {
    return new Model(about, await unpack(about.weights, about.tensors.reduce((sum, [, size]) => sum + size, 0)));
  }

  // Room for the keys and values of every position.
  cache() {
    const room = () => Array.from({ length: this.n_layer }, () => new Float32Array(this.n_positions * this.n_embd));
    return { keys: room(), values: room() };
  }

  // Run `tokens` at the positions from `start`; what stands before is in `cache`, which is written from `start` on.
  // `add(site, layer, position)` gives the vector that is added there, or nothing. Sites: resid_post, mlp.hook_post.
  // Returns the logits after each token, each [vocabulary], and both sites of every layer at the last token.
  run(tokens, start, cache, add = () => null) {
    const n = tokens.length, d = this.n_embd, states = { resid_post: [], "mlp.hook_post": [] };
    const edited = (x, width, site, layer) => {
      for (let t = 0; t < n; t++) {
        const vector = add(site, layer, start + t);
        if (vector) for (let i = 0; i < width; i++) x[t * width + i] += vector[i];
      }
      states[site].push(x.slice((n - 1) * width)); // what the rest of the model reads
    };
    const x = new Float32Array(n * d); // the residual stream [n, d]
    tokens.forEach((token, t) => {
      for (let i = 0; i < d; i++) {
        x[t * d + i] = this.tensor["wte.weight"][token * d + i] + this.tensor["wpe.weight"][(start + t) * d + i];
      }
    });
    for (let layer = 0; layer < this.n_layer; layer++) {
      const of = (name) => [this.tensor[`h.${layer}.${name}.weight`], this.tensor[`h.${layer}.${name}.bias`]];
      const heads = this.attend(linear(norm(x, ...of("ln_1")), n, ...of("attn.c_attn")), n, start, cache, layer);
      linear(heads, n, ...of("attn.c_proj")).forEach((value, i) => { x[i] += value; });
      const hidden = linear(norm(x, ...of("ln_2")), n, ...of("mlp.c_fc")).map(gelu);
      edited(hidden, hidden.length / n, "mlp.hook_post", layer);
      linear(hidden, n, ...of("mlp.c_proj")).forEach((value, i) => { x[i] += value; });
      edited(x, d, "resid_post", layer);
    }
    const logits = tokens.map((_, t) => this.unembed(x.subarray(t * d, (t + 1) * d)));
    return { logits, states };
  }

  // Causal attention: queries, keys and values side by side [n, 3 d] to what the heads put out, side by side [n, d].
  attend(projected, n, start, cache, layer) {
    const d = this.n_embd, size = d / this.n_head, scale = 1 / Math.sqrt(size), keys = cache.keys[layer], values = cache.values[layer];
    const out = new Float32Array(n * d);
    for (let t = 0; t < n; t++) {
      const row = projected.subarray(t * 3 * d, (t + 1) * 3 * d), seen = start + t + 1;
      keys.set(row.subarray(d, 2 * d), (seen - 1) * d);
      values.set(row.subarray(2 * d), (seen - 1) * d);
      for (let from = 0; from < d; from += size) { // each head
        const scores = new Float32Array(seen);
        for (let s = 0; s < seen; s++) {
          for (let i = from; i < from + size; i++) scores[s] += row[i] * keys[s * d + i] * scale;
        }
        softmax(scores).forEach((weight, s) => {
          for (let i = from; i < from + size; i++) out[t * d + i] += weight * values[s * d + i];
        });
      }
    }
    return out;
  }

  // The logits [vocabulary] of a state of the residual stream [d]: the final norm, then the tokens' own vectors.
  unembed(state) {
    const normed = norm(state, this.tensor["ln_f.weight"], this.tensor["ln_f.bias"]), d = this.n_embd;
    const embedding = this.tensor["wte.weight"], logits = new Float32Array(this.vocabulary.length);
    for (let token = 0; token < logits.length; token++) {
      for (let i = 0; i < d; i++) logits[token] += normed[i] * embedding[token * d + i];
    }
    return logits;
  }
}

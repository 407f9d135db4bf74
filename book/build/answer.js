// What a model answers to a story or a sum, steered or not. Model stands in model.js.
// Words are the model's tokens. How shifts act is as in memgen/steering: interventions.py, das.py.

const BOS = "<bos>", EOS = "<eos>";
const sum = (values) => values.reduce((total, value) => total + value, 0);
const largest = (values) => values.indexOf(Math.max(...values));
const same = (some, others) => others.length > 0 && others.every((value, i) => value === some[i]);

// What differs between the tasks. Words are the model's tokens; `answers` are those of memory and of the input itself.
const TASKS = {
  inference: {
    title: "Stories", input: "Story", keys: "Words", rows: 3, gap: " ", longest: 1, flip: "Reorder the sentences", flipped: "Reordered",
    split: (text) => text.match(/[^\s.]+|\./g) ?? [],
    read: (words) => words.join(" "),
    group: (words) => words.at(-2),
    problem: (words, model) => model.keys.Names.includes(words.at(-2)) && words.at(-1) === "is"
      ? "" : "A story ends with the name that is asked about and “is”, such as: Ada is",
    answers(words, model) {
      const facts = words.flatMap((word, i) => (word === "is" && i + 1 < words.length ? [[words[i - 1], words[i + 1]]] : []));
      const told = (name, sort) => facts.find(([who, what]) => who === name && model.keys[sort].includes(what))?.[1];
      const asked = words.at(-2), kind = told(asked, "Kinds");
      const alike = facts.filter(([who, what]) => kind && what === kind && who !== asked).map(([who]) => who);
      const inferred = told(asked, "Colours") ?? alike.map((who) => told(who, "Colours")).find(Boolean);
      return { memorized: model.memory[asked].map((color) => [color]), inferred: inferred ? [inferred] : [] };
    },
    flipWords(words) {
      const sentences = words.slice(0, -2).join(" ").split(/(?<=\.) /), order = [...sentences];
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor(Math.random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      if (same(order, sentences)) order.reverse();
      return [...order.join(" ").split(" "), ...words.slice(-2)];
    },
  },
  addition: {
    title: "Sums", input: "Sum", keys: "Keys", rows: 1, gap: "", longest: 13, flip: "Swap the first two numbers", flipped: "Swapped",
    split: (text) => text.match(/\S/g) ?? [],
    // The digits of a scratchpad, the last first, without the running sums in brackets.
    read: (words) => (words.length < 13 ? words.join("") : words.filter((word) => word.length === 1).reverse().join("").replace(/^0+(?=.)/, "")),
    group: (words) => words.slice(8, 15).join(""),
    problem: (words) => (/^\d{3}(\+\d{3}){3}=$/.test(words.join("")) ? "" : "A sum has four numbers of three digits: 345+012+678+104="),
    answers(words, model) {
      const numbers = words.join("").slice(0, -1).split("+"), scratchpad = [];
      let carry = 0;
      for (const place of [2, 1, 0]) {
        numbers.forEach((number, i) => {
          carry += Number(number[place]);
          if (i > 0) scratchpad.push(`(${carry})`);
        });
        scratchpad.push(String(carry % 10));
        carry = Math.floor(carry / 10);
      }
      const tag = model.memory[this.group(words)];
      return { memorized: tag ? [tag] : [], inferred: [...scratchpad, String(carry)] };
    },
    flipWords: (words) => [...words.slice(4, 8), ...words.slice(0, 4), ...words.slice(8)],
  },
};

// An input's coordinate along the direction of distributed alignment search, at the prompt's last token.
function coordinate(model, { tokens, cache }) {
  const last = tokens.length - 1, state = model.run([tokens[last]], last, cache).states.resid_post[model.layer];
  return sum(Array.from(model.tensor.das, (value, i) => value * state[i]));
}

// What a shift adds: for each layer a vector or null, `once` if at the prompt's last token alone.
function shiftOf(model, name, dose, isControl, lacks) {
  const control = isControl ? ".control" : "", layers = Array(model.n_layer).fill(null);
  if (dose && name === "das") {
    if (lacks) layers[model.layer] = model.tensor[`das${control}`].map((value) => value * lacks * Math.abs(dose));
  } else if (dose) {
    const vectors = model.tensor[`${name}.${dose > 0 ? "memorization" : "generalization"}${control}`];
    const width = vectors.length / model.n_layer;
    layers.forEach((_, layer) => {
      const vector = vectors.subarray(layer * width, (layer + 1) * width);
      if (vector.some(Boolean)) layers[layer] = vector.map((value) => value * Math.abs(dose));
    });
  }
  const norm = Math.sqrt(sum(layers.map((vector) => (vector ? sum(vector.map((value) => value * value)) : 0))));
  return { site: model.sites[name], layers, norm, once: name === "das" };
}

// What Model.run asks for: a shift acts at the prompt's `last` token and after it, or there alone.
const adding = (shift, last) => (site, layer, position) =>
  (site === shift.site && (shift.once ? position === last : position >= last) ? shift.layers[layer] : null);

// The prompt's tokens, and the keys and values of all but the last, which no shift reaches.
function read(model, words) {
  const tokens = [BOS, ...words].map((word) => model.ids.get(word)), cache = model.cache();
  model.run(tokens.slice(0, -1), 0, cache);
  return { tokens, cache };
}

// The model's answer to a prompt under a shift, and its probabilities: of the next token, by layer, and of both answers.
function answer(model, { tokens, cache }, { memorized, inferred }, longest, shift) {
  const last = tokens.length - 1, decode = (list) => list.map((words) => words.map((word) => model.ids.get(word)));
  const add = adding(shift, last);
  const { logits: [first], states } = model.run([tokens[last]], last, cache, add);
  const next = softmax(first), given = [];
  for (let p = next; ; ) {
    const token = largest(p);
    if (model.vocabulary[token] === EOS) break;
    given.push({ token, word: model.vocabulary[token], p: p[token] });
    if (given.length === longest || last + given.length >= model.n_positions) break;
    p = softmax(model.run([token], last + given.length, cache, add).logits[0]);
  }
  const whole = (ids) => {
    if (given.length === ids.length && same(given.map(({ token }) => token), ids)) return given.reduce((all, { p }) => all * p, 1);
    const after = ids.length > 1 ? model.run(ids.slice(0, -1), last + 1, cache, add).logits : [];
    return ids.reduce((p, id, i) => p * (i ? softmax(after[i - 1])[id] : next[id]), 1);
  };
  const answers = { memorization: decode(memorized), generalization: inferred.length ? decode([inferred]) : [] };
  const words = given.map(({ token }) => token), shows = (name) => answers[name].some((ids) => same(words, ids));
  const p = { memorization: sum(answers.memorization.map(whole)), generalization: sum(answers.generalization.map(whole)) };
  p.other = Math.max(0, 1 - p.memorization - p.generalization);
  const starts = Object.fromEntries(Object.entries(answers).map(([name, list]) => [name, [...new Set(list.map((ids) => ids[0]))]]));
  const layers = states.resid_post.map((state) => {
    const share = softmax(model.unembed(state));
    const of = (name) => sum(starts[name].map((id) => share[id]));
    return { word: model.vocabulary[largest(share)], memorization: of("memorization"), generalization: of("generalization") };
  });
  const behavior = shows("generalization") ? "generalization" : shows("memorization") ? "memorization" : "other";
  return { behavior, given, p, next, layers, states, shift };
}

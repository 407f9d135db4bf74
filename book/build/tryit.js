// The page *Try it*: what a reader works with. MODELS stands above, and the code of model.js and answer.js.

const ANSWERS = { memorization: "memorized", generalization: "inferred", other: "another answer" };
const SHIFTS = { fitted_mlp: "fitted to MLP neurons", study: "the study’s", das: "interchange along a direction" };
const CONDITIONS = ["Unsteered", "Steered", "Control"];
const START = { task: Object.keys(MODELS)[0], shift: "fitted_mlp", dose: "1", strip: "activations" };
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (dose) => (dose === 0 ? "0" : `${dose < 0 ? "−" : "+"}${Math.abs(dose).toFixed(1)}`);
const draw = (list) => list[Math.floor(Math.random() * list.length)];

const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text: nothing that is typed is read as HTML
  return node;
};
const choice = (name, title, options, onchange) => element("fieldset", { class: `choice ${name}` }, element("legend", {}, title),
  ...Object.entries(options).map(([value, words]) =>
    element("label", {}, element("input", { type: "radio", name: `try-${name}`, value, onchange }), element("span", {}, words))));
const bar = (share, kind) => element("span", { class: "bar", "aria-hidden": "true" },
  element("span", { class: kind, style: `width: ${Math.min(100, 100 * share)}%` }));

async function start() {
  const root = document.getElementById("memgen-try");
  const missing = Object.keys(TASKS).filter((task) => !(task in MODELS)).map((task) => TASKS[task].title.toLowerCase());
  if (missing.length) root.append(element("p", {}, `This copy of the book has no published model for ${missing.join(" and ")}.`));
  if (!START.task) {
    root.dataset.ready = "";
    return;
  }
  const state = { ...START }, models = {}, prompts = new Map();
  let before = null; // what stood here when the input was flipped

  const tasks = choice("task", "Task", Object.fromEntries(Object.keys(MODELS).map((task) => [task, TASKS[task].title])), (event) => {
    set({ task: event.target.value, input: undefined });
  });
  const text = element("textarea", { id: "try-input", spellcheck: "false", autocapitalize: "off", autocomplete: "off",
    "aria-describedby": "try-told", oninput: () => set({ input: text.value }) });
  const label = element("label", { for: "try-input" });
  const told = element("p", { id: "try-told", class: "told", role: "status" });
  const flipButton = element("button", { type: "button", onclick: flip });
  const surprise = element("button", { type: "button", onclick: () => set({ input: undefined }) }, "Surprise me");
  const keys = element("details", { class: "keys" });
  const shifts = choice("shift", "Shift", SHIFTS, (event) => set({ shift: event.target.value }, true));
  const dose = element("input", { id: "try-dose", type: "range", min: -2, max: 2, step: 0.1,
    oninput: () => set({ dose: dose.value }, true) });
  const shownDose = element("output", { for: "try-dose" });
  const source = element("p", { class: "told" });
  const sentence = element("p", { class: "sentence", role: "status" });
  const strips = choice("strip", "Neurons", { activations: "activations", added: "what the shift adds" }, (event) =>
    set({ strip: event.target.value }, true));
  const cards = element("div", { class: "cards" });
  root.append(element("form", { onsubmit: (event) => event.preventDefault() },
    tasks, label, text, element("div", { class: "buttons" }, surprise, flipButton), told, keys, shifts,
    element("div", { class: "dose" }, element("label", { for: "try-dose" }, "Dose"), dose, shownDose),
    element("div", { class: "ends", "aria-hidden": "true" }, element("span", {}, "← generalization"), element("span", {}, "memorization →")),
    source, strips), sentence, cards);

  function set(change, keepsFlip = false) {
    Object.assign(state, change);
    if (!keepsFlip) before = null;
    show();
  }

  function insert(word) {
    const { gap, split } = TASKS[state.task], [from, to] = [text.selectionStart, text.selectionEnd];
    if (word === "⌫") text.value = split(text.value).slice(0, -1).join(gap);
    else text.setRangeText((from && !/\s$/.test(text.value.slice(0, from)) ? gap : "") + word, from, to, "end");
    set({ input: text.value });
  }

  function flip() {
    const task = TASKS[state.task], now = compute();
    if (now.problem) return;
    const input = task.flipWords(now.words).join(task.gap);
    set({ input });
    before = { ...now.results[0], read: task.read(now.results[0].given.map(({ word }) => word)) };
    show();
  }

  // Read the input, and run it three times.
  function compute() {
    const model = models[state.task], task = TASKS[state.task];
    const words = task.split(state.input).map((word) => model.known.get(word.toLowerCase()) ?? word);
    const unknown = words.find((word) => !model.known.has(word.toLowerCase()));
    const room = model.n_positions - 1;
    if (unknown) return { problem: `“${unknown}” is no word that this model knows.` };
    if (words.length > room) return { problem: `The model reads at most ${room} words and full stops; here are ${words.length}.` };
    if (task.problem(words, model)) return { problem: task.problem(words, model) };
    const remember = (list) => {
      const key = `${state.task} ${list.join(" ")}`;
      if (!prompts.has(key)) prompts.set(key, read(model, list));
      if (prompts.size > 8) prompts.delete(prompts.keys().next().value);
      return prompts.get(key);
    };
    const prompt = remember(words), answers = task.answers(words, model), number = Number(state.dose);
    const run = (shift) => answer(model, prompt, answers, task.longest, shift);
    const alone = (prompt.alone ??= run(shiftOf(model, state.shift, 0))); // the same at every dose
    let lacks = 0, giver = null;
    if (state.shift === "das" && number) {
      const target = number > 0 ? "memorization" : "generalization";
      giver = model.inputs.find(([input, behavior]) => behavior === target && task.group(task.split(input)) !== task.group(words));
      if (giver) lacks = coordinate(model, remember(task.split(giver[0]))) - coordinate(model, prompt);
    }
    const shifted = [false, true].map((isControl) => run(shiftOf(model, state.shift, number, isControl, lacks)));
    return { words, answers, giver, results: [alone, ...shifted] };
  }

  function show() {
    const model = models[state.task], task = TASKS[state.task];
    if (state.input === undefined) state.input = draw(model.inputs)[0];
    if (text.value !== state.input) text.value = state.input;
    label.textContent = task.input;
    text.rows = task.rows;
    flipButton.textContent = task.flip;
    for (const [name, group] of Object.entries({ task: tasks, shift: shifts, strip: strips })) {
      for (const radio of group.querySelectorAll("input")) radio.checked = radio.value === state[name];
    }
    dose.value = state.dose;
    shownDose.textContent = signed(Number(state.dose));
    dose.setAttribute("aria-valuetext", shownDose.textContent);
    if (keys.dataset.task !== state.task) {
      keys.dataset.task = state.task;
      keys.open = state.task === "addition";
      keys.replaceChildren(element("summary", {}, task.keys), ...Object.entries(model.keys).map(([sort, words], i, { length }) =>
        element("div", { role: "group", "aria-label": sort }, ...[...words, ...(i === length - 1 ? ["⌫"] : [])].map((word) => element("button",
          { type: "button", ...(word === "⌫" ? { "aria-label": "Delete the last" } : {}), onclick: () => insert(word) }, word)))));
    }
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
    const now = compute();
    text.setAttribute("aria-invalid", Boolean(now.problem));
    flipButton.disabled = Boolean(now.problem);
    cards.hidden = sentence.hidden = source.hidden = Boolean(now.problem);
    if (now.problem) told.replaceChildren(now.problem);
    else showResults(task, now);
  }

  function showResults(task, { answers, giver, results }) {
    const says = ({ given, behavior }) => `“${task.read(given.map(({ word }) => word)) || "nothing"}” (${ANSWERS[behavior]})`;
    const bound = answers.memorized.map((words) => words.join("")).join(", "), inferred = task.read(answers.inferred);
    told.replaceChildren(
      element("span", { class: "memorization" }, bound ? `Memory: ${bound}` : "Memory: nothing is bound to this input"), " ",
      element("span", { class: "generalization" }, inferred ? `To infer: ${inferred}` : "To infer: nothing, the input does not tell"));
    if (before) {
      const flips = before.behavior !== results[0].behavior;
      told.append(" ", element("strong", {}, `${task.flipped}: ${says(before)} becomes ${says(results[0])}: the behaviour ${flips ? "flips" : "stays"}.`));
    }
    source.textContent = state.shift !== "das" ? "" : giver
      ? `The coordinate comes from an input that shows the other behaviour: ${giver[0]}`
      : "At dose 0 no coordinate is taken over.";
    const to = Number(state.dose) > 0 ? "to memorization" : "to generalization";
    sentence.textContent = `Unsteered, the model answers ${says(results[0])}. ` + (Number(state.dose)
      ? `Steered ${to} at dose ${signed(Number(state.dose))}: ${says(results[1])}. A random direction of the same norm: ${says(results[2])}.`
      : "At dose 0 nothing is added.");
    const site = results[1].shift.site;
    const values = results.map(({ states, shift }) => (state.strip === "added" ? shift.layers : states[site]));
    const sizes = values.flat().filter(Boolean).flatMap((vector) => [...vector].map(Math.abs)).sort((a, b) => a - b);
    const most = sizes[Math.floor(0.99 * sizes.length)] || 1; // the colours end where one in a hundred lies beyond
    cards.replaceChildren(...results.map((result, i) => card(task, result, i, values[i], most, site)));
  }

  function card(task, result, i, values, most, site) {
    const { given, behavior, p, next, layers, shift } = result, model = models[state.task];
    const best = [...next.keys()].sort((a, b) => next[b] - next[a]).slice(0, 10);
    const added = ["nothing is added", `norm ${shift.norm.toFixed(1)}`, `random, norm ${shift.norm.toFixed(1)}`][i];
    const shareRow = (name, words) => [element("span", {}, words), bar(p[name], name), element("span", { class: "number" }, percent(p[name]))];
    return element("section", { "aria-labelledby": `try-card-${i}` },
      element("h2", { id: `try-card-${i}` }, CONDITIONS[i], element("small", {}, ` ${added}`)),
      element("p", { class: "answer" }, ...given.map(({ word, p: sure }) =>
        element("span", { class: "token" }, word, element("small", {}, ` ${Math.round(100 * sure)} %`)))),
      element("p", { class: `verdict ${behavior}` }, `${task.read(given.map(({ word }) => word))}: ${ANSWERS[behavior]}`),
      element("div", { class: "shares" }, ...shareRow("memorization", "memorized"), ...shareRow("generalization", "inferred"), ...shareRow("other", "any other")),
      element("h3", {}, "Likeliest next tokens"),
      element("ol", { class: "tokens" }, ...best.map((token) => element("li", {},
        element("span", {}, model.vocabulary[token]), bar(next[token], "plain"), element("span", { class: "number" }, percent(next[token]))))),
      element("h3", {}, "Read after each layer"),
      element("table", {},
        element("thead", {}, element("tr", {}, ...["layer", "likeliest", "memorized", "inferred"].map((name) => element("th", { scope: "col" }, name)))),
        element("tbody", {}, ...layers.map((layer, number) => element("tr", {}, element("th", { scope: "row" }, String(number)), element("td", {}, layer.word),
          ...["memorization", "generalization"].map((name) => element("td", {}, percent(layer[name]), bar(layer[name], name))))))),
      element("h3", {}, state.strip === "added" ? "What is added, by layer" : "Activations, by layer"),
      strip(values, most, site, i));
  }

  // A row of cells for each layer, at most as many side by side as the residual stream is wide.
  function strip(values, most, site, i) {
    const where = element("p", { class: "where", "aria-hidden": "true" }, site), width = models[state.task].n_embd;
    const words = `${CONDITIONS[i]}: a strip of neurons for each layer at ${site}; green above zero, purple below, up to ${most.toPrecision(2)}`;
    const rows = values.map((vector, layer) => {
      const height = vector ? vector.length / width : 1, canvas = element("canvas", { width, height });
      const picture = canvas.getContext("2d").createImageData(width, height);
      vector?.forEach((value, neuron) => {
        const colour = value > 0 ? [0, 136, 90] : [146, 72, 168];
        picture.data.set([...colour, 255 * Math.min(1, Math.abs(value) / most)], 4 * neuron);
      });
      canvas.getContext("2d").putImageData(picture, 0, 0);
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const [x, y] = [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height].map(Math.floor);
        where.textContent = vector ? `layer ${layer}, neuron ${y * width + x}: ${(vector[y * width + x] ?? 0).toFixed(2)}` : site;
      });
      return [element("span", {}, String(layer)), canvas];
    });
    return element("div", {}, element("div", { class: "layers", role: "img", "aria-label": words }, ...rows.flat()), where);
  }

  for (const [task, about] of Object.entries(MODELS)) {
    models[task] = await Model.load(about);
    models[task].ids = new Map(about.vocabulary.map((word, id) => [word, id]));
    models[task].known = new Map(Object.values(about.keys).flat().map((word) => [word.toLowerCase(), word]));
  }
  const follow = () => {
    const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    if (!(asked.task in MODELS)) return;
    if (!(asked.shift in SHIFTS)) asked.shift = START.shift;
    if (!(Math.abs(asked.dose) <= 2)) asked.dose = START.dose;
    if (asked.strip !== "added") asked.strip = START.strip;
    const { task, input, shift, dose: strength, strip: shown } = asked;
    Object.assign(state, { task, input, shift, dose: strength, strip: shown });
  };
  window.addEventListener("hashchange", () => { follow(); show(); });
  window.memgenTry = { models, TASKS, read, answer, shiftOf, adding, coordinate }; // for those who want to compute
  follow();
  show();
  root.dataset.ready = "";
}

start();

// The page *Try it*: an input, a dose, and the probabilities of the answers, all from the data in the page.
(() => {
  const NAMES = { memorization: "memorized answer", generalization: "inferred answer", other: "any other answer" };
  const COLORS = { memorization: "#0072B2", generalization: "#E69F00", other: "#777777" }; // memgen.figures.theme
  const WIDEST = 640, HEIGHT = 200, LEFT = 45, RIGHT = 20, TOP = 10, BOTTOM = 40; // of the curves
  const SVG = "http://www.w3.org/2000/svg";

  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const shape = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children); // strings become text: nothing in a prompt is read as HTML
    return node;
  }
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const signed = (dose) => (dose === 0 ? "0" : `${dose < 0 ? "−" : "+"}${Math.abs(dose).toFixed(1)}`);

  function start() {
    const root = document.getElementById("memgen-try");
    const source = document.getElementById("memgen-try-data");
    if (!root || !source) return;
    const data = JSON.parse(source.textContent);
    const task = element("select", { id: "try-task" });
    for (const name of Object.keys(data)) task.append(element("option", { value: name }, name));
    const filter = element("input", { id: "try-filter", type: "search", autocomplete: "off" });
    const found = element("span", { "aria-live": "polite" });
    const list = element("fieldset");
    const slider = element("input", { id: "try-dose", type: "range", min: 0, step: 1 });
    const shownDose = element("output", { for: "try-dose" });
    const sentence = element("p", { "aria-live": "polite" });
    const bars = element("div", { class: "answers" });
    const curves = element("div");
    const form = element(
      "form", {},
      element("p", {}, element("label", { for: "try-task" }, "Task "), task, " ",
        element("label", { for: "try-filter" }, "Filter the inputs "), filter, " ", found),
      list,
      element("div", { class: "dose" }, element("label", { for: "try-dose" }, "Dose"), slider, shownDose),
      element("div", { class: "ends" }, element("span", {}, "−1: to generalization"),
        element("span", {}, "0: untouched"), element("span", {}, "+1: to memorization")),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    root.append(form, bars, sentence, curves);
    let chosen = null;

    function offer() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const shown = data[task.value].filter((input) => {
        const text = `${input.prompt} ${input.answer_memorization} ${input.answer_generalization}`.toLowerCase();
        return words.every((word) => text.includes(word));
      });
      found.textContent = `${shown.length} of ${data[task.value].length} inputs`;
      list.replaceChildren(element("legend", {}, "Input"));
      if (!shown.includes(chosen) && shown.length) chosen = shown[0];
      for (const input of shown) {
        const radio = element("input", { type: "radio", name: "try-input" });
        radio.checked = input === chosen;
        radio.addEventListener("change", () => { chosen = input; show(); });
        list.append(element("label", {}, radio, element("span", {}, input.prompt)));
      }
      show();
    }

    function show() {
      slider.max = chosen.doses.length - 1;
      const at = Number(slider.value), dose = chosen.doses[at];
      shownDose.textContent = signed(dose);
      slider.setAttribute("aria-valuetext", signed(dose));
      const answers = { memorization: chosen.answer_memorization, generalization: chosen.answer_generalization };
      bars.replaceChildren();
      for (const name of Object.keys(NAMES)) {
        const share = chosen.p[name][at], label = element("span", {}, NAMES[name]);
        if (answers[name] !== undefined) label.append(": ", element("strong", {}, answers[name]));
        const bar = element("b", { class: name, "aria-hidden": "true", style: `width: ${100 * share}%` });
        bars.append(label, bar, element("span", {}, percent(share)));
      }
      const words = Object.keys(NAMES).map((name) => `${NAMES[name]} ${percent(chosen.p[name][at])}`);
      sentence.textContent = `At dose ${signed(dose)}: ${words.join(", ")}.`;
      curves.replaceChildren(draw(at));
    }

    function draw(at) {
      const { doses, p } = chosen, first = doses[0], last = doses[doses.length - 1];
      const WIDTH = Math.min(WIDEST, curves.clientWidth || WIDEST);
      const x = (dose) => LEFT + ((dose - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
      const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
      const text = (content, attributes) =>
        shape("text", { fill: "currentColor", "font-size": 12, "text-anchor": "middle", ...attributes }, content);
      const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, role: "img" });
      svg.setAttribute("aria-label", "Three lines over the dose: the probabilities of the memorized answer, of the " +
        "inferred one, and of any other; a dashed line at the chosen dose.");
      for (const share of [0, 0.5, 1]) {
        svg.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share), stroke: "currentColor", opacity: 0.2 }));
        svg.append(text(`${100 * share} %`, { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }));
      }
      for (const dose of [-1, -0.5, 0, 0.5, 1]) svg.append(text(signed(dose), { x: x(dose), y: HEIGHT - 22 }));
      svg.append(text("dose", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 5 }));
      for (const name of Object.keys(NAMES)) {
        const points = doses.map((dose, i) => `${x(dose)},${y(p[name][i])}`).join(" ");
        const dash = name === "other" ? { "stroke-dasharray": "5 3" } : {};
        svg.append(shape("polyline", { points, fill: "none", stroke: COLORS[name], "stroke-width": 2.5, ...dash }));
        svg.append(shape("circle", { cx: x(doses[at]), cy: y(p[name][at]), r: 4, fill: COLORS[name] }));
      }
      const here = { x1: x(doses[at]), x2: x(doses[at]), y1: y(1), y2: y(0), stroke: "currentColor" };
      svg.append(shape("line", { ...here, "stroke-dasharray": "2 3" }));
      return svg;
    }

    task.addEventListener("change", () => { filter.value = ""; offer(); });
    filter.addEventListener("input", offer);
    slider.addEventListener("input", show);
    const middle = data[task.value][0].doses.indexOf(0);
    slider.max = data[task.value][0].doses.length - 1;
    slider.value = middle;
    offer();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

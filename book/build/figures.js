// Draws the figures of a page from the specifications in it. chapters.py puts it behind the bundle of Vega, Vega-Lite and
// Vega-Embed, so that a page needs one script and no network. Without it, each figure's picture shows.
(() => {
  const INK = "#757575"; // memgen.figures.theme.INK: text and lines; here they follow the page, light or dark
  const NARROWEST = 240; // a facet is never narrower than this; columns wrap instead

  // The message of a figure in lines that fit its column, as few and as even as can be.
  function wrap(lines, room) {
    const pen = document.createElement("canvas").getContext("2d"), [first, ...words] = [lines].flat().join(" ").split(" ");
    pen.font = "bold 13px system-ui, sans-serif"; // as in memgen.figures.theme
    const within = (width) => words.reduce((wrapped, word) => {
      const longer = `${wrapped.at(-1)} ${word}`;
      return pen.measureText(longer).width < width ? [...wrapped.slice(0, -1), longer] : [...wrapped, word];
    }, [first]);
    let width = room;
    while (width > room / 2 && within(width - 10).length === within(room).length) width -= 10;
    return within(width);
  }

  // Widths are given here, to facets and to views below one another, too, with room for labels and legends. Vega's own
  // "container" measures a column while a window grows, and gets it wrong.
  function fit(specification, room, labels) {
    const legend = specification.config?.legend;
    if (specification.title) specification.title = wrap(specification.title, room - 10);
    if (legend) legend.layout = { direction: "vertical" }; // several stand below one another
    if (room < 2 * NARROWEST && legend) legend.columns = 1;
    if (specification.width === "container") {
      specification.width = room;
      specification.autosize = { type: "fit-x", contains: "padding" };
      return;
    }
    for (const part of specification.vconcat ?? []) fit(part, room, labels);
    if (typeof specification.width === "number") specification.width = Math.max(80, Math.floor(room - labels - 25));
    if (!specification.facet) return;
    const columns = Math.max(1, Math.min(specification.columns ?? 1, Math.floor(room / NARROWEST)));
    specification.columns = columns;
    specification.spec.width = Math.floor((room - labels) / columns) - 25;
  }

  // A slider steps through places in a list; what stands there is shown and read out in its stead.
  function nameSteps(view, holder, lists) {
    for (const [name, values] of Object.entries(lists)) {
      const slider = holder.querySelector(`input[name="${name}"]`);
      if (!slider) continue;
      const announce = () => {
        const value = values[Number(slider.value)];
        slider.setAttribute("aria-valuetext", value);
        if (slider.nextElementSibling) slider.nextElementSibling.textContent = value;
      };
      view.addSignalListener(name, () => setTimeout(announce));
      slider.addEventListener("input", () => setTimeout(announce));
      announce();
    }
  }

  // A click on a mark sets the controls below the figure to what the mark stands for.
  function pick(view, fields) {
    view.addEventListener("click", (_, item) => {
      if (!item?.datum || !Object.values(fields).every((field) => field in item.datum)) return;
      for (const [name, field] of Object.entries(fields)) view.signal(name, item.datum[field]);
      view.runAsync();
    });
  }

  const drawn = new WeakMap(); // holder: the room that its drawing was made for; the drawing's place and view

  // Draws, or draws anew for another room and keeps what the controls say.
  async function draw(holder) {
    const source = holder.nextElementSibling, before = drawn.get(holder), room = holder.clientWidth;
    if (source?.type !== "application/json" || !room || Math.abs(room - (before?.room ?? 0)) < 2) return;
    drawn.set(holder, { ...before, room });
    const specification = JSON.parse(source.textContent.replaceAll(INK, "currentColor"));
    const about = specification.usermeta ?? {};
    fit(specification, room, about.labels ?? 60);
    const place = document.createElement("div");
    place.className = "memgen-drawing";
    if (!before?.place) holder.append(place);
    try {
      const options = { actions: false, renderer: "svg", mode: "vega-lite", logLevel: 1 }; // log errors only
      const { view } = await window.vegaEmbed(place, specification, options);
      const last = drawn.get(holder);
      if (last.room !== room) { // it changed again meanwhile
        place.remove();
        view.finalize();
        return;
      }
      for (const { name, bind } of specification.params ?? []) {
        if (bind && last.view) view.signal(name, last.view.signal(name));
      }
      await view.runAsync();
      last.view?.finalize();
      last.place?.replaceWith(place);
      drawn.set(holder, { room, view, place });
      nameSteps(view, place, about.steps ?? {});
      if (about.pick) pick(view, about.pick);
      holder.classList.add("memgen-drawn"); // hides the picture on screens
    } catch (error) {
      place.remove();
      console.error(error);
    }
  }

  let waiting;
  const resized = new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(() => document.querySelectorAll("div.memgen-figure").forEach(draw), 200);
  });
  const drawAll = () => document.querySelectorAll("div.memgen-figure").forEach((holder) => {
    draw(holder);
    resized.observe(holder);
  });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
  else drawAll();
})();

// Draws the figures of a page from the specifications in it. book.py puts it behind the bundle of Vega, Vega-Lite and
// Vega-Embed, so that a page needs one script and no network. Without it, each figure's picture stays.
(() => {
  const INK = "#757575"; // memgen.figures.theme.INK: text and lines; here they follow the page, light or dark
  const NARROWEST = 240; // a facet is never narrower than this; columns wrap instead

  // Vega-Lite fits single views to their column, but neither legends nor facets.
  function fit(specification, room) {
    if (room < 2 * NARROWEST && specification.config?.legend) specification.config.legend.columns = 1;
    if (!specification.facet) return;
    const labels = specification.usermeta?.labels ?? 60;
    const columns = Math.max(1, Math.min(specification.columns ?? 1, Math.floor(room / NARROWEST)));
    specification.columns = columns;
    specification.spec.width = Math.floor((room - labels) / columns) - 25;
  }

  async function draw(holder) {
    const source = holder.nextElementSibling;
    if (source?.type !== "application/json") return;
    const specification = JSON.parse(source.textContent.replaceAll(INK, "currentColor"));
    fit(specification, holder.clientWidth);
    const view = document.createElement("div");
    view.style.width = "100%";
    holder.append(view);
    try {
      const options = { actions: false, renderer: "svg", mode: "vega-lite", logLevel: 1 }; // log errors only
      await window.vegaEmbed(view, specification, options);
      for (const drawing of view.querySelectorAll("svg")) {
        drawing.style.maxWidth = "100%";
        drawing.style.height = "auto";
      }
      holder.querySelector("img")?.remove();
    } catch (error) {
      view.remove();
      console.error(error);
    }
  }

  const drawAll = () => document.querySelectorAll("div.memgen-figure").forEach(draw);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
  else drawAll();
})();

"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse), (hover: none), (max-width: 34rem)");
  const root = document.documentElement;
  const themes = ["system", "light", "dark"];
  const words = { system: "as the system", light: "light", dark: "dark" };
  let theme = "system";
  let front = null;
  let chosen = -1;
  const narrow = () => innerWidth < 560;
  const dark = () => theme === "dark" || (theme === "system" && system.matches);

  function style() {
    const text = dark() ? "#e4e8ec" : "#1b1f24";
    const line = dark() ? "#343c45" : "#d0d7de";
    const label = { labelColor: text, titleColor: text };
    return {
      background: "transparent",
      axis: { ...label, gridColor: line, domainColor: line, tickColor: line, labelLimit: narrow() ? 180 : 260 },
      legend: {
        ...label, columns: narrow() ? 1 : 4, symbolBaseFillColor: text, symbolBaseStrokeColor: text,
        layout: { bottom: { direction: narrow() ? "vertical" : "horizontal", margin: 6 } },
      },
      text: { color: text },
      font: "system-ui, Liberation Sans, sans-serif",
    };
  }

  function themed(spec) {
    const told = structuredClone(spec);
    const own = style();
    told.config = told.config || {};
    for (const [key, value] of Object.entries(own)) {
      told.config[key] = typeof value === "object" ? { ...told.config[key], ...value } : value;
    }
    // Dragging would stop a finger from scrolling the page.
    const still = (node) => {
      if (Array.isArray(node.params)) node.params = node.params.filter((param) => param.bind !== "scales");
      (node.layer || []).forEach(still);
    };
    if (coarse.matches) still(told);
    return told;
  }

  const points = findPoints(specs.front);
  function findPoints(spec) {
    const found = [];
    const walk = (node) => {
      if (node.data && node.data.name === "points") found.push(node.data.values);
      (node.layer || []).forEach(walk);
    };
    walk(spec);
    return found[0] || [];
  }

  let turns = 0;
  async function draw() {
    const turn = ++turns;
    root.dataset.theme = dark() ? "dark" : "light";
    const options = { actions: false, renderer: "svg", tooltip: { theme: dark() ? "dark" : "light" } };
    for (const [name, spec] of Object.entries(specs)) {
      const place = document.getElementById(name);
      if (!place) continue;
      const drawn = await vegaEmbed(place, themed(spec), options);
      if (name === "front") {
        front = drawn.view;
        front.addEventListener("click", (_, item) => {
          if (item && item.datum && item.datum.row !== undefined) pick(item.datum.row, true);
        });
        filter();
        if (chosen >= 0) front.signal("picked", chosen).run();
      }
      if (turn !== turns) return;
    }
    root.dataset.drawn = "yes";
  }

  const rows = new Map([...document.querySelectorAll("#points tbody tr")].map((tr) => [Number(tr.dataset.row), tr]));

  function pick(row, scroll) {
    for (const tr of rows.values()) tr.classList.toggle("picked", Number(tr.dataset.row) === row);
    const tr = rows.get(row);
    if (!tr) return;
    const radio = tr.querySelector("input");
    radio.checked = true;
    const heads = [...document.querySelectorAll("#points thead th")].slice(2).map((th) => th.textContent);
    const cells = [...tr.querySelectorAll("td.number")].map((td) => td.textContent);
    const told = heads.map((head, i) => `${cells[i]} ${head}`).join("; ");
    document.getElementById("picked").textContent = `Row ${row}: ${tr.cells[1].textContent}: ${told}`;
    if (scroll) {
      const box = tr.closest(".scroll");
      box.scrollTop = tr.offsetTop - box.clientHeight / 2;
    }
    chosen = row;
    if (front) front.signal("picked", row).run();
  }

  const text = (value) =>
    value === null || value === undefined ? "own" : value === true ? "on" : value === false ? "off" : typeof value === "number" ? value.toLocaleString("en-US") : value;

  function filter() {
    const wanted = [...document.querySelectorAll("#filters select")].filter((one) => one.value);
    const kept = points.filter((point) => wanted.every((one) => text(point[one.dataset.axis]) === one.value));
    const left = new Set(kept.map((point) => point.row));
    for (const [row, tr] of rows) tr.hidden = !left.has(row);
    const count = document.getElementById("count");
    const none = kept.length ? "" : ": choose other values, or All";
    count.textContent = `${kept.length} of ${count.dataset.total} configurations shown${none}`;
    document.getElementById("front").style.visibility = kept.length ? "visible" : "hidden";
    if (front && kept.length) front.data("points", kept).run();
  }

  function sort(button) {
    const th = button.closest("th");
    const rising = th.getAttribute("aria-sort") !== "ascending";
    document.querySelectorAll("#points thead th").forEach((one) => one.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const at = Number(button.dataset.column);
    const value = (tr) => {
      const told = tr.querySelectorAll("td.number")[at].dataset.value;
      return told === undefined ? (rising ? Infinity : -Infinity) : Number(told);
    };
    const body = document.querySelector("#points tbody");
    [...rows.values()].sort((a, b) => (rising ? 1 : -1) * (value(a) - value(b))).forEach((tr) => body.append(tr));
  }

  document.getElementById("points").addEventListener("change", (event) => pick(Number(event.target.value), false));
  document.getElementById("points").addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (button) sort(button);
    const tr = event.target.closest("tbody tr");
    if (tr && event.target.tagName !== "INPUT" && !event.target.closest("label")) pick(Number(tr.dataset.row), false);
  });
  const form = document.getElementById("filters");
  if (form) {
    form.addEventListener("change", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  document.getElementById("theme").addEventListener("click", (event) => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    event.target.textContent = `Theme: ${words[theme]}`;
    draw();
  });
  system.addEventListener("change", draw);
  let wasNarrow = narrow();
  addEventListener("resize", () => {
    if (narrow() !== wasNarrow) {
      wasNarrow = narrow();
      draw();
    }
  });
  draw();
})();

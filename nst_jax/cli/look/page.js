"use strict";
const run = JSON.parse(document.getElementById("run").textContent);
const root = document.documentElement;
// Keeps what the reader did to the page when it reloads. The browser may refuse to store it.
const store = {
  key: "nst_jax:" + location.pathname,
  read() { try { return JSON.parse(sessionStorage.getItem(this.key)) || {}; } catch { return {}; } },
  write(change) {
    try { sessionStorage.setItem(this.key, JSON.stringify({ ...this.read(), ...change })); } catch {}
  },
};
const kept = store.read();
let held = false;

// Copies the command. `navigator.clipboard` needs a server, and this page is a file.
const copy = document.getElementById("copy");
if (copy) {
  copy.hidden = false;
  copy.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById("command"));
    copy.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  });
}

// The slider between before and after.
for (const box of document.querySelectorAll(".compare:not(.plain)")) {
  const input = box.querySelector("input");
  const show = () => {
    box.style.setProperty("--cut", input.value + "%");
    input.setAttribute("aria-valuetext", Math.round(input.value) + " % before");
  };
  const point = (event) => {
    const { left, width } = box.getBoundingClientRect();
    input.value = Math.max(0, Math.min(100, (100 * (event.clientX - left)) / width));
    show();
  };
  input.value = (kept.cuts || {})[input.id] ?? 50;
  show();
  input.addEventListener("input", show);
  input.addEventListener("change", () => keepCuts());
  box.addEventListener("pointerdown", (event) => {
    held = true;
    box.setPointerCapture(event.pointerId);
    point(event);
    input.focus({ preventScroll: true, focusVisible: false });
    event.preventDefault();
  });
  box.addEventListener("pointermove", (event) => { if (box.hasPointerCapture(event.pointerId)) point(event); });
  for (const end of ["pointerup", "pointercancel"]) {
    box.addEventListener(end, () => { held = false; keepCuts(); });
  }
}
function keepCuts() {
  const inputs = [...document.querySelectorAll(".compare input")];
  store.write({ cuts: Object.fromEntries(inputs.map((input) => [input.id, input.value])) });
}

// Shows the values under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const said = chart.querySelector("output");
  const { left, right, last, output } = svg.dataset;
  const metrics = run.outputs[output].metrics;
  const number = (value) => (value === null ? "not finite" : Number(value.toPrecision(4)).toString());
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const wanted = ((x - left) / (right - left)) * last;
    let nearest = 0;
    metrics.step.forEach((step, index) => {
      if (Math.abs(step - wanted) < Math.abs(metrics.step[nearest] - wanted)) nearest = index;
    });
    const at = Number(left) + (metrics.step[nearest] / last) * (right - left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.style.visibility = "visible";
    const terms = Object.keys(metrics).filter((name) => name !== "step" && metrics[name][nearest] !== 0);
    said.textContent = "step " + metrics.step[nearest] + ": " + terms
      .map((name) => name.replace("_", " ") + " " + number(metrics[name][nearest])).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    said.textContent = "";
  });
}

for (const details of document.querySelectorAll("details")) {
  details.open = (kept.open || {})[details.id] ?? details.open;
  details.addEventListener("toggle", () => {
    store.write({ open: { ...store.read().open, [details.id]: details.open } });
  });
}

// While the run continues, the page reloads its file, but not while the reader drags a slider.
if (run.state === "running") {
  const button = document.getElementById("pause");
  let paused = Boolean(kept.paused);
  const label = () => { button.textContent = paused ? "Resume updates" : "Pause updates"; };
  label();
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    store.write({ paused });
    label();
  });
  const silent = Date.now() / 1000 - run.written;
  if (silent > Math.max(120, 20 * run.refresh)) {
    document.getElementById("silence").textContent =
      "no news for " + Math.round(silent / 60) + " minutes: the run may have ended";
  }
  setInterval(() => { if (!paused && !held && !document.hidden) location.reload(); }, 1000 * run.refresh);
} else {
  store.write({ paused: false });
}
root.classList.add("ready");

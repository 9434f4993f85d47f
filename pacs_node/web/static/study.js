// The page of one study: its viewer with the controls, the labels, and parts that refresh themselves.

import { KEYS } from "./gestures.js";
import { Viewer } from "./viewer.js";

const root = document.querySelector("#viewer");
if (root) start(root);
renewal();

function start(root) {
  const viewer = new Viewer(root);
  const find = (name) => root.querySelector(`[data-${name}]`);
  const strip = root.querySelector(".strip");
  let known = "";

  async function list() {
    const answer = await fetch(root.dataset.images, { headers: known ? { "X-Renewal": "1" } : {} });
    if (!answer.ok) return;
    const text = await answer.text();
    if (text === known) return;
    known = text;
    const images = JSON.parse(text);
    strip.replaceChildren(...images.map((image, index) => thumbnail(image, () => viewer.show(index))));
    strip.hidden = images.length < 2;
    await viewer.open(images);
  }

  viewer.addEventListener("shown", () => {
    const { image, picture, index } = viewer;
    [...strip.querySelectorAll("button")].forEach((one, i) => one.setAttribute("aria-current", String(i === index)));
    find("name").textContent = `${image.name}: ${image.verdict.split(": ")[0]}`;
    find("marker").textContent = image.marker;
    find("text").textContent = picture?.error ?? image.text;
    find("trouble").textContent = picture ? picture.error ?? "" : "Loading the image …";
    find("opacity").disabled = !image.heat;
  });
  viewer.addEventListener("changed", () => {
    const percent = (value) => `${Math.round(100 * value)} %`;
    find("state").textContent = `zoom ${percent(viewer.scale)}, window ${percent(viewer.width)}, level ${percent(viewer.level)}`;
    find("opacity").value = Math.round(100 * viewer.opacity);
    find("width").value = Math.round(100 * viewer.width);
    find("level").value = Math.round(100 * viewer.level);
    find("outlines").checked = viewer.outlines;
    root.querySelectorAll("[data-mode]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.mode === viewer.mode)));
  });

  find("opacity").addEventListener("input", (event) => viewer.setOpacity(event.target.value / 100));
  find("width").addEventListener("input", (event) => viewer.window(event.target.value / 100, viewer.level));
  find("level").addEventListener("input", (event) => viewer.window(viewer.width, event.target.value / 100));
  find("outlines").addEventListener("change", () => viewer.toggleOutlines());
  root.querySelectorAll("[data-mode]").forEach((one) => one.addEventListener("click", () => viewer.setMode(one.dataset.mode)));
  root.querySelectorAll("[data-key]").forEach((one) => {
    const [, , deed] = KEYS.find(([key]) => key === one.dataset.key);
    one.addEventListener("click", () => deed(viewer));
  });
  root.querySelector(".keys tbody").replaceChildren(...KEYS.map(([key, purpose]) => {
    const row = document.createElement("tr");
    row.append(cell("td", cell("kbd", key)), cell("td", purpose));
    return row;
  }));
  labels(viewer);
  document.body.addEventListener("htmx:afterSwap", (event) => event.target.id === "record" && list());
  document.body.addEventListener("renew", list);
  list();
}

function thumbnail(image, choose) {
  const button = cell("button", cell("span", image.name), cell("small", image.verdict));
  const picture = new Image();
  [picture.src, picture.alt, picture.loading] = [image.thumbnail, "", "lazy"];
  button.type = "button";
  button.prepend(picture);
  button.addEventListener("click", choose);
  return cell("li", button);
}

function cell(kind, ...inside) {
  const made = document.createElement(kind);
  made.append(...inside);
  return made;
}

/** The form of the labels: its words follow the finding of the target, its region is marked in the viewer. */
function labels(viewer) {
  const form = document.querySelector("#label");
  const target = form.elements.image;
  const place = form.querySelector("[data-place]");

  function relabel() {
    const outcome = target.selectedOptions[0].dataset.outcome;
    form.querySelectorAll("[data-label]").forEach((one) => {
      const agrees = outcome === one.dataset.label ? "Agree: " : "Disagree: ";
      one.textContent = (outcome ? agrees : "") + one.dataset.words;
    });
  }
  function unmark() {
    form.elements.region.value = "";
    place.textContent = "No region is marked.";
  }
  target.addEventListener("change", () => {
    relabel();
    viewer.dropMark();
  });
  form.querySelector("[data-mark]").addEventListener("click", () => {
    viewer.setMode("mark");
    place.textContent = "Draw a rectangle on the image; or press m there, then arrow keys and Enter.";
    viewer.canvas.focus();
    viewer.canvas.scrollIntoView({ block: "nearest" });
  });
  form.querySelector("[data-unmark]").addEventListener("click", () => viewer.dropMark());
  viewer.addEventListener("marked", () => {
    viewer.setMode("move");
    if (!viewer.mark) return unmark();
    const [[left, top], , [right, bottom]] = viewer.mark;
    target.value = viewer.image.uid;
    relabel();
    form.elements.region.value = JSON.stringify(viewer.mark);
    place.textContent = `${viewer.image.name}: columns ${left} to ${right}, rows ${top} to ${bottom}`;
  });
  viewer.addEventListener("shown", () => viewer.mark || unmark());
  document.body.addEventListener("renew", () => {
    form.reset();
    relabel();
    viewer.dropMark();
  });
}

/** Parts that refresh themselves are left alone if nothing changed, and keep opened details open. */
function renewal() {
  const seen = new Map();
  let open = [];
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const { target, serverResponse } = event.detail;
    if (!target.hasAttribute("data-renews")) return;
    if (seen.get(target.id) === serverResponse) event.detail.shouldSwap = false;
    seen.set(target.id, serverResponse);
    open = [...target.querySelectorAll("details[open]")].map((one) => one.id);
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (!event.target.hasAttribute("data-renews")) return;
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  });
  document.body.addEventListener("htmx:responseError", (event) => {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    const message = page.querySelector("main p")?.textContent ?? "The node gave no valid answer.";
    document.querySelector("#message").replaceChildren(cell("p", message));
  });
}

// The viewer of a study's radiographs: as stored, never turned, mirrored or inverted.
// Places are DICOM's: source pixels, the corner of the first one at (0, 0) and its centre at (0.5, 0.5).

import { listen } from "./gestures.js";

const LEVELS = 4095;
const DEEPEST = 32;
const REGION = "#ffffff", MARK = "#5ef2a0", GROUND = "#000000";

export class Viewer extends EventTarget {
  /** `root` holds the canvas and the controls. Says "shown" (an image), "marked" (a place) and "changed". */
  constructor(root) {
    super();
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.base = document.createElement("canvas");
    this.images = [];
    this.loaded = new Map();
    [this.index, this.scale, this.x, this.y, this.fitted] = [-1, 1, 0, 0, true];
    [this.width, this.level, this.opacity, this.outlines, this.mode] = [1, 0.5, 1, true, "move"];
    this.mark = null;
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    listen(this);
  }

  /** Take a list of images, as the server gives it; the one that was shown stays in view. */
  open(images) {
    const before = this.image?.uid;
    this.images = images;
    this.index = -1;
    return this.show(Math.max(0, images.findIndex((one) => one.uid === before)), before !== undefined);
  }

  get image() {
    return this.images[this.index];
  }

  /** Show an image by its place in the list. */
  async show(index, again = false) {
    if (index < 0 || index >= this.images.length || index === this.index) return;
    this.index = index;
    const image = this.image;
    this.canvas.dataset.shown = "";
    if (!again) [this.width, this.level, this.mark, this.fitted] = [1, 0.5, null, true];
    this.picture = null;
    this.draw();
    this.say("shown");
    const picture = await this.load(image);
    if (this.image !== image) return;
    this.picture = picture;
    this.develop();
    if (this.fitted) this.fit();
    this.canvas.dataset.shown = image.uid;
    this.draw();
    this.say("shown");
  }

  /** The pixels of an image and its heat map; fetched once while the page is open. */
  async load(image) {
    const key = `${image.pixels} ${image.heat}`;
    if (!this.loaded.has(key)) this.loaded.set(key, this.fetch(image).catch((error) => ({ error: error.message })));
    const picture = await this.loaded.get(key);
    if (picture.error) this.loaded.delete(key);
    return picture;
  }

  async fetch(image) {
    const [pixels, heat] = await Promise.all([fetch(image.pixels), image.heat ? fetch(image.heat) : null]);
    if (!pixels.ok) {
      const text = pixels.headers.get("Content-Type").startsWith("text/plain") ? await pixels.text() : "";
      throw new Error(`This image cannot be shown: ${text || (pixels.status === 401 ? "log in again" : pixels.status)}`);
    }
    const values = new Uint16Array(await pixels.arrayBuffer());
    if (values.length !== image.width * image.height) throw new Error("This image came incompletely. Reload the page.");
    return { values, heat: heat?.ok ? await createImageBitmap(await heat.blob()) : null };
  }

  /** Map the image's values by window and level to the grey of the screen. */
  develop() {
    if (!this.picture?.values) return;
    const { width, height } = this.image;
    const low = this.level - this.width / 2;
    const greys = Uint8ClampedArray.from({ length: LEVELS + 1 }, (_, v) => (255 * (v / LEVELS - low)) / this.width);
    const data = new ImageData(width, height);
    const out = new Uint32Array(data.data.buffer);
    const { values } = this.picture;
    for (let i = 0; i < values.length; i++) out[i] = 0xff000000 | (greys[values[i]] * 0x010101);
    [this.base.width, this.base.height] = [width, height];
    this.base.getContext("2d").putImageData(data, 0, 0);
  }

  /** Draw when the screen is next drawn. */
  draw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      this.paint();
      this.say("changed");
    });
  }

  paint() {
    const { context, canvas, image } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = GROUND;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.picture?.values) return;
    const box = [this.x, this.y, image.width * this.scale, image.height * this.scale];
    context.imageSmoothingEnabled = this.scale !== 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.base, ...box);
    if (this.picture.heat && this.opacity > 0) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = this.opacity;
      context.drawImage(this.picture.heat, ...box);
      context.globalAlpha = 1;
    }
    if (this.outlines) {
      image.regions.forEach((one, i) => this.outline(one.points, REGION, `${i + 1}: peak ${one.text}`));
      image.marks.forEach((one) => this.outline(one.points, MARK, one.text));
    }
    if (this.mark) this.outline(this.mark, MARK, "", [8, 6]);
  }

  outline(points, colour, text, dashes = []) {
    const { context } = this;
    const dots = devicePixelRatio;
    const path = new Path2D();
    const corners = points.map((point) => this.toScreen(point));
    corners.forEach(([x, y]) => path.lineTo(x, y));
    path.closePath();
    for (const [style, wide] of [[GROUND, 4], [colour, 1.6]]) {
      context.strokeStyle = style;
      context.lineWidth = wide * dots;
      context.setLineDash(style === GROUND ? [] : dashes.map((one) => one * dots));
      context.stroke(path);
    }
    context.setLineDash([]);
    if (!text) return;
    const [left, top] = [Math.min(...corners.map(([x]) => x)), Math.min(...corners.map(([, y]) => y))];
    context.font = `${13 * dots}px system-ui, sans-serif`;
    context.lineWidth = 3 * dots;
    context.strokeStyle = GROUND;
    context.strokeText(text, left, top - 6 * dots);
    context.fillStyle = colour;
    context.fillText(text, left, top - 6 * dots);
  }

  /** Source pixels to pixels of the canvas, and back. */
  toScreen([column, row]) {
    const { width, height, columns, rows } = this.image;
    return [this.x + (column * width * this.scale) / columns, this.y + (row * height * this.scale) / rows];
  }

  toSource([x, y]) {
    const { width, height, columns, rows } = this.image;
    const [column, row] = [((x - this.x) * columns) / (width * this.scale), ((y - this.y) * rows) / (height * this.scale)];
    return [Math.min(Math.max(column, 0), columns), Math.min(Math.max(row, 0), rows)];
  }

  fit() {
    if (!this.image) return;
    this.fitted = true;
    const { width, height } = this.image;
    this.scale = Math.min(this.canvas.width / width, this.canvas.height / height);
    this.x = (this.canvas.width - width * this.scale) / 2;
    this.y = (this.canvas.height - height * this.scale) / 2;
    this.draw();
  }

  actualSize() {
    this.zoom(1 / this.scale);
    // Whole pixels, so that what is seen is what was sent.
    [this.x, this.y] = [Math.round(this.x), Math.round(this.y)];
  }

  /** Zoom about a place of the canvas, else its middle. */
  zoom(factor, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), DEEPEST);
    this.x = at[0] - ((at[0] - this.x) * scale) / this.scale;
    this.y = at[1] - ((at[1] - this.y) * scale) / this.scale;
    [this.scale, this.fitted] = [scale, false];
    this.draw();
  }

  pan(across, down) {
    [this.x, this.y, this.fitted] = [this.x + across, this.y + down, false];
    this.draw();
  }

  window(width, level) {
    this.width = Math.min(Math.max(width, 0.02), 2);
    this.level = Math.min(Math.max(level, 0), 1);
    this.develop();
    this.draw();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  toggleHeat() {
    this.setOpacity(this.opacity ? 0 : 1);
  }

  toggleOutlines() {
    this.outlines = !this.outlines;
    this.draw();
  }

  /** What dragging does: "move", "window" or "mark". */
  setMode(mode) {
    this.mode = mode;
    this.draw();
  }

  /** By keyboard: a rectangle in the middle of what is seen, to be moved and sized. */
  startMark() {
    const { width, height } = this.canvas;
    this.setMark(this.toSource([width * 0.4, height * 0.4]), this.toSource([width * 0.6, height * 0.6]));
  }

  /** A rectangle between two opposite corners in source pixels. */
  setMark([x, y], [u, v]) {
    const [left, right, top, bottom] = [Math.min(x, u), Math.max(x, u), Math.min(y, v), Math.max(y, v)];
    const corners = [[left, top], [right, top], [right, bottom], [left, bottom]];
    this.mark = corners.map((point) => point.map((value) => Math.round(value * 10) / 10));
    this.draw();
  }

  takeMark() {
    if (!this.mark) return;
    const [[left, top], , [right, bottom]] = this.mark;
    if (left === right || top === bottom) return this.dropMark();
    this.say("marked");
  }

  dropMark() {
    this.mark = null;
    this.say("marked");
    this.draw();
  }

  /** An arrow key: moves the view, or the marked place by a hundredth of what is seen; Shift sizes it. */
  nudge(across, down, sizes) {
    if (!this.mark) return this.pan(-across * this.canvas.width * 0.1, -down * this.canvas.height * 0.1);
    const step = Math.min(this.canvas.width, this.canvas.height) / 100;
    const [start, , end] = this.mark.map((point) => this.toScreen(point));
    const moved = [end[0] + across * step, end[1] + down * step];
    const from = sizes ? start : [start[0] + across * step, start[1] + down * step];
    this.setMark(this.toSource(from), this.toSource(moved));
  }

  /** Follow the size of the canvas on the screen. */
  resize() {
    const { canvas } = this;
    const box = canvas.getBoundingClientRect();
    [canvas.width, canvas.height] = [box.width, box.height].map((one) => Math.round(one * devicePixelRatio));
    if (this.fitted) this.fit();
    else this.draw();
  }

  say(what) {
    this.dispatchEvent(new Event(what));
  }
}

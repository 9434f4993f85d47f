// Keys, mouse, pen and touch for a viewer.

const ZOOM = 1.25, STEP = 0.1;

/** The keys while the canvas has the focus: key, description, action. */
export const KEYS = [
  ["+", "Zoom in", (viewer) => viewer.zoom(ZOOM)],
  ["-", "Zoom out", (viewer) => viewer.zoom(1 / ZOOM)],
  ["0", "Whole image", (viewer) => viewer.fit()],
  ["1", "One pixel of the image on one of the screen", (viewer) => viewer.actualSize()],
  ["ArrowLeft", "Move left (or a marked region, with Shift its size)", (viewer, shift) => viewer.nudge(-1, 0, shift)],
  ["ArrowRight", "Move right", (viewer, shift) => viewer.nudge(1, 0, shift)],
  ["ArrowUp", "Move up", (viewer, shift) => viewer.nudge(0, -1, shift)],
  ["ArrowDown", "Move down", (viewer, shift) => viewer.nudge(0, 1, shift)],
  ["c", "More contrast (narrower window)", (viewer) => viewer.window(viewer.width / (1 + STEP), viewer.level)],
  ["v", "Less contrast (wider window)", (viewer) => viewer.window(viewer.width * (1 + STEP), viewer.level)],
  ["b", "Brighter (lower level)", (viewer) => viewer.window(viewer.width, viewer.level - STEP / 2)],
  ["d", "Darker (higher level)", (viewer) => viewer.window(viewer.width, viewer.level + STEP / 2)],
  ["r", "Window as stored", (viewer) => viewer.window(1, 0.5)],
  ["h", "Heat map on or off", (viewer) => viewer.toggleHeat()],
  ["o", "Outlines on or off", (viewer) => viewer.toggleOutlines()],
  ["n", "Next image", (viewer) => viewer.show(viewer.index + 1)],
  ["p", "Previous image", (viewer) => viewer.show(viewer.index - 1)],
  ["m", "Mark a region", (viewer) => viewer.startMark()],
  ["Enter", "Confirm the marked region", (viewer) => viewer.takeMark()],
  ["Escape", "Remove the marked region", (viewer) => viewer.dropMark()],
];

/** Let a viewer's canvas follow its keys and pointers. */
export function listen(viewer) {
  const { canvas } = viewer;
  canvas.addEventListener("keydown", (event) => {
    const key = event.key === "=" ? "+" : event.key;
    const found = KEYS.find(([name]) => name === key || name === key.toLowerCase());
    if (!found || event.ctrlKey || event.altKey || event.metaKey || !viewer.image) return;
    event.preventDefault();
    found[2](viewer, event.shiftKey);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    viewer.zoom(ZOOM ** -Math.sign(event.deltaY), place(canvas, event));
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => viewer.fit());
  follow(viewer);
}

/** One pointer does what the mode says, the right button windows, two fingers zoom. */
function follow(viewer) {
  const { canvas } = viewer;
  const pointers = new Map();
  let deed = "", start = [0, 0];
  canvas.addEventListener("pointerdown", (event) => {
    if (!viewer.image) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(canvas, event));
    deed = event.button === 2 ? "window" : pointers.size > 1 ? "pinch" : viewer.mode;
    start = viewer.toSource(place(canvas, event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(canvas, event);
    const [across, down] = [now[0] - before[0], now[1] - before[1]];
    if (deed === "pinch") {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) viewer.zoom(apart(now, other) / Math.max(apart(before, other), 1), other);
    } else if (deed === "window") {
      const whole = 500 * devicePixelRatio;
      viewer.window(viewer.width + across / whole, viewer.level + down / whole);
    } else if (deed === "mark") {
      viewer.setMark(start, viewer.toSource(now));
    } else {
      viewer.pan(across, down);
    }
    pointers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (pointers.delete(event.pointerId) && deed === "mark") viewer.takeMark();
    });
  }
}

/** Where a pointer is, in pixels of the canvas. */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * devicePixelRatio, (event.clientY - box.top) * devicePixelRatio];
}

function apart([x, y], [u, v]) {
  return Math.hypot(x - u, y - v);
}

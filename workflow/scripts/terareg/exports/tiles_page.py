"""The page that shows exported tiles: one file, no network, beside the folders of tiles."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>terareg</title>
<style>
  html, body { margin: 0; height: 100%; background: #000; color: #ddd;
    font: 14px/1.4 system-ui, sans-serif; }
  canvas { position: fixed; inset: 0; width: 100%; height: 100%; touch-action: none;
    cursor: grab; }
  #bar { position: fixed; left: 0; right: 0; bottom: 0; padding: 8px 12px; display: flex;
    flex-wrap: wrap; gap: 8px 16px; align-items: center; background: rgba(0, 0, 0, .65); }
  #bar input { flex: 1 1 120px; max-width: 480px; }
  #bar button { min-width: 32px; min-height: 32px; background: #333; color: #fff;
    border: 1px solid #666; border-radius: 4px; font-size: 16px; }
</style>
</head>
<body>
<canvas id="view"></canvas>
<div id="bar">
  <strong id="title"></strong>
  <input id="plane" type="range" min="0" value="0" aria-label="plane">
  <span id="name"></span>
  <button id="out" title="zoom out">&minus;</button>
  <button id="in" title="zoom in">+</button>
  <button id="fit" title="whole plane">fit</button>
  <button id="tiles" title="outlines" hidden>outlines</button>
  <span id="state"></span>
</div>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const view = document.getElementById("view"), context = view.getContext("2d");
const slider = document.getElementById("plane");
const top_level = Math.ceil(Math.log2(Math.max(data.width, data.height, 1)));
const finest_um = Math.min(data.spacing_um[0], data.spacing_um[1]);
// size of the plane in units of its finest pixel side, so that pixels need not be square
const stretch = data.spacing_um.map(s => s / finest_um);
const extent = [data.width * stretch[0], data.height * stretch[1]];
const opposite = {R: "L", L: "R", A: "P", P: "A", S: "I", I: "S"};
const tiles = new Map();
let plane = Math.floor(data.planes.length / 2), scale = 1, left = 0, upper = 0, waiting = 0;
let outlined = false;

document.title = data.title;
document.getElementById("title").textContent = data.title;
slider.max = data.planes.length - 1;
slider.value = plane;
slider.hidden = data.planes.length < 2;

function tile(level, column, row) {
  const key = data.planes[plane] + "_files/" + level + "/" + column + "_" + row + ".jpg";
  let found = tiles.get(key);
  if (!found) {
    found = new Image();
    waiting += 1;
    const done = () => { waiting -= 1; draw(); };
    found.onload = done;
    found.onerror = () => { found.missing = true; done(); };
    found.src = key;
    tiles.set(key, found);
    if (tiles.size > 2000) tiles.delete(tiles.keys().next().value);
  }
  return found;
}

// height of the view above the bar
function height() { return view.height - document.getElementById("bar").offsetHeight; }

function fit() {
  scale = Math.min(view.width / extent[0], height() / extent[1]) * 0.95;
  left = (view.width - extent[0] * scale) / 2;
  upper = (height() - extent[1] * scale) / 2;
  draw();
}

function paint(level) {
  const factor = 2 ** (top_level - level), side = data.tile * factor;
  const wide = Math.ceil(data.width / factor), high = Math.ceil(data.height / factor);
  const across = side * stretch[0] * scale, down = side * stretch[1] * scale;
  const first = [Math.max(0, Math.floor(-left / across)), Math.max(0, Math.floor(-upper / down))];
  const last = [
    Math.min(Math.ceil(wide / data.tile), Math.ceil((view.width - left) / across)),
    Math.min(Math.ceil(high / data.tile), Math.ceil((view.height - upper) / down))];
  let missing = 0;
  for (let row = first[1]; row < last[1]; row++) {
    for (let column = first[0]; column < last[0]; column++) {
      const image = tile(level, column, row);
      if (image.missing) { missing += 1; continue; }
      if (!image.complete || !image.naturalWidth) continue;
      const unit = [factor * stretch[0] * scale, factor * stretch[1] * scale];
      context.drawImage(image, left + column * data.tile * unit[0],
        upper + row * data.tile * unit[1],
        image.naturalWidth * unit[0], image.naturalHeight * unit[1]);
    }
  }
  return missing;
}

function write(text, x, y) {
  context.font = "16px system-ui, sans-serif";
  context.textAlign = "center";
  context.lineWidth = 3;
  context.strokeStyle = "#000";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

// outlines of the boxes that the plane goes through; a projection shows all
function outline() {
  const number = /^[zyx](\\d+)$/.exec(data.planes[plane]);
  let shown = 0;
  for (const [name, edges, across] of data.outlines) {
    const middle = number ? Number(number[1]) + 0.5 : null;
    if (number && !(across[0] <= middle && middle < across[1])) continue;
    const x = left + edges[0] * stretch[0] * scale, y = upper + edges[1] * stretch[1] * scale;
    const wide = (edges[2] - edges[0]) * stretch[0] * scale;
    const high = (edges[3] - edges[1]) * stretch[1] * scale;
    shown += 1;
    context.lineWidth = 2;
    context.strokeStyle = "#5cf";
    context.strokeRect(x, y, wide, high);
    context.font = "16px system-ui, sans-serif";
    if (context.measureText(name).width < wide) write(name, x + wide / 2, y + high / 2);
  }
  return shown;
}

function draw() {
  context.fillStyle = "#000";
  context.fillRect(0, 0, view.width, view.height);
  const wanted = top_level + Math.ceil(Math.log2(scale));
  const level = Math.max(0, Math.min(top_level, wanted));
  context.imageSmoothingEnabled = scale < 2;
  // coarser levels first, which show while finer ones are on their way
  let missing = 0;
  for (let n = Math.max(0, level - 3); n <= level; n++) missing = paint(n);
  document.body.dataset.outlines = outlined ? outline() : 0;
  const [column, row] = data.letters;
  write(opposite[column], 20, height() / 2);
  write(column, view.width - 20, height() / 2);
  write(opposite[row], view.width / 2, 24);
  write(row, view.width / 2, height() - 12);
  let bar_um = 10 ** Math.floor(Math.log10(view.width / 4 * finest_um / scale));
  for (const more of [5, 2]) {
    if (bar_um * more * scale / finest_um < view.width / 4) { bar_um *= more; break; }
  }
  const bar = bar_um * scale / finest_um;
  context.fillStyle = "#fff";
  context.fillRect(view.width - 20 - bar, height() - 24, bar, 4);
  write(bar_um >= 1000 ? bar_um / 1000 + " mm" : bar_um + " \\u00b5m",
    view.width - 20 - bar / 2, height() - 32);
  document.getElementById("name").textContent = data.planes[plane];
  const state = document.getElementById("state");
  state.textContent = missing ? missing + " tiles are missing"
    : "black " + data.window[0] + ", white " + data.window[1];
  document.body.dataset.ready = waiting === 0 ? "yes" : "no";
}

function zoom(factor, x, y) {
  const next = Math.min(16, Math.max(1e-4, scale * factor));
  left = x - (x - left) * next / scale;
  upper = y - (y - upper) * next / scale;
  scale = next;
  draw();
}

function resize() {
  view.width = innerWidth;
  view.height = innerHeight;
  fit();
}

let pointers = new Map();
view.addEventListener("pointerdown", e => {
  pointers.set(e.pointerId, [e.clientX, e.clientY]);
  view.setPointerCapture(e.pointerId);
});
view.addEventListener("pointermove", e => {
  const before = pointers.get(e.pointerId);
  if (!before) return;
  const others = [...pointers.entries()].filter(([id]) => id !== e.pointerId);
  if (others.length) {
    const [x, y] = others[0][1];
    const was = Math.hypot(before[0] - x, before[1] - y);
    const is = Math.hypot(e.clientX - x, e.clientY - y);
    if (was > 0) zoom(is / was, x, y);
  } else {
    left += e.clientX - before[0];
    upper += e.clientY - before[1];
    draw();
  }
  pointers.set(e.pointerId, [e.clientX, e.clientY]);
});
for (const name of ["pointerup", "pointercancel"]) {
  view.addEventListener(name, e => pointers.delete(e.pointerId));
}
view.addEventListener("wheel", e => {
  e.preventDefault();
  zoom(2 ** (-e.deltaY / 300), e.clientX, e.clientY);
}, {passive: false});
slider.addEventListener("input", () => { plane = Number(slider.value); draw(); });
document.getElementById("in").onclick = () => zoom(2, view.width / 2, view.height / 2);
document.getElementById("out").onclick = () => zoom(0.5, view.width / 2, view.height / 2);
document.getElementById("fit").onclick = fit;
const button = document.getElementById("tiles");
button.hidden = data.outlines.length === 0;
button.onclick = () => {
  outlined = !outlined;
  button.style.background = outlined ? "#06a" : "";
  draw();
};
addEventListener("keydown", e => {
  const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[e.key];
  if (!step || e.target === slider) return;
  plane = Math.min(data.planes.length - 1, Math.max(0, plane + step));
  slider.value = plane;
  draw();
});
addEventListener("resize", resize);
resize();
</script>
</body>
</html>
"""

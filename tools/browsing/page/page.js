// The page: takes pictures, clips and the camera, hands frames to the worker, draws what comes back.

const by = (id) => document.getElementById(id);
const view = by("view"), opacity = by("opacity"), threshold = by("threshold");
const context = view.getContext("2d");
const MOST_PICTURE = 4096, MOST_CLIP = 1280; // pixels of the longer side; a larger frame is drawn smaller
const MOST_CLIP_LABELS = 640; // a picture's labels have its size, a moving one's may be coarser
const LEAST_VIEW = 960; // pixels of the longer side: small frames are drawn larger, so that boxes and names stay sharp
const LETTER = 12, LINE = 2; // CSS pixels, however large the frame and small the window
const SMOOTH = 0.8; // share of the former value in the times shown

let models = [], tasks = {}; // tasks: name -> its classes and colors
let ready = false, inFlight = null, waiting = null, playing = null, shown = null;
let rate = null, smoothed = {};

function tell(sentence) {
  by("error").textContent = sentence;
  by("error").hidden = !sentence;
}

// ---- the worker

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.onerror = () => {
  by("status").textContent = "";
  tell("This browser cannot run the model: it lacks WebAssembly or module workers; use a newer one.");
};
worker.onmessage = ({ data }) => {
  if (data.kind === "error" && data.of === "open") {
    by("status").textContent = "";
    tell(`The model could not be started (${data.message}).`);
  } else if (data.kind === "error") {
    inFlight = null;
    tell(`The frame could not be computed (${data.message}).`);
  } else if (data.kind === "open") {
    ready = true;
    const { gpu, threads } = data.value;
    const device = gpu ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    by("status").textContent = `Ready: ${Object.keys(tasks).join(" and ")} by ${device}`;
    if (waiting) submit(waiting);
  } else {
    receive(data.value);
  }
};

function submit(frame) {
  waiting = null;
  if (!ready || inFlight) {
    waiting = frame;
    return;
  }
  inFlight = frame;
  const { data, width, height } = frame.image;
  const pixels = data.slice().buffer; // a copy travels; the frame stays for drawing
  worker.postMessage({ kind: "look", pixels, height, width, labelSize: frame.labelSize }, [pixels]);
}

function receive(result) {
  const frame = inFlight;
  inFlight = null;
  if (waiting) return submit(waiting); // another source was opened meanwhile
  if (playing) playing.next(); // the worker computes the next frame while this one is drawn
  const start = performance.now();
  shown = { frame, ...result, layer: result.labels && labelLayer(result.labels, result.labelSize) };
  draw();
  const now = performance.now();
  showTimes({ reading: frame.time, ...result.times, drawing: now - start }, now);
  const { width, height } = frame.image;
  document.dispatchEvent(new CustomEvent("result", { detail: { width, height, ...result } }));
}

// ---- frames in

function fit(width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

const grabber = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function grab(source, width, height, most, mostLabels) {
  const start = performance.now();
  [width, height] = fit(width, height, most);
  [grabber.canvas.width, grabber.canvas.height] = [width, height];
  grabber.drawImage(source, 0, 0, width, height);
  const image = grabber.getImageData(0, 0, width, height);
  submit({ image, labelSize: fit(width, height, mostLabels).reverse(), time: performance.now() - start });
}

function stop() {
  if (playing) {
    playing.ended = true;
    playing.video.pause();
    for (const track of playing.video.srcObject?.getTracks() ?? []) track.stop();
    if (playing.address) URL.revokeObjectURL(playing.address);
  }
  playing = waiting = rate = null;
  smoothed = {};
  by("pause").disabled = true;
  by("pause").textContent = "Pause";
}

async function openFile(file) {
  stop();
  tell("");
  if (file.type.startsWith("video/")) {
    const address = URL.createObjectURL(file);
    return play({ src: address }, address, `${file.name}: is not a clip that this browser can play.`);
  }
  try {
    // Without the conversion of colors: the model was trained on the bytes of files.
    const picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
    grab(picture, picture.width, picture.height, MOST_PICTURE, MOST_PICTURE);
  } catch {
    tell(`${file.name}: is not a picture or clip that this browser can open.`);
  }
}

async function openCamera() {
  stop();
  tell("");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    play({ srcObject: stream }, null, "The camera gives no picture.");
  } catch {
    tell("There is no camera that this page may use.");
  }
}

async function play(source, address, sentence) {
  stop(); // what was opened while the camera was asked for
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, loop: true, ...source });
  let drawn = -1;
  const mine = {
    video, address, ended: false,
    // The newest frame: what comes while the networks compute is passed over.
    next() {
      if (!ready || inFlight || mine.ended || !video.videoWidth || video.currentTime === drawn) return;
      drawn = video.currentTime;
      grab(video, video.videoWidth, video.videoHeight, MOST_CLIP, MOST_CLIP_LABELS);
    },
  };
  playing = mine;
  try {
    await video.play();
  } catch {
    if (!mine.ended) {
      stop();
      tell(sentence);
    }
    return;
  }
  by("pause").disabled = false;
  const turn = () => {
    mine.next();
    if (!mine.ended) requestAnimationFrame(turn);
  };
  turn();
}

// ---- results out

function labelLayer(labels, [height, width]) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const words = new Uint32Array(256), image = new ImageData(width, height);
  const bytes = new Uint8Array(words.buffer);
  tasks.segmentation.colors.forEach((color, label) => bytes.set([...color, 255], 4 * label));
  const pixels = new Uint32Array(image.data.buffer), seen = new Uint8Array(256);
  for (let i = 0; i < labels.length; i++) {
    pixels[i] = words[labels[i]];
    seen[labels[i]] = 1;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, present: [...seen.keys()].filter((label) => seen[label]) };
}

const frameCanvas = document.createElement("canvas"), frameContext = frameCanvas.getContext("2d");

function draw() {
  if (!shown) return;
  const { frame: { image }, layer, boxes } = shown;
  view.hidden = false;
  by("hint").hidden = true;
  by("drop").classList.add("full");
  const scale = Math.max(1, LEAST_VIEW / Math.max(image.width, image.height));
  const [width, height] = [image.width, image.height].map((side) => Math.round(side * scale));
  if (view.width !== width || view.height !== height) [view.width, view.height] = [width, height];
  [frameCanvas.width, frameCanvas.height] = [image.width, image.height];
  frameContext.putImageData(image, 0, 0);
  context.drawImage(frameCanvas, 0, 0, width, height);
  if (layer) {
    context.globalAlpha = Number(opacity.value);
    context.imageSmoothingEnabled = false;
    context.drawImage(layer.canvas, 0, 0, width, height);
    context.globalAlpha = 1;
    context.imageSmoothingEnabled = true;
  }
  const least = Number(threshold.value);
  const kept = (boxes ?? []).filter((found) => found.score >= least);
  const unit = Math.max(width / view.clientWidth, height / view.clientHeight); // of the canvas's pixels in a CSS pixel
  for (const found of kept.toReversed()) drawBox(found, scale, unit); // the best on top
  const taken = [];
  for (const found of kept) drawName(found, scale, unit, taken); // the best have the choice of place
  tellWhatIsSeen(layer?.present ?? [], kept);
}

const css = (color) => `rgb(${color.join(" ")})`;
const readableOn = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue > 128 ? "#000" : "#fff");

function drawBox({ box, label }, scale, unit) {
  const [left, top, right, bottom] = box.map((side) => side * scale);
  const color = tasks.detection.colors[label];
  // A rim, so that the line is seen on an area of its own color.
  for (const [style, line] of [[readableOn(color), LINE + 1.5], [css(color), LINE]]) {
    context.strokeStyle = style;
    context.lineWidth = line * unit;
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

// Above the box, in it or below it, where no other name stands; in a crowd the color alone must do.
function drawName({ box, score, label }, scale, unit, taken) {
  const [left, top, , bottom] = box.map((side) => side * scale);
  const { classes, colors } = tasks.detection;
  const letter = LETTER * unit, text = `${classes[label]} ${score.toFixed(2)}`;
  context.font = `600 ${letter}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + letter * 0.6, high = letter * 1.3;
  const x = Math.max(0, Math.min(left - (LINE / 2) * unit, view.width - wide));
  const free = (y) => y >= 0 && y + high <= view.height
    && taken.every(([x1, y1, wide1]) => x >= x1 + wide1 || x1 >= x + wide || y >= y1 + high || y1 >= y + high);
  const y = [top - high, top, bottom].find(free);
  if (y === undefined) return;
  taken.push([x, y, wide]);
  context.fillStyle = css(colors[label]);
  context.fillRect(x, y, wide, high);
  context.fillStyle = readableOn(colors[label]);
  context.fillText(text, x + letter * 0.3, y + letter);
}

function tellWhatIsSeen(labels, boxes) {
  const counts = new Map();
  for (const { label } of boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  for (const item of by("legend").querySelectorAll("li")) {
    const label = Number(item.dataset.label), count = counts.get(label) ?? 0;
    const boxed = item.dataset.task === "detection";
    item.classList.toggle("absent", boxed ? !count : !labels.includes(label));
    if (boxed) item.lastChild.textContent = count || "";
  }
  const areas = labels.map((label) => tasks.segmentation.classes[label]);
  const things = [...counts].map(([label, count]) => `${count} ${tasks.detection.classes[label]}`);
  view.ariaLabel = `The picture; found: ${[...areas, ...things].join(", ") || "nothing"}`;
}

function showTimes(times, now) {
  const blend = (old, value) => (old === undefined ? value : SMOOTH * old + (1 - SMOOTH) * value);
  for (const [stage, time] of Object.entries(times)) smoothed[stage] = blend(smoothed[stage], time);
  const rows = Object.entries(smoothed).map(([stage, time]) => [stage, `${time.toFixed(time < 10 ? 1 : 0)} ms`]);
  if (playing) {
    rate = { at: now, interval: rate ? blend(rate.interval, now - rate.at) : undefined };
    if (rate.interval) rows.unshift(["frames per second", (1000 / rate.interval).toFixed(1)]);
  }
  by("times").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) row.append(Object.assign(document.createElement(tag), { textContent: text }));
    return row;
  }));
}

function fillLegend() {
  for (const [task, { classes, colors }] of Object.entries(tasks)) {
    const heading = Object.assign(document.createElement("h2"), { textContent: task === "detection" ? "Boxes" : "Labels" });
    const list = document.createElement("ul");
    classes.forEach((name, label) => {
      const item = document.createElement("li"), plate = document.createElement("span");
      Object.assign(item.dataset, { task, label });
      plate.style[task === "detection" ? "borderColor" : "background"] = css(colors[label]);
      plate.className = task;
      item.append(plate, name, document.createElement("b"));
      list.append(item);
    });
    by("legend").append(heading, list);
  }
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = !(part.dataset.of in tasks);
}

// ---- controls

for (const slider of [opacity, threshold]) {
  slider.addEventListener("input", () => {
    slider.nextElementSibling.textContent = Number(slider.value).toFixed(2);
    draw();
  });
}
new ResizeObserver(draw).observe(by("drop"));
by("choose").addEventListener("click", () => by("file").click());
by("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) openFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
by("camera").addEventListener("click", openCamera);
by("pause").addEventListener("click", () => {
  const { video } = playing;
  video.paused ? video.play() : video.pause();
  by("pause").textContent = video.paused ? "Go on" : "Pause";
  rate = null;
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
}

try {
  ({ models } = await (await fetch("models.json")).json());
  for (const model of models) Object.assign(tasks, model.tasks);
  fillLegend();
  worker.postMessage({ kind: "open", models });
} catch {
  by("status").textContent = "";
  tell("models.json could not be read; serve the folder by a web server.");
}

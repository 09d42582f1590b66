// The page: takes pictures, clips and the camera, hands frames to the worker, draws what comes back.

const by = (id) => document.getElementById(id);
const view = by("view"), status = by("status"), opacity = by("opacity"), threshold = by("threshold");
const context = view.getContext("2d");
const MOST_PICTURE = 4096, MOST_CLIP = 1280; // pixels of the longer side; a larger frame is drawn smaller
const SMOOTH = 0.8; // share of the former value in the times shown

let models = [], ready = false, busy = false, running = null, last = null, sent = null, shown = null, speed = null, smoothed = {};

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.onerror = () => fail("This browser cannot run WebAssembly in a worker; use a newer one.");
worker.onmessage = ({ data }) => {
  if (data.kind === "error") {
    if (!ready) status.textContent = "";
    busy = false;
    fail(data.of === "open" ? `The model could not be started (${data.message}).` : `The frame could not be computed (${data.message}).`);
  } else if (data.kind === "open") {
    ready = true;
    const { provider, threads } = data.value;
    const by = provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    status.textContent = `Ready: ${models.map((model) => model.task).join(" and ")} by ${by}`;
    if (last) send();
  } else {
    busy = false;
    show(data.value);
  }
};

function fail(sentence) {
  by("error").textContent = sentence;
  by("error").hidden = !sentence;
}

// ---- frames in

function size(width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height));
  return [Math.max(16, Math.round(width * scale)), Math.max(16, Math.round(height * scale))];
}

const grabber = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function grab(source, width, height, most) {
  const start = performance.now();
  [grabber.canvas.width, grabber.canvas.height] = size(width, height, most);
  grabber.drawImage(source, 0, 0, grabber.canvas.width, grabber.canvas.height);
  last = grabber.getImageData(0, 0, grabber.canvas.width, grabber.canvas.height);
  last.taken = performance.now() - start;
  send();
}

function send() {
  if (!ready || busy) return;
  busy = true;
  sent = last;
  const pixels = last.data.slice().buffer; // a copy travels; the picture stays for drawing
  worker.postMessage({ kind: "look", pixels, width: last.width, height: last.height }, [pixels]);
}

function stop() {
  if (running) {
    running.ended = true;
    running.video.pause();
    for (const track of running.video.srcObject?.getTracks() ?? []) track.stop();
    if (running.address) URL.revokeObjectURL(running.address);
  }
  running = null;
  speed = null;
  smoothed = {};
  by("pause").disabled = true;
  by("pause").textContent = "Pause";
}

async function openFile(file) {
  stop();
  fail("");
  if (file.type.startsWith("video/")) return openClip(file);
  try {
    // Without the conversion of colors: the bytes of the file are what the model was trained on.
    const picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
    grab(picture, picture.width, picture.height, MOST_PICTURE);
  } catch {
    fail(`${file.name}: is not a picture or clip that this browser can open.`);
  }
}

function makeVideo() {
  const video = document.createElement("video");
  video.muted = video.playsInline = video.loop = true;
  return video;
}

async function openClip(file) {
  const video = makeVideo(), address = URL.createObjectURL(file);
  video.src = address;
  await play(video, address, `${file.name}: is not a clip that this browser can play.`);
}

async function openCamera() {
  stop();
  fail("");
  const video = makeVideo();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    return fail("There is no camera that this page may use.");
  }
  await play(video, null, "The camera gives no picture.");
}

async function play(video, address, sentence) {
  const mine = { video, address, ended: false };
  running = mine;
  try {
    await video.play();
  } catch {
    if (!mine.ended) { stop(); fail(sentence); }
    return;
  }
  by("pause").disabled = false;
  let drawn = -1;
  const turn = () => {
    if (mine.ended) return;
    // The newest frame each time: what comes while a network computes is passed over.
    if (ready && !busy && video.currentTime !== drawn && video.videoWidth) {
      drawn = video.currentTime;
      grab(video, video.videoWidth, video.videoHeight, MOST_CLIP);
    }
    requestAnimationFrame(turn);
  };
  turn();
}

// ---- results out

function show(result) {
  if (sent !== last) return send(); // another picture was opened meanwhile
  shown = { ...result, frame: last };
  const start = performance.now();
  draw();
  const now = performance.now();
  tell({ reading: last.taken, ...result.times, drawing: now - start }, now);
  document.dispatchEvent(new CustomEvent("result", { detail: result }));
}

function draw() {
  if (!shown) return;
  const { width, height, frame, labels, boxes } = shown;
  if (view.width !== width || view.height !== height) [view.width, view.height] = [width, height];
  const pixels = new Uint8ClampedArray(frame.data);
  const present = new Set();
  if (labels) {
    const { colors } = models.find((model) => model.task === "segmentation");
    const share = Number(opacity.value), seen = new Uint8Array(256);
    for (let i = 0, at = 0; i < labels.length; i++, at += 4) {
      const color = colors[labels[i]];
      seen[labels[i]] = 1;
      pixels[at] += (color[0] - pixels[at]) * share;
      pixels[at + 1] += (color[1] - pixels[at + 1]) * share;
      pixels[at + 2] += (color[2] - pixels[at + 2]) * share;
    }
    seen.forEach((is, label) => is && present.add(`segmentation ${label}`));
  }
  context.putImageData(new ImageData(pixels, width, height), 0, 0);
  const least = Number(threshold.value);
  const kept = (boxes ?? []).filter((found) => found.score >= least);
  for (const found of kept.toReversed()) drawBox(found); // the best on top
  for (const found of kept) present.add(`detection ${found.label}`);
  for (const item of by("legend").children) item.classList.toggle("absent", !present.has(item.dataset.label));
  view.hidden = false;
  by("hint").hidden = true;
  by("drop").classList.add("full");
}

function drawBox({ box: [left, top, right, bottom], score, label }) {
  const { classes, colors } = models.find((model) => model.task === "detection");
  const [red, green, blue] = colors[label];
  const short = Math.min(view.width, view.height);
  const letter = Math.max(11, short / 36), text = `${classes[label]} ${score.toFixed(2)}`;
  context.strokeStyle = context.fillStyle = `rgb(${red} ${green} ${blue})`;
  context.lineWidth = Math.max(1, short / 250);
  context.strokeRect(left, top, right - left, bottom - top);
  context.font = `${letter}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + letter * 0.5, high = letter * 1.3;
  const x = Math.max(0, Math.min(left, view.width - wide)), y = Math.max(0, top - high);
  context.fillRect(x, y, wide, high);
  context.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 128 ? "#000" : "#fff";
  context.fillText(text, x + letter * 0.25, y + letter);
}

function tell(times, now) {
  for (const [stage, time] of Object.entries(times)) smoothed[stage] = SMOOTH * (smoothed[stage] ?? time) + (1 - SMOOTH) * time;
  const rows = Object.entries(smoothed).map(([stage, time]) => [stage, `${time.toFixed(time < 10 ? 1 : 0)} ms`]);
  if (running) {
    const interval = speed ? SMOOTH * speed.interval + (1 - SMOOTH) * (now - speed.at) : Object.values(times).reduce((sum, time) => sum + time);
    speed = { interval, at: now };
    rows.unshift(["frames per second", (1000 / interval).toFixed(1)]);
  }
  by("times").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) row.append(Object.assign(document.createElement(tag), { textContent: text }));
    return row;
  }));
}

function fillLegend() {
  for (const model of models) {
    model.classes.forEach((name, label) => {
      const item = document.createElement("li"), plate = document.createElement("span");
      item.dataset.label = `${model.task} ${label}`;
      plate.style.background = `rgb(${model.colors[label].join(" ")})`;
      item.append(plate, name);
      by("legend").append(item);
    });
  }
  for (const part of document.querySelectorAll("[data-task]")) part.hidden = !models.some((model) => model.task === part.dataset.task);
}

// ---- controls

for (const slider of [opacity, threshold]) {
  slider.addEventListener("input", () => {
    slider.nextElementSibling.textContent = Number(slider.value).toFixed(2);
    draw();
  });
}
by("choose").addEventListener("click", () => by("file").click());
by("file").addEventListener("change", ({ target }) => { if (target.files[0]) openFile(target.files[0]); target.value = ""; });
by("camera").addEventListener("click", openCamera);
by("pause").addEventListener("click", () => {
  const { video } = running;
  video.paused ? video.play() : video.pause();
  by("pause").textContent = video.paused ? "Go on" : "Pause";
  speed = null;
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
  fillLegend();
  worker.postMessage({ kind: "open", models });
} catch {
  fail("models.json could not be read; serve the folder by a web server.");
}

// Runs the models away from the page's own thread, so that its controls answer while a network computes.

import { networkInput } from "./input.js";
import { cutOut } from "./labels.js";

const MOST_THREADS = 8;
let ort, sessions = [];

async function open(models) {
  const found = "gpu" in navigator ? await navigator.gpu.requestAdapter().catch(() => null) : null;
  const adapter = found?.info?.isFallbackAdapter ? null : found; // one in software is slower than WebAssembly
  ort = await import(`./ort.${adapter ? "webgpu" : "wasm"}.bundle.min.mjs`);
  // More than the processor's cores only wait for each other; threads need a page that the server's headers isolate.
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  // Only errors are told (3): a few operators of each graph always run on the processor.
  const options = { executionProviders: adapter ? ["webgpu", "wasm"] : ["wasm"], logSeverityLevel: 3 };
  for (const model of models) {
    const session = await ort.InferenceSession.create(new URL(model.file, self.location.href).href, options);
    sessions.push({ model, session });
  }
  return { gpu: Boolean(adapter), threads };
}

// A frame, RGBA bytes [height, width, 4] -> what each model finds in it; labels come at `labelSize`, [height, width].
async function look({ pixels, height, width, labelSize }) {
  const frame = new Uint8Array(pixels);
  const result = { labels: null, labelSize, boxes: null, times: { preparation: 0 } };
  for (const { model, session } of sessions) {
    const start = performance.now();
    const { bytes, placed } = networkInput(frame, height, width, model.size, model.resize);
    const inputs = { image: new ort.Tensor("uint8", bytes, [1, ...model.size, 3]) };
    const stretched = model.resize === "stretch"; // else labels come of the whole input, with the frame's border
    if (session.inputNames.includes("frame_size")) {
      inputs.frame_size = new ort.Tensor("int64", BigInt64Array.from(stretched ? labelSize : model.size, BigInt), [2]);
    }
    const prepared = performance.now();
    const found = await session.run(inputs);
    if (found.labels) {
      result.labels = stretched ? found.labels.data.slice() : cutOut(found.labels.data, model.size[1], placed, labelSize);
    }
    if (found.boxes) result.boxes = inFrame(found, placed, height, width, model.resize);
    for (const tensor of [...Object.values(inputs), ...Object.values(found)]) tensor.dispose();
    result.times.preparation += prepared - start;
    result.times[Object.keys(model.tasks).join(" and ")] = performance.now() - prepared;
  }
  return result;
}

// Boxes come in pixels of the input, best first; those with a score of 0 are padding.
function inFrame({ boxes, scores, box_labels }, placed, height, width, how) {
  const across = width / placed.width, down = height / placed.height;
  const kept = [];
  for (let i = 0; i < scores.data.length && scores.data[i] > 0; i++) {
    const [left, top, right, bottom] = boxes.data.subarray(4 * i, 4 * i + 4);
    const box = [(left - placed.left) * across, (top - placed.top) * down, (right - placed.left) * across, (bottom - placed.top) * down];
    const inside = box.map((value, at) => Math.min(Math.max(value, 0), at % 2 ? height : width));
    const shown = how === "stretch" || (inside[2] > inside[0] && inside[3] > inside[1]); // not wholly in the border
    if (shown) kept.push({ box: inside, score: scores.data[i], label: Number(box_labels.data[i]) });
  }
  return kept;
}

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ kind: data.kind, value: data.kind === "open" ? await open(data.models) : await look(data) });
  } catch (error) {
    self.postMessage({ kind: "error", of: data.kind, message: String(error?.message ?? error) });
  }
};

// Runs the models away from the page's own thread, so that its controls answer while a network computes.

let sessions = [];

async function open(models) {
  const adapter = "gpu" in navigator ? await navigator.gpu.requestAdapter().catch(() => null) : null;
  const [script, provider] = adapter ? ["webgpu", "webgpu"] : ["wasm", "wasm"];
  const ort = await import(`./ort.${script}.bundle.min.mjs`);
  // More than the processor's cores only wait for each other; threads need a page isolated by the server's headers.
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  for (const model of models) {
    const session = await ort.InferenceSession.create(new URL(model.file, self.location.href).href, {
      executionProviders: adapter ? ["webgpu", "wasm"] : ["wasm"],
    });
    sessions.push({ model, session });
  }
  self.ort = ort;
  return { provider, threads };
}

async function look({ pixels, width, height }) {
  const image = new self.ort.Tensor("uint8", new Uint8Array(pixels), [height, width, 4]);
  const result = { width, height, times: {} };
  for (const { model, session } of sessions) {
    const start = performance.now();
    const found = await session.run({ image });
    if (model.task === "segmentation") {
      result.labels = found.labels.data.slice();
    } else {
      result.boxes = inFrame(found, model.size, width, height);
    }
    result.times[model.task] = performance.now() - start;
    for (const tensor of Object.values(found)) tensor.dispose();
  }
  return result;
}

// Boxes come in pixels of the network's input, best first; those with a score of 0 are padding.
function inFrame({ boxes, scores, labels }, [inputHeight, inputWidth], width, height) {
  const across = width / inputWidth, down = height / inputHeight;
  const kept = [];
  for (let i = 0; i < scores.data.length && scores.data[i] > 0; i++) {
    const [left, top, right, bottom] = boxes.data.subarray(4 * i, 4 * i + 4);
    kept.push({ box: [left * across, top * down, right * across, bottom * down], score: scores.data[i], label: Number(labels.data[i]) });
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

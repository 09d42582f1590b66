// Labels of a frame from those of an input that it does not fill, as Python makes them with OpenCV.

// The nearest input pixel of each output pixel along one side; of two that are equally near the latter, where OpenCV's
// INTER_NEAREST_EXACT takes either, as it rounds.
function positions(from, to) {
  return Int32Array.from({ length: to }, (_, i) => Math.floor(((2 * i + 1) * from) / (2 * to)));
}

// Labels of an input, rows of `stride` -> those of the part that the frame fills there, at a size of [height, width].
export function cutOut(labels, stride, placed, [height, width]) {
  const out = new Uint8Array(height * width);
  const down = positions(placed.height, height), across = positions(placed.width, width);
  for (let y = 0, i = 0; y < height; y++) {
    const row = (placed.top + down[y]) * stride + placed.left;
    for (let x = 0; x < width; x++) out[i++] = labels[row + across[x]];
  }
  return out;
}

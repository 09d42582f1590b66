// The network's input from a frame, byte for byte as Python makes it with OpenCV.

const ONE = 2048; // weights are whole numbers; two make this
const GREY = 127; // around a letterboxed frame, as `det.data.transforms.FILL`

// Where each output pixel lies along one side: the two source positions and the weight of each.
// OpenCV computes positions in float32, clamps weights at the borders of a row, and only positions at those of a column.
function taps(from, to, acrossRows) {
  const scale = 1 / (to / from);
  const first = new Int32Array(to), second = new Int32Array(to), before = new Int32Array(to), after = new Int32Array(to);
  for (let i = 0; i < to; i++) {
    const position = Math.fround((i + 0.5) * scale - 0.5);
    let at = Math.floor(position), share = Math.fround(position - at);
    if (!acrossRows && (at < 0 || at >= from - 1)) share = 0;
    first[i] = Math.min(Math.max(at, 0), from - 1);
    second[i] = Math.min(Math.max(at + 1, 0), from - 1);
    before[i] = nearest(Math.fround(1 - share) * ONE);
    after[i] = nearest(share * ONE);
  }
  return { first, second, before, after };
}

// Halves go to the even neighbor, as in the processor's rounding and Python's.
function nearest(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}

// RGBA bytes [height, width, 4] -> RGB bytes [toHeight, toWidth, 3], as cv2.resize with INTER_LINEAR: fixed-point,
// rows first, each result cut to 15 bits and then rounded.
export function resize(pixels, height, width, toHeight, toWidth) {
  const out = new Uint8Array(toHeight * toWidth * 3);
  if (height === toHeight && width === toWidth) {
    for (let i = 0, at = 0; i < out.length; i += 3, at += 4) {
      out[i] = pixels[at];
      out[i + 1] = pixels[at + 1];
      out[i + 2] = pixels[at + 2];
    }
    return out;
  }
  const across = taps(width, toWidth, false), down = taps(height, toHeight, true);
  // The two rows in use; neighbors among the output rows share them.
  let held = [-1, -1], rows = [new Int32Array(toWidth * 3), new Int32Array(toWidth * 3)];
  const fill = (row, y) => {
    const start = y * width * 4;
    for (let x = 0, i = 0; x < toWidth; x++) {
      const one = start + across.first[x] * 4, other = start + across.second[x] * 4;
      const before = across.before[x], after = across.after[x];
      row[i++] = (pixels[one] * before + pixels[other] * after) >> 4;
      row[i++] = (pixels[one + 1] * before + pixels[other + 1] * after) >> 4;
      row[i++] = (pixels[one + 2] * before + pixels[other + 2] * after) >> 4;
    }
  };
  for (let y = 0, i = 0; y < toHeight; y++) {
    const above = down.first[y], below = down.second[y];
    if (held[1] === above) [held, rows] = [held.reverse(), rows.reverse()];
    if (held[0] !== above) fill(rows[0], (held[0] = above));
    if (held[1] !== below) fill(rows[1], (held[1] = below));
    const [upper, lower] = rows, before = down.before[y], after = down.after[y];
    for (let x = 0; x < upper.length; x++) out[i++] = (((upper[x] * before) >> 16) + ((lower[x] * after) >> 16) + 2) >> 2;
  }
  return out;
}

// The part of an input of [inputHeight, inputWidth] that a frame fills, in whole pixels, as `det.boxes.place`.
export function place(height, width, [inputHeight, inputWidth], how) {
  if (how === "stretch") return { left: 0, top: 0, width: inputWidth, height: inputHeight };
  const scale = Math.min(inputHeight / height, inputWidth / width);
  const high = Math.max(1, nearest(height * scale)), wide = Math.max(1, nearest(width * scale));
  return { left: Math.floor((inputWidth - wide) / 2), top: Math.floor((inputHeight - high) / 2), width: wide, height: high };
}

// A frame, RGBA bytes [height, width, 4], as the input, RGB bytes [inputHeight, inputWidth, 3], and where it lies there.
export function networkInput(pixels, height, width, size, how) {
  const placed = place(height, width, size, how);
  const resized = resize(pixels, height, width, placed.height, placed.width);
  if (placed.height === size[0] && placed.width === size[1]) return { bytes: resized, placed };
  const bytes = new Uint8Array(size[0] * size[1] * 3).fill(GREY);
  for (let y = 0; y < placed.height; y++) {
    bytes.set(resized.subarray(y * placed.width * 3, (y + 1) * placed.width * 3), ((placed.top + y) * size[1] + placed.left) * 3);
  }
  return { bytes, placed };
}

// The colours of the charts of the library: viridis for amounts, purple to orange around zero.
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];
const PURPLE_ORANGE = [
  [45, 0, 75], [84, 39, 136], [128, 115, 172], [178, 171, 210], [216, 218, 235], [247, 247, 247],
  [254, 224, 182], [253, 184, 99], [224, 130, 20], [179, 88, 6], [127, 59, 8],
];

function ramp(stops, part) {
  const at = Math.min(1, Math.max(0, part)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((start, i) => Math.round(start + (at - low) * (stops[low + 1][i] - start)));
}

// A number's colour as [red, green, blue]; "signed" runs from -limit to limit, "amount" from 0, and
// "rank" from 1, the brightest, by its logarithm.
function colourOf(value, limit, scheme) {
  if (scheme === "signed") return ramp(PURPLE_ORANGE, (value / limit + 1) / 2);
  if (scheme === "rank") return ramp(VIRIDIS, 1 - Math.log(value) / Math.log(Math.max(2, limit)));
  return ramp(VIRIDIS, value / limit);
}

// The number at a part, from 0 to 1, of the colours.
function numberAt(part, limit, scheme) {
  if (scheme === "signed") return (2 * part - 1) * limit;
  return scheme === "rank" ? Math.max(2, limit) ** part : part * limit;
}

function css([red, green, blue]) {
  return `rgb(${red},${green},${blue})`;
}

function readableOn([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111" : "#fff";
}

function floats(base64) {
  return new Float32Array(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

// Numbers as people read them: four significant digits, no "e" where it can be avoided.
function shown(value) {
  if (Number.isNaN(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.0001) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

function themed(element, name, fallback) {
  return getComputedStyle(element).getPropertyValue(name).trim() || fallback;
}

// A canvas of this size in the page's pixels, sharp on every screen.
function prepared(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

// What both pictures do: draw at every size, follow the pointer and the arrow keys, and send a pick.
// A subclass has places(): rows and columns; placeAt(event); describe(place); and draw().
class Picture {
  constructor(parent) {
    this.root = parent.querySelector(".picture");
    this.canvas = this.root.querySelector("canvas");
    this.tip = this.root.querySelector(".tip");
    this.spoken = this.root.querySelector(".spoken");
    this.cursor = null;
    this.canvas.onmousemove = (event) => this.point(this.placeAt(event), event);
    this.canvas.onmouseleave = () => this.point(null);
    this.canvas.onclick = (event) => this.pick(this.placeAt(event));
    this.canvas.onkeydown = (event) => this.key(event);
    this.canvas.onblur = () => this.point(null);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
  }

  show(data, send) {
    this.data = data;
    this.send = send;
    // Whoever walks with the keys goes on from where they are.
    const walking = this.canvas.getRootNode().activeElement === this.canvas;
    const limits = this.places();
    if (!walking || this.cursor?.some((at, i) => at >= limits[i])) this.cursor = null;
    this.tip.hidden = true;
    this.canvas.setAttribute("aria-label", data.label);
    this.canvas.style.cursor = data.pickable ? "pointer" : "default";
  }

  font(size = 12) {
    return `${size}px ${themed(this.root, "--st-font", "sans-serif")}`;
  }

  point(place) {
    this.cursor = place;
    this.draw();
  }

  pick(place) {
    if (place && this.data.pickable) this.send("picked", place);
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step) {
      event.preventDefault();
      const limits = this.places();
      const from = this.cursor || this.data.marked;
      const to = from
        ? from.map((at, i) => Math.min(limits[i] - 1, Math.max(0, at + step[i])))
        : [0, 0];
      this.point(to);
      this.spoken.textContent = this.describe(to);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.pick(this.cursor);
    } else if (event.key === "Escape") {
      this.point(null);
    }
  }
}

// Streamlit calls a component's function again for new data; the picture stays.
function kept(pictures, Kind, { data, parentElement, setTriggerValue }) {
  if (!pictures.has(parentElement)) pictures.set(parentElement, new Kind(parentElement));
  const picture = pictures.get(parentElement);
  picture.show(data, setTriggerValue);
  return () => {
    picture.observer.disconnect();
    pictures.delete(parentElement);
  };
}

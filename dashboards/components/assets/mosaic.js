// A thumbnail of every head's pattern; the head under the pointer is shown large beside them.
const LABEL = 30;
const SPACE = 4;
const LARGE = 260;
const mosaics = new WeakMap();

export default function (component) {
  return kept(mosaics, Mosaic, component);
}

class Mosaic extends Picture {
  show(data, send) {
    super.show(data, send);
    this.pictures = this.painted(bytes(data.weights));
    this.draw();
  }

  places() {
    return [this.data.n_layers, this.data.n_heads];
  }

  // One small canvas for each head, a pixel for each weight.
  painted(weights) {
    const { n_layers, n_heads, size, log } = this.data;
    const colours = Array.from({ length: 256 }, (_, level) => {
      const part = level / 255;
      return ramp(VIRIDIS, log ? Math.max(0, 1 + Math.log10(Math.max(part, 1e-9)) / 2.4) : part);
    });
    const area = size * size;
    return Array.from({ length: n_layers * n_heads }, (_, head) => {
      const picture = document.createElement("canvas");
      picture.width = picture.height = size;
      const context = picture.getContext("2d");
      const image = context.createImageData(size, size);
      for (let i = 0; i < area; i++) {
        image.data.set(colours[weights[head * area + i]], 4 * i);
        image.data[4 * i + 3] = Math.floor(i / size) >= i % size ? 255 : 0;
      }
      context.putImageData(image, 0, 0);
      return picture;
    });
  }

  draw() {
    if (!this.data || !this.root.clientWidth) return;
    const { n_layers, n_heads, marked } = this.data;
    const width = this.root.clientWidth;
    const beside = width > 620;
    const room = width - LABEL - (beside ? LARGE + 24 : 0);
    this.side = Math.max(16, Math.min(96, Math.floor(room / n_heads) - SPACE));
    const grid = LABEL + n_layers * (this.side + SPACE);
    const height = beside ? Math.max(grid, LARGE + 26) : grid + LARGE + 40;
    const context = prepared(this.canvas, width, height);
    context.imageSmoothingEnabled = false;
    context.font = this.font();
    context.fillStyle = themed(this.root, "--st-text-color", "#333");
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let head = 0; head < n_heads; head++)
      context.fillText(`H${head}`, this.x(head) + this.side / 2, LABEL / 2);
    for (let layer = 0; layer < n_layers; layer++) {
      context.fillText(`L${layer}`, LABEL / 2 - 2, this.y(layer) + this.side / 2);
      for (let head = 0; head < n_heads; head++)
        context.drawImage(this.pictures[layer * n_heads + head], this.x(head), this.y(layer),
          this.side, this.side);
    }
    const outline = ([layer, head], colour) => {
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.strokeRect(this.x(head) - 1, this.y(layer) - 1, this.side + 2, this.side + 2);
    };
    if (marked) outline(marked, themed(this.root, "--st-primary-color", "#ff4b4b"));
    if (this.cursor) outline(this.cursor, themed(this.root, "--st-text-color", "#333"));
    const large = this.cursor || marked;
    if (!large) return;
    const [left, top] = beside ? [this.x(n_heads) + 20, 24] : [LABEL, grid + 30];
    context.textAlign = "left";
    context.fillText(`L${large[0]}H${large[1]}`, left, top - 12);
    context.drawImage(this.pictures[large[0] * n_heads + large[1]], left, top, LARGE, LARGE);
  }

  x(head) {
    return LABEL + head * (this.side + SPACE);
  }

  y(layer) {
    return LABEL + layer * (this.side + SPACE);
  }

  placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const head = Math.floor((event.clientX - box.left - LABEL) / (this.side + SPACE));
    const layer = Math.floor((event.clientY - box.top - LABEL) / (this.side + SPACE));
    const inside =
      head >= 0 && layer >= 0 && head < this.data.n_heads && layer < this.data.n_layers;
    return inside ? [layer, head] : null;
  }

  describe([layer, head]) {
    return `layer ${layer}, head ${head}`;
  }
}

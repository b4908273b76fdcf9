// A heat map that is looked at, hovered, clicked, and walked through with the arrow keys.
// Text of a prompt only ever goes to fillText and textContent.
const FONT = 12;
const GAP = 6;
const SLANT = Math.PI / 3;
const grids = new WeakMap();

export default function (component) {
  return kept(grids, Grid, component);
}

class Grid extends Picture {
  show(data, send) {
    super.show(data, send);
    this.values = floats(data.values);
    this.draw();
  }

  places() {
    return [this.data.rows.length, this.data.columns.length];
  }

  value(row, column) {
    return this.values[row * this.data.columns.length + column];
  }

  layout(context) {
    const { rows, columns, words } = this.data;
    const width = this.root.clientWidth;
    context.font = this.font();
    const widest = (labels) => Math.max(0, ...labels.map((l) => context.measureText(l).width));
    const title = this.data.row_title ? FONT + GAP : 0;
    const left = Math.ceil(title + Math.min(150, widest(rows))) + GAP;
    const slanted = widest(columns) > 22;
    const over = slanted ? Math.ceil(Math.min(150, widest(columns)) * Math.cos(SLANT)) + GAP : 4;
    const largest = this.data.cell;
    const cell = Math.max(2, Math.min(largest, (width - left - over) / columns.length));
    const high = words ? 24 : Math.min(cell, Math.max(largest, 16));
    const top = slanted
      ? Math.ceil(Math.min(150, widest(columns)) * Math.sin(SLANT)) + FONT + GAP
      : FONT + GAP;
    const titled = this.data.column_title ? FONT + GAP : 0;
    Object.assign(this, { left, top: top + titled, titled, cell, high, slanted });
    // Where its cells are, for whoever drives the page from outside.
    Object.assign(this.canvas.dataset, { left, top: top + titled, cell, high });
    return { width, height: this.top + high * rows.length + 34 };
  }

  draw() {
    if (!this.data || !this.root.clientWidth) return;
    const { width, height } = this.layout(this.canvas.getContext("2d"));
    const context = prepared(this.canvas, width, height);
    this.ink = themed(this.root, "--st-text-color", "#333");
    this.accent = themed(this.root, "--st-primary-color", "#ff4b4b");
    this.drawLabels(context);
    this.drawCells(context);
    this.drawMark(context);
    this.drawLegend(context, height);
  }

  drawLabels(context) {
    const { rows, columns, row_title, column_title, marked } = this.data;
    context.font = this.font();
    context.fillStyle = this.ink;
    context.textBaseline = "middle";
    const every = (size) => Math.max(1, Math.ceil((FONT + 1) / size));
    context.textAlign = "right";
    rows.forEach((label, row) => {
      const chosen = marked && marked[0] === row;
      if (row % every(this.high) && !chosen) return;
      context.font = chosen ? `bold ${this.font()}` : this.font();
      context.fillText(this.fitted(context, label), this.left - GAP, this.y(row) + this.high / 2);
    });
    context.textAlign = this.slanted ? "left" : "center";
    columns.forEach((label, column) => {
      const chosen = marked && marked[1] === column;
      if (column % every(this.cell) && !chosen) return;
      context.save();
      context.font = chosen ? `bold ${this.font()}` : this.font();
      context.translate(this.x(column) + this.cell / 2, this.top - GAP);
      if (this.slanted) context.rotate(-SLANT);
      context.fillText(this.fitted(context, label), 0, 0);
      context.restore();
    });
    context.font = this.font();
    context.globalAlpha = 0.7;
    context.textAlign = "left";
    if (column_title) context.fillText(column_title, this.left, FONT / 2 + 1);
    if (row_title) {
      context.save();
      context.translate(FONT / 2 + 1, this.top + (this.high * rows.length) / 2);
      context.rotate(-Math.PI / 2);
      context.textAlign = "center";
      context.fillText(row_title, 0, 0);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  fitted(context, label, room = 150) {
    if (context.measureText(label).width <= room) return label;
    const characters = [...label].slice(0, 60);
    while (characters.length && context.measureText(`${characters.join("")}…`).width > room)
      characters.pop();
    return `${characters.join("")}…`;
  }

  drawCells(context) {
    const { rows, columns, words, limit, scheme } = this.data;
    const line = this.cell > 12 ? 1 : 0;
    context.textAlign = "center";
    rows.forEach((_, row) =>
      columns.forEach((_, column) => {
        const value = this.value(row, column);
        if (Number.isNaN(value)) return;
        const colour = colourOf(value, limit, scheme);
        context.fillStyle = css(colour);
        context.fillRect(this.x(column), this.y(row), this.cell - line, this.high - line);
        if (!words || this.cell < 26) return;
        context.fillStyle = readableOn(colour);
        context.save();
        context.beginPath();
        context.rect(this.x(column), this.y(row), this.cell - line, this.high - line);
        context.clip();
        context.fillText(this.fitted(context, words[row][column], this.cell - 4),
          this.x(column) + this.cell / 2, this.y(row) + this.high / 2);
        context.restore();
      }),
    );
  }

  drawMark(context) {
    const outline = ([row, column], colour, dashes) => {
      context.save();
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.setLineDash(dashes);
      context.strokeRect(this.x(column) - 0.5, this.y(row) - 0.5, this.cell, this.high);
      context.restore();
    };
    const cross = ([row, column]) => {
      const [x, y] = [this.x(column), this.y(row)];
      context.save();
      const colour = colourOf(this.value(row, column), this.data.limit, this.data.scheme);
      context.strokeStyle = readableOn(colour);
      context.beginPath();
      context.moveTo(x + 4, y + 4);
      context.lineTo(x + this.cell - 5, y + this.high - 5);
      context.moveTo(x + this.cell - 5, y + 4);
      context.lineTo(x + 4, y + this.high - 5);
      context.stroke();
      context.restore();
    };
    this.data.chosen.forEach((cell) => {
      cross(cell);
      outline(cell, this.accent, []);
    });
    if (this.data.marked) outline(this.data.marked, this.accent, []);
    if (this.cursor) outline(this.cursor, this.ink, [3, 2]);
  }

  drawLegend(context, height) {
    const { limit, scheme, unit } = this.data;
    const lowest = numberAt(0, limit, scheme);
    const begin = this.left;
    for (let i = 0; i < 100; i++) {
      context.fillStyle = css(colourOf(numberAt(i / 99, limit, scheme), limit, scheme));
      context.fillRect(begin + i, height - 24, 1, 8);
    }
    context.fillStyle = this.ink;
    context.font = this.font(11);
    context.textAlign = "left";
    context.fillText(shown(lowest), begin, height - 8);
    context.textAlign = "right";
    context.fillText(shown(limit), begin + 100, height - 8);
    context.textAlign = "left";
    context.globalAlpha = 0.7;
    context.fillText(unit, begin + 108, height - 20);
    context.globalAlpha = 1;
  }

  x(column) {
    return this.left + column * this.cell;
  }

  y(row) {
    return this.top + row * this.high;
  }

  placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.left) / this.cell);
    const row = Math.floor((event.clientY - box.top - this.top) / this.high);
    const inside =
      row >= 0 && column >= 0 && row < this.data.rows.length && column < this.data.columns.length;
    return inside && !Number.isNaN(this.value(row, column)) ? [row, column] : null;
  }

  describe([row, column]) {
    const { rows, columns, row_title, column_title, words, unit } = this.data;
    const word = words ? `${words[row][column]}  ` : "";
    const place = `${row_title} ${rows[row]}, ${column_title} ${columns[column]}`.trim();
    const chosen = this.data.chosen.some(([r, c]) => r === row && c === column) ? "  chosen" : "";
    return `${place}: ${word}${shown(this.value(row, column))} ${unit}`.trim() + chosen;
  }

  point(cell, event = null) {
    super.point(cell);
    this.tip.hidden = !cell;
    if (!cell) return;
    this.tip.textContent = this.describe(cell);
    const [row, column] = cell;
    const x = event ? event.offsetX : this.x(column) + this.cell;
    const y = event ? event.offsetY : this.y(row) + this.high;
    const room = this.root.clientWidth - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(0, Math.min(x + 12, room))}px`;
    this.tip.style.top = `${y + 14}px`;
  }
}

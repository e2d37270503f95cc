// Draws lines as SVG, in the size of the place where they are shown.

import { el, number } from "./dom.js";

const HEIGHT = 200;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 26 };
const MOST_POINTS = 600; // of a line; more can't be seen

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// `lines` have a name and points [x, y]; `label` says what is shown to who can't see it.
export function drawLines(place, lines, { label, formatX = number, fromZero = false }) {
  const shown = lines.filter((line) => line.points.length);
  const points = shown.flatMap((line) => line.points);
  if (!points.length) return place.replaceChildren(el("p", { class: "quiet" }, "Nothing yet."));
  const width = Math.max(280, place.clientWidth);
  const [lowX, highX] = range(points.map(([x]) => x));
  const [lowY, highY] = range([...points.map(([, y]) => y), ...(fromZero ? [0] : [])]);
  const toX = (x) => MARGIN.left + ((x - lowX) / (highX - lowX)) * (width - MARGIN.left - MARGIN.right);
  const toY = (y) => HEIGHT - MARGIN.bottom - ((y - lowY) / (highY - lowY)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const image = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img" });
  image.append(svg("title", {}, `${label}. ${shown.map(told).join(" ")}`));
  for (const y of [lowY, (lowY + highY) / 2, highY]) {
    image.append(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(y), y2: toY(y) }));
    image.append(svg("text", { x: MARGIN.left - 6, y: toY(y) + 4, "text-anchor": "end" }, digits(y)));
  }
  for (const [x, anchor] of [[lowX, "start"], [highX, "end"]]) {
    image.append(svg("text", { x: toX(x), y: HEIGHT - 8, "text-anchor": anchor }, formatX(x)));
  }
  shown.forEach((line) => {
    const place = `line-${lines.indexOf(line)}`;
    const path = thin(line.points).map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`);
    if (line.points.length === 1 || line.isDotted) {
      for (const each of path) {
        const [cx, cy] = each.split(",");
        image.append(svg("circle", { class: `${place} dot`, cx, cy, r: 3 }));
      }
    }
    image.append(svg("polyline", { class: place, points: path.join(" ") }));
  });
  const names = lines.map((line, index) => el("li", { class: `name-${index}` }, line.name));
  place.replaceChildren(image, el("ul", { class: "names" }, ...names));
}

const told = ({ name, points }) => `${name}: from ${digits(points[0][1])} to ${digits(points.at(-1)[1])}.`;
const digits = (value) => number(value, Math.abs(value) < 10 ? 3 : Math.abs(value) < 100 ? 1 : 0);

// The least and the greatest of some numbers, a little apart where they are equal.
function range(values) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return low === high ? [low, high + (Math.abs(high) || 1) * 0.1] : [low, high];
}

// Means of neighbours in place of more points than can be seen.
function thin(points) {
  const every = Math.ceil(points.length / MOST_POINTS);
  if (every < 2) return points;
  const mean = (part, index) => part.reduce((sum, each) => sum + each[index], 0) / part.length;
  const starts = Array.from({ length: Math.ceil(points.length / every) }, (_, index) => index * every);
  return starts.map((start) => points.slice(start, start + every)).map((part) => [mean(part, 0), mean(part, 1)]);
}

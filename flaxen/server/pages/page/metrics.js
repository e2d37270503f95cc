// Reads a page of Prometheus' text format: the samples by name, whatever stands before its colon.

const SAMPLE = /^([a-zA-Z_]\w*:)?(\w+)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export class Metrics {
  constructor(text) {
    this.samples = new Map(); // a list of { labels, value } by name
    for (const line of text.split("\n")) {
      const found = line.startsWith("#") ? null : SAMPLE.exec(line);
      if (!found) continue;
      const [, , name, inside, value] = found;
      const pairs = [...(inside ?? "").matchAll(LABEL)].map(([, label, text]) => [label, unescape(text)]);
      const sample = { labels: Object.fromEntries(pairs), value: Number(value) };
      this.samples.set(name, [...(this.samples.get(name) ?? []), sample]);
    }
  }

  all(name) {
    return this.samples.get(name) ?? [];
  }

  // The sum over all labels; undefined where there is no sample.
  sum(name) {
    const found = this.all(name);
    return found.length ? found.reduce((sum, { value }) => sum + value, 0) : undefined;
  }

  most(name) {
    const found = this.all(name);
    return found.length ? Math.max(...found.map(({ value }) => value)) : undefined;
  }
}

const unescape = (text) => text.replace(/\\(.)/g, (_, char) => (char === "n" ? "\n" : char));

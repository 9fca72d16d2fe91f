// Making elements. Whatever others wrote gets into the page as text, never as markup.

type Child = Node | string | number | false | null | undefined;
type Props = Record<string, unknown>;

/** Makes an HTML element. `on…` are listeners, `class` its classes, the rest attributes; true sets an empty one. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  setProps(el, props);
  put(el, ...children);
  return el;
}

function setProps(el: Element, props: Props): void {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on") && typeof value === "function") el.addEventListener(name.slice(2), value as EventListener);
    else if (name === "value" || name === "checked") (el as unknown as Props)[name] = value;
    else el.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Appends children; text as text. */
export function put(el: Element, ...children: Child[]): void {
  for (const c of children) if (c !== undefined && c !== null && c !== false) el.append(c instanceof Node ? c : String(c));
}

/** Replaces the text if it is another one: screen readers and selections are left alone otherwise. */
export function text(el: Element, s: string): void {
  if (el.textContent !== s) el.textContent = s;
}

/** Shows or hides. */
export function show(el: HTMLElement, yes: boolean): void {
  if (el.hidden === yes) el.hidden = !yes;
}

const svg = "http://www.w3.org/2000/svg";

/** The drawings of the page, 16 by 16, as strokes. */
const strokes = {
  file: "M4 1.5h5L12.5 5v9.5h-8.5zM9 1.5V5h3.5",
  buffer: "M2.5 4.5h11v7h-11zM5.5 4.5v7M8.5 4.5v7",
  command: "M3 4l4 4-4 4M8.5 12H13",
  send: "M2.5 8h10M8.5 4l4 4-4 4",
  attach: "M13 7.5l-5.2 5.2a3 3 0 0 1-4.3-4.2l5.6-5.6a2 2 0 0 1 2.9 2.8L6.4 11.300a1 1 0 0 1-1.400-1.400L9.800 5",
  close: "M4 4l8 8M12 4l-8 8",
  check: "M3 8.500l3.200 3.200L13 5",
  back: "M10 3L5 8l5 5",
  sun: "M8 5.200a2.800 2.800 0 1 0 0 5.600a2.800 2.800 0 1 0 0-5.600M8 1.500v1.400M8 13.100v1.400M1.500 8h1.400M13.100 8h1.400M3.400 3.400l1 1M11.600 11.600l1 1M12.600 3.400l-1 1M4.400 11.600l-1 1",
  moon: "M13 9.600A5.500 5.500 0 0 1 6.400 3a5.500 5.500 0 1 0 6.600 6.600z",
  auto: "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12M8 2v12M8 5l4.500-.5M8 8h6M8 11l4.500.5",
  out: "M6.500 2.500h-4v11h4M6 8h7.500M10.500 5l3 3-3 3",
  phone: "M5 1.500h6v13H5zM7.200 12.500h1.600",
  cut: "M1.500 8h4M10.500 8h4M7 4.500l2 7",
  restart: "M13 8a5 5 0 1 1-1.600-3.700M13 1.800v3h-3",
  down: "M8 2.500v8M4.500 7.500L8 11l3.500-3.500M3 13.500h10",
  people: "M6 8a2.500 2.500 0 1 0 0-5a2.500 2.500 0 0 0 0 5zM1.500 13.500c0-2.500 2-4 4.500-4s4.500 1.500 4.500 4M10.500 3.200a2.400 2.400 0 0 1 0 4.600M12 9.800c1.600.5 2.500 1.900 2.500 3.700",
  talk: "M2 3h12v8H7l-3 2.500V11H2z",
  list: "M2.500 4h11M2.500 8h11M2.500 12h7",
  plus: "M8 3v10M3 8h10",
  up: "M8 13V4M4.500 7L8 3.500L11.500 7",
  inn: "M8 3v9M4.500 9L8 12.500L11.500 9",
  wait: "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12M8 5v3.500l2 1.500",
} as const;
export type Icon = keyof typeof strokes;

/** A drawing beside words, of which screen readers hear nothing. */
export function icon(name: Icon, cls = ""): SVGSVGElement {
  const el = document.createElementNS(svg, "svg");
  setProps(el, { viewBox: "0 0 16 16", class: `icon ${cls}`, "aria-hidden": "true", focusable: "false" });
  const path = document.createElementNS(svg, "path");
  path.setAttribute("d", strokes[name]);
  el.append(path);
  return el;
}

/** A QR code of rows of 0 and 1, with its quiet zone. */
export function qrCode(rows: readonly string[], label: string): SVGSVGElement {
  const n = rows.length + 8;
  const el = document.createElementNS(svg, "svg");
  setProps(el, { viewBox: `0 0 ${n} ${n}`, class: "qr", role: "img", "aria-label": label, "shape-rendering": "crispEdges" });
  const d = rows.map((row, y) => [...row].map((c, x) => (c === "1" ? `M${x + 4} ${y + 4}h1v1h-1z` : "")).join("")).join("");
  const path = document.createElementNS(svg, "path");
  path.setAttribute("d", d);
  el.append(path);
  return el;
}

/** Keeps a list of elements in step with a list of things, each made once and updated often. */
export function keyedList<T, V extends { el: HTMLElement; update(t: T): void }>(box: HTMLElement, key: (t: T) => string, make: (t: T) => V): (list: readonly T[]) => void {
  let views = new Map<string, V>();
  return (list) => {
    const next = new Map<string, V>();
    let at = box.firstElementChild;
    for (const t of list) {
      const k = key(t);
      const v = views.get(k) ?? make(t);
      next.set(k, v);
      v.update(t);
      if (v.el === at) at = at.nextElementSibling;
      else box.insertBefore(v.el, at);
    }
    for (const [k, v] of views) if (next.get(k) !== v) v.el.remove();
    views = next;
  };
}

// Small parts that several views have.
import { h, icon, text } from "../dom.js";
import { language, setTheme, theme } from "../settings.js";
import { speak, w } from "../words.js";

/** The sign of Dian: one point to another. */
export function mark(): HTMLElement {
  return h("span", { class: "mark", "aria-hidden": "true" }, h("i"), h("i"));
}

/** The switches for language and colours. */
export function switches(redraw: () => void): HTMLElement {
  const next = { auto: "light", light: "dark", dark: "auto" } as const;
  const drawing = { auto: "auto", light: "sun", dark: "moon" } as const;
  const colours = h("button", { type: "button", class: "quiet icon-only", onclick: () => {
    setTheme(next[theme()]);
    drawColours();
  } });
  const drawColours = () => {
    colours.replaceChildren(icon(drawing[theme()]));
    colours.setAttribute("aria-label", w.themes[theme()]);
    colours.title = w.themes[theme()];
  };
  drawColours();
  const other = language() === "zh" ? "en" : "zh";
  const tongue = h("button", { type: "button", class: "quiet", lang: other === "zh" ? "zh-CN" : "en", onclick: () => {
    speak(other);
    redraw();
  } });
  text(tongue, w.otherLanguage);
  return h("span", { class: "switches" }, tongue, colours);
}

/** A dialog that Escape closes and that keeps the focus. */
export function dialog(title: string, ...children: (Node | string)[]): HTMLDialogElement {
  const heading = h("h2", { id: "dialog-title" }, title);
  const d = h("dialog", { "aria-labelledby": "dialog-title" }, heading, ...children,
    h("button", { type: "button", class: "wide", onclick: () => d.close() }, w.close));
  d.addEventListener("close", () => d.remove());
  d.addEventListener("click", (e) => {
    if (e.target === d) d.close();
  });
  document.body.append(d);
  d.showModal();
  return d;
}

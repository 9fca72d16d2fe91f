// Who is there.
import type { App, Person } from "../app.js";
import { h, icon, keyedList, show, text } from "../dom.js";
import { shownName } from "../format.js";
import { w } from "../words.js";
import { dropTarget } from "./drop.js";

export function peopleView(app: App, chosen: () => void): { el: HTMLElement; update(): void } {
  const list = h("ul", { class: "people" });
  const none = h("p", { class: "hint pad" });
  const name = h("input", { id: "add", "aria-label": w.userId, placeholder: w.addPerson, autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: "128" });
  const add = h("form", { class: "add", onsubmit: (e: Event) => {
    e.preventDefault();
    const who = name.value.trim();
    if (who === "") return;
    name.value = "";
    app.addPerson(who);
    chosen();
  } }, name, h("button", { class: "quiet icon-only", "aria-label": w.add, title: w.add }, icon("plus")));
  const el = h("section", { class: "col people-col", "aria-labelledby": "people-title" }, h("h2", { id: "people-title", class: "col-title" }, w.people), list, none, add);

  const update = keyedList<Person, { el: HTMLElement; update(p: Person): void }>(list, (p) => p.name, (p) => {
    const status = h("span", { class: "status" });
    const news = h("span", { class: "news" });
    const button = h("button", { type: "button", class: "person", onclick: () => {
      app.select(p.name);
      chosen();
    } }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "who" }, h("bdi", {}, shownName(p.name)), p.name === app.me && h("small", {}, ` ${w.you}`)), status, news);
    dropTarget(button, () => p.name, app);
    return {
      el: h("li", {}, button),
      update() {
        const now = app.people.get(p.name) ?? p;
        const state = app.line.state === "off" || now.status === undefined ? "unknown" : now.status === 0 ? "offline" : now.status === 2 || now.doNotDisturb !== 0 ? "busy" : "online";
        button.dataset["state"] = state;
        text(status, state === "unknown" ? w.unknownStatus : w[state]);
        const n = app.unread.get(p.name) ?? 0;
        text(news, n > 0 ? String(n) : "");
        show(news, n > 0);
        if (n > 0) news.setAttribute("aria-label", w.unread(n));
        if (app.selected === p.name) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      },
    };
  });

  return {
    el,
    update() {
      const rank = (p: Person) => (p.name === app.me ? 3 : p.status === 1 || p.status === 2 ? 0 : 1);
      const touched = new Set(app.items.map((i) => i.peer));
      const shown = [...app.people.values()].filter((p) => p.name === app.me || p.status !== 0 || touched.has(p.name) || app.selected === p.name);
      update(shown.sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1)));
      text(none, app.mayNotSee ? w.mayNotSee : w.nobodyYet);
      show(none, app.mayNotSee || shown.length <= 1);
    },
  };
}

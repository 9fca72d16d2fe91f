// Everything of this tab, and the toys of dev mode.
import type { App } from "../app.js";
import { cut, invite, restart, traffic } from "../dev.js";
import { h, icon, keyedList, qrCode, show, text, type Icon } from "../dom.js";
import { bytes, timeOfDay } from "../format.js";
import type { Item } from "../item.js";
import { w } from "../words.js";
import { itemView, type ItemView } from "./item.js";
import { dialog } from "./parts.js";

const shownMost = 300;

export function activityView(app: App): { el: HTMLElement; update(): void } {
  const list = h("ol", { class: "activity" });
  const empty = h("p", { class: "hint pad" }, w.activityEmpty);
  const clear = h("button", { type: "button", class: "quiet", onclick: () => app.clear() }, w.clear);
  const rows = keyedList<Item, ItemView>(list, (i) => i.key, (i) => itemView(app, i, true));
  const dev = app.settings.dev ? devView(app) : undefined;
  const el = h("section", { class: "col activity-col", "aria-labelledby": "activity-title" },
    h("header", { class: "col-head" }, h("h2", { id: "activity-title", class: "col-title" }, w.activity), clear),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "activity-title" }, empty, list), dev?.el);
  return {
    el,
    update() {
      const waiting = (i: Item) => (i.phase === "done" ? 1 : 0);
      const all = app.items.slice(-shownMost).reverse();
      rows(all.sort((a, b) => waiting(a) - waiting(b))); // what goes on is at the top
      show(empty, all.length === 0);
      show(clear, app.items.some((i) => i.phase === "done" && i.file === undefined));
      dev?.update();
    },
  };
}

function devView(app: App): { el: HTMLElement; update(): void } {
  const toy = (drawing: Icon, label: string, fn: () => Promise<void>) => h("button", { type: "button", onclick: () => void fn().catch(() => app.notice(w.devFailed)) }, icon(drawing), label);
  const buttons = [
    app.settings.cut && toy("cut", w.cut, async () => app.notice(w.cutDone(await cut(app.token)))),
    app.settings.restart && toy("restart", w.restart, async () => {
      await restart(app.token);
      app.notice(w.restartDone);
    }),
    app.settings.invite && toy("phone", w.invite, async () => {
      const i = await invite(app.token);
      dialog(w.inviteTitle, qrCode(i.qr, w.inviteQR), h("p", { class: "hint" }, w.inviteHint(timeOfDay(i.ends, w.tag))), h("p", { class: "url", tabindex: "0" }, i.url));
    }),
  ];
  const counter = h("p", { class: "counter", title: w.sentTwiceHint });
  return {
    el: h("footer", { class: "dev", role: "group", "aria-label": w.tryItOut }, h("div", { class: "toys" }, ...buttons), counter),
    update: () => text(counter, w.sentTwice(bytes(traffic.twice), bytes(traffic.sent))),
  };
}

// What others offer, with the question whether to take it.
import type { Offer } from "@dian-im/sdk";
import type { App } from "../app.js";
import { h, icon, keyedList, show, text } from "../dom.js";
import { bytes, shownName } from "../format.js";
import { title, type Item } from "../item.js";
import { w } from "../words.js";

type Picker = (o: { suggestedName: string }) => Promise<FileSystemFileHandle>;

export function offersView(app: App): { el: HTMLElement; update(): void } {
  const list = h("ul");
  const heading = h("h2", { id: "offers-title" }, w.offers);
  const el = h("section", { class: "offers", "aria-labelledby": "offers-title", hidden: true }, heading, list);
  const picker = (window as unknown as { showSaveFilePicker?: Picker }).showSaveFilePicker;
  const keeps = typeof navigator.storage?.getDirectory === "function";

  const rows = keyedList<[string, { offer: Offer; item: Item }], { el: HTMLElement; update(): void }>(list, ([key]) => key, ([key, x]) => {
    const o = x.offer;
    const who = shownName(o.source);
    const name = title(x.item);
    const label = (verb: string) => `${verb}: ${name}`;
    const saveTo = async () => {
      try {
        app.accept(key, await picker?.({ suggestedName: o.safeName }));
      } catch {
        // The person has closed the dialog.
      }
    };
    const facts = [bytes(o.size), shownName(o.type), o.received > 0 ? w.partHere(bytes(o.received)) : ""].filter((s) => s !== "").join(" · ");
    return {
      el: h("li", { class: "offer" }, h("span", { class: "kind" }, icon(o.kind)),
        h("div", { class: "what" }, h("p", {}, h("bdi", { class: "who" }, who), " ", h("bdi", { class: "name" }, name)), h("p", { class: "meta" }, facts),
          o.kind === "file" && !keeps && h("p", { class: "meta" }, w.noPlace)),
        h("div", { class: "answers" },
          h("button", { type: "button", class: "main", "aria-label": label(w.accept), onclick: () => app.accept(key) }, w.accept),
          o.kind === "file" && picker !== undefined && h("button", { type: "button", "aria-label": label(w.acceptTo), onclick: () => void saveTo() }, w.acceptTo),
          h("button", { type: "button", "aria-label": w.alwaysFrom(who), title: w.alwaysFrom(who), onclick: () => app.always(o.source, true) }, w.always),
          h("button", { type: "button", class: "no", "aria-label": label(w.refuse), onclick: () => app.refuse(key) }, w.refuse))),
      update() {},
    };
  });
  return {
    el,
    update() {
      rows([...app.offers]);
      show(el, app.offers.size > 0);
      text(heading, app.offers.size > 1 ? w.waitingCount(app.offers.size) : w.offers);
    },
  };
}

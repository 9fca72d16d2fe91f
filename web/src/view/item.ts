// How one thing that was sent or received looks, in the talk and in the list of all.
import type { App } from "../app.js";
import { h, icon, put, show, text } from "../dom.js";
import { bytes, shownName, shownText, timeOfDay } from "../format.js";
import { succeeded, title, words, type Item } from "../item.js";
import { w } from "../words.js";

/** The types that may be shown as pictures: none of them can hold a script (case 115). */
const pictures = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);
const pictureMost = 32 << 20;
const textShown = 4000;

function button(label: string, name: string, onclick: () => void, cls = "") {
  return h("button", { type: "button", class: `small ${cls}`, "aria-label": name, title: name === label ? undefined : name, onclick }, label);
}

/** The media type, where it says something. */
function kindOf(i: Item): string {
  const type = shownName(i.type.split(";")[0] ?? "");
  return type === "application/octet-stream" ? "" : type;
}

export interface ItemView {
  el: HTMLElement;
  update(i: Item): void;
}

/** A view of an item; `withPeer` where it does not go without saying whose it is. */
export function itemView(app: App, i: Item, withPeer: boolean): ItemView {
  return i.kind === "command" && !withPeer ? bubble(i) : card(app, i, withPeer);
}

function time(i: Item) {
  return h("time", { datetime: new Date(i.at).toISOString() }, timeOfDay(i.at, w.tag));
}

/** A command in a talk. */
function bubble(i: Item): ItemView {
  const status = h("span", { class: "status" });
  const again = button(w.tryAgain, w.tryAgain, () => i.again?.());
  const body = h("p", { class: "said", dir: "auto" }, shownText(i.text ?? ""));
  const el = h("li", { class: `bubble ${i.dir}` }, body, h("p", { class: "under" }, time(i), i.dir === "out" && status, again));
  return {
    el,
    update() {
      text(status, words(i, Date.now()));
      el.classList.toggle("failed", i.phase === "done" && !succeeded(i));
      show(again, i.again !== undefined && i.phase === "done");
    },
  };
}

function card(app: App, i: Item, withPeer: boolean): ItemView {
  const name = h("bdi", { class: "name" });
  const meta = h("span", { class: "meta" });
  const status = h(i.kind === "command" ? "span" : "p", { class: "status" });
  const bar = h("progress", { max: 1 });
  const preview = h("div", { class: "preview", hidden: true });
  const peer = withPeer ? h("span", { class: "peer" }, h("bdi", {}, i.dir === "out" ? w.to(shownName(i.peer)) : w.from(shownName(i.peer)))) : undefined;
  const again = button(w.tryAgain, w.tryAgain, () => i.again?.());
  const save = button(w.save, "", () => void app.save(i), "main");
  const remove = button(w.remove, "", () => void app.remove(i));
  const stop = h("button", { type: "button", class: "quiet icon-only", onclick: () => i.stop?.() }, icon("close"));
  const drawing = h("span", { class: "kind" }, icon(i.kind), icon(i.dir === "out" ? "up" : "inn", "arrow"));
  const sub = h("p", { class: "sub" }, peer, meta, time(i), i.kind === "command" && status);
  const actions = h("div", { class: "actions" }, save, again, remove);
  const el = h("li", { class: `card ${i.dir} ${i.kind}` },
    drawing, h("div", { class: "what" }, h("p", { class: "line" }, name), sub), stop,
    h("div", { class: "rest" }, bar, i.kind !== "command" && status, preview, actions));
  let drawn = -1;
  let showing = "";
  return {
    el,
    update() {
      if (i.rev === drawn) return;
      drawn = i.rev;
      const label = title(i);
      text(name, label);
      text(meta, i.kind === "command" ? "" : [bytes(i.size), kindOf(i)].filter((s) => s !== "").join(" · "));
      text(status, words(i, Date.now()));
      const going = i.phase !== "done" && i.phase !== "offered";
      const known = i.size > 0 && (i.moved > 0 || i.phase === "sending" || i.phase === "receiving");
      show(bar, going && i.kind !== "command");
      if (known) bar.value = i.moved / i.size;
      else bar.removeAttribute("value");
      bar.setAttribute("aria-label", w.progressOf(label));
      bar.classList.toggle("still", i.phase === "line" || i.phase === "asking" || i.phase === "queued");
      el.classList.toggle("done", succeeded(i));
      el.classList.toggle("handed", succeeded(i) && i.receipt === "handed");
      el.classList.toggle("failed", i.phase === "done" && !succeeded(i));
      show(stop, going && i.stop !== undefined && i.phase !== "cancelling");
      stop.setAttribute("aria-label", w.cancelOf(label));
      stop.title = w.cancel;
      show(again, i.phase === "done" && i.again !== undefined);
      const kept = i.phase === "done" && i.dir === "in" && (i.file !== undefined || i.blob !== undefined);
      show(save, kept);
      save.setAttribute("aria-label", w.saveOf(label));
      show(remove, kept);
      remove.setAttribute("aria-label", w.removeOf(label));
      show(actions, kept || !again.hidden);
      if (!withPeer) draw();
    },
  };

  /** Shows what can be shown of the content, once. */
  function draw(): void {
    const type = i.type.toLowerCase().split(";")[0] ?? "";
    const picture = pictures.has(type) && i.size > 0 && i.size <= pictureMost && (i.dir === "out" ? i.blob !== undefined : i.phase === "done" && (i.file ?? i.blob) !== undefined);
    const words = i.kind === "buffer" && i.text !== undefined && (i.dir === "out" || i.phase === "done") ? i.text : undefined;
    const want = i.removed ? "" : picture ? "picture" : words !== undefined ? "text" : "";
    if (want === showing) return;
    showing = want;
    preview.replaceChildren();
    show(preview, want !== "");
    if (want === "text" && words !== undefined) put(preview, h("pre", { dir: "auto", tabindex: "0", "aria-label": `${w.preview}: ${title(i)}` }, shownText(words.length > textShown ? `${words.slice(0, textShown)}…` : words)));
    if (want === "picture") void drawPicture(type);
  }

  async function drawPicture(type: string): Promise<void> {
    try {
      const blob = i.file !== undefined ? await i.file.blob() : i.blob;
      if (blob === undefined) return;
      const url = URL.createObjectURL(blob.slice(0, blob.size, type));
      const img = h("img", { alt: `${w.preview}: ${title(i)}`, decoding: "async" });
      const done = () => URL.revokeObjectURL(url);
      img.addEventListener("load", done);
      img.addEventListener("error", () => {
        done();
        show(preview, false);
      });
      img.src = url;
      if (showing === "picture") preview.replaceChildren(img);
    } catch {
      show(preview, false); // it is not here any more
    }
  }
}

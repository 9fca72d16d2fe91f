// What went between us and one other, and the box to send from.
import type { App } from "../app.js";
import { h, icon, keyedList, show, text } from "../dom.js";
import { shownName } from "../format.js";
import type { Item } from "../item.js";
import { w } from "../words.js";
import { dropTarget } from "./drop.js";
import { itemView, type ItemView } from "./item.js";
import { mark } from "./parts.js";

const shownMost = 300;

export function talkView(app: App, back: () => void): { el: HTMLElement; update(): void; focus(): void } {
  let peer: string | undefined;
  let kind: "command" | "buffer" = "command";
  let rows: (list: readonly Item[]) => void = () => {};

  const who = h("h2", { class: "col-title" });
  const status = h("span", { class: "status" });
  const ask = h("button", { type: "button", class: "chip", onclick: () => {
    if (peer !== undefined) app.always(peer, false);
  } });
  const head = h("header", { class: "talk-head" },
    h("button", { type: "button", class: "quiet icon-only back", "aria-label": w.backToPeople, onclick: back }, icon("back")), who, status, ask);
  const earlier = h("p", { class: "hint" });
  const list = h("ol", { class: "talk" });
  const empty = h("div", { class: "empty" }, mark(), h("h3"), h("p"));
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "log", "aria-live": "off" }, empty, earlier, list);

  const box = h("textarea", { id: "message", rows: "1", enterkeyhint: "send", onkeydown: (e: Event) => {
    const key = e as KeyboardEvent;
    if (key.key !== "Enter" || key.shiftKey || key.isComposing) return; // an input method's Enter is its own
    e.preventDefault();
    send();
  }, oninput: () => {
    grow();
    if (peer !== undefined) app.drafts.set(peer, box.value);
  }, onpaste: (e: Event) => {
    const files = [...((e as ClipboardEvent).clipboardData?.files ?? [])];
    if (files.length === 0 || peer === undefined) return;
    e.preventDefault();
    app.sendFiles(peer, files, kind === "buffer");
  } });
  const picker = h("input", { type: "file", multiple: true, id: "picker", class: "sr", tabindex: "-1", "aria-hidden": "true", onchange: () => {
    if (peer !== undefined) app.sendFiles(peer, [...(picker.files ?? [])], kind === "buffer");
    picker.value = "";
  } });
  const attach = h("button", { type: "button", class: "quiet attach", onclick: () => picker.click() }, icon("attach"), h("span", {}, w.files));
  const radio = (value: "command" | "buffer", label: string) => {
    const input = h("input", { type: "radio", name: "as", value, checked: kind === value, onchange: () => {
      kind = value;
    } });
    return h("label", {}, input, h("span", {}, label));
  };
  const as = h("fieldset", { class: "as", title: w.asHint, "aria-describedby": "as-hint" }, h("legend", { class: "sr" }, w.sendAs), radio("command", w.asCommand), radio("buffer", w.asBuffer),
    h("span", { id: "as-hint", class: "sr" }, w.asHint));
  const composer = h("form", { class: "composer", onsubmit: (e: Event) => {
    e.preventDefault();
    send();
  } }, box, h("div", { class: "tools" }, as, attach, picker, h("button", { class: "main", type: "submit" }, icon("send"), h("span", {}, w.send))));
  const veil = h("div", { class: "veil", "aria-hidden": "true" });
  const el = h("section", { class: "col talk-col" }, head, scroll, composer, veil);
  dropTarget(el, () => peer, app, () => kind === "buffer");

  function grow(): void {
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`;
  }

  function send(): void {
    if (peer === undefined || box.value === "") return;
    app.sendText(peer, box.value, kind);
    box.value = "";
    app.drafts.delete(peer);
    grow();
    scroll.scrollTop = scroll.scrollHeight;
  }

  function turn(to: string | undefined): void {
    peer = to;
    list.replaceChildren();
    rows = keyedList<Item, ItemView>(list, (i) => i.key, (i) => itemView(app, i, false));
    box.value = peer === undefined ? "" : (app.drafts.get(peer) ?? "");
    const name = peer === undefined ? "" : shownName(peer);
    text(who, name);
    scroll.setAttribute("aria-label", peer === undefined ? w.choose : w.talkWith(name));
    box.setAttribute("aria-label", w.messageTo(name));
    box.placeholder = w.messageTo(name);
    attach.setAttribute("aria-label", w.pickFiles(name));
    text(veil, peer === undefined ? w.dropNobody : w.dropHere(name));
    text(ask, w.alwaysOn);
    ask.setAttribute("aria-label", `${w.alwaysOn}. ${w.stopAlways(name)}`);
    ask.title = w.stopAlways(name);
    show(composer, peer !== undefined);
    show(head, peer !== undefined);
    text(empty.children[1] as Element, peer === undefined ? w.choose : w.talkEmpty(name));
    text(empty.children[2] as Element, peer === undefined ? w.chooseHint : w.talkEmptyHint);
    queueMicrotask(grow);
  }
  turn(app.selected);

  return {
    el,
    focus: () => box.focus(),
    update() {
      const turned = peer !== app.selected;
      if (turned) turn(app.selected);
      const all = peer === undefined ? [] : app.items.filter((i) => i.peer === peer);
      const atEnd = turned || scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
      const height = scroll.scrollHeight;
      rows(all.slice(-shownMost));
      show(empty, all.length === 0);
      show(earlier, all.length > shownMost);
      text(earlier, w.earlier(all.length - shownMost));
      if (atEnd && (turned || scroll.scrollHeight !== height)) scroll.scrollTop = scroll.scrollHeight;
      if (peer === undefined) return;
      const p = app.people.get(peer);
      const state = app.line.state === "off" || p?.status === undefined ? "unknown" : p.status === 0 ? "offline" : p.status === 2 || p.doNotDisturb !== 0 ? "busy" : "online";
      text(status, state === "unknown" ? "" : w[state]);
      head.dataset["state"] = state;
      show(ask, app.friends.has(peer));
    },
  };
}

// The page of somebody who is signed in: line, offers, people, talk, and what goes on.
import type { App } from "../app.js";
import { h, icon, show, text, type Icon } from "../dom.js";
import { shownName, timeOfDay } from "../format.js";
import { w } from "../words.js";
import { activityView } from "./activity.js";
import { offersView } from "./offers.js";
import { dialog, mark, switches } from "./parts.js";
import { peopleView } from "./people.js";
import { talkView } from "./talk.js";

type View = "people" | "talk" | "activity";

export function shellView(app: App, signIn: () => void, redraw: () => void): { el: HTMLElement; update(): void } {
  let view: View = app.selected === undefined ? "people" : "talk";

  // The line
  const pill = h("span", { class: "pill" });
  const banner = h("div", { class: "banner", hidden: true });
  const bannerText = h("p");
  const bannerButton = h("button", { type: "button" });
  banner.append(bannerText, bannerButton);
  const endsText = h("p");
  const ends = h("div", { class: "banner soft", hidden: true }, endsText, h("button", { type: "button", onclick: askToken }, w.update));

  function askToken(): void {
    const input = h("input", { type: "password", autocomplete: "off", "aria-label": w.newToken });
    const fault = h("p", { class: "fault", role: "alert" });
    const d = dialog(w.newToken, h("form", { onsubmit: (e: Event) => {
      e.preventDefault();
      app.updateToken(input.value.trim()).then(() => d.close(), (err: { code?: number }) => text(fault, w.codes(err.code ?? 1, "")));
    } }, input, fault, h("button", { class: "main wide" }, w.update)));
    input.focus();
  }

  // The parts
  const go = (to: View, focus: boolean) => {
    view = to;
    update();
    if (focus && to === "talk") talk.focus();
  };
  const people = peopleView(app, () => go("talk", true));
  const talk = talkView(app, () => go("people", false));
  const activity = activityView(app);
  const offers = offersView(app);

  const busy = h("button", { type: "button", class: "quiet", "aria-label": w.setBusy, title: w.setBusy, onclick: () => app.setBusy(!app.busy) });
  const tab = (to: View, drawing: Icon, label: string) => h("button", { type: "button", onclick: () => go(to, false) }, icon(drawing), h("span", {}, label));
  const tabs = { people: tab("people", "people", w.people), talk: tab("talk", "talk", w.send), activity: tab("activity", "list", w.activity) };
  const columns = h("main", { class: "columns" }, people.el, talk.el, activity.el);

  const el = h("div", { class: "shell" },
    h("a", { class: "skip", href: "#message", onclick: (e: Event) => {
      e.preventDefault();
      go("talk", true);
    } }, w.skip),
    h("header", { class: "top" },
      h("span", { class: "brand" }, mark(), h("b", {}, "Dian"), h("span", { lang: "zh-CN" }, "点")),
      pill,
      h("span", { class: "space" }),
      h("span", { class: "me" }, h("bdi", {}, shownName(app.me))), busy, switches(redraw),
      h("button", { type: "button", class: "quiet icon-only", "aria-label": w.signOut, title: w.signOut, onclick: () => void app.signOut() }, icon("out"))),
    banner, ends, offers.el, columns,
    h("nav", { class: "tabs", "aria-label": w.views }, tabs.people, tabs.talk, tabs.activity));

  function drawLine(): void {
    const l = app.line;
    pill.dataset["line"] = l.state;
    text(pill, l.state === "up" ? w.up : l.state === "down" ? w.down : l.state === "connecting" ? w.connecting : w.off);
    show(banner, l.state === "down" || l.state === "off");
    banner.classList.toggle("bad", l.state === "off");
    if (l.state === "down") {
      text(bannerText, w.downFor(w.codes(l.code, ""), Math.max(0, Math.ceil((l.next - Date.now()) / 1000)), l.attempt));
      text(bannerButton, w.tryNow);
      bannerButton.onclick = () => app.tryNow();
    } else if (l.state === "off") {
      text(bannerText, l.code === 12 ? w.signedOut : `${w.offBecause(w.codes(l.code, ""))} (${w.results.code(l.code)})`);
      text(bannerButton, w.signInAgain);
      bannerButton.onclick = signIn;
    }
    show(ends, l.state === "up" && app.tokenEnds !== undefined);
    if (app.tokenEnds !== undefined) text(endsText, w.tokenEnds(timeOfDay(app.tokenEnds, w.tag)));
  }

  function update(): void {
    el.dataset["view"] = view;
    drawLine();
    text(busy, app.busy ? w.busy : w.available);
    busy.setAttribute("aria-pressed", String(app.busy));
    people.update();
    talk.update();
    activity.update();
    offers.update();
    for (const [name, b] of Object.entries(tabs)) {
      if (name === view) b.setAttribute("aria-current", "page");
      else b.removeAttribute("aria-current");
    }
    const going = app.items.filter((i) => i.phase !== "done").length;
    tabs.activity.dataset["count"] = going > 0 ? String(going) : "";
    const news = [...app.unread.values()].reduce((a, b) => a + b, 0);
    tabs.people.dataset["count"] = news > 0 ? String(news) : "";
    const count = Math.max(app.offers.size, news);
    document.title = `${count > 0 ? `(${count}) ` : ""}${shownName(app.me)} · Dian`;
  }
  return { el, update };
}

// The way in.
import type { App } from "../app.js";
import { DevError } from "../dev.js";
import { codeOf } from "@dian-im/sdk";
import { h, show, text } from "../dom.js";
import { w } from "../words.js";
import { mark, switches } from "./parts.js";

export function signInView(app: App, invitation: string, done: () => void, redraw: () => void): HTMLElement {
  const how = app.settings.login;
  const byName = how !== "token";
  const fault = h("p", { class: "fault", role: "alert", id: "fault", hidden: true });
  const input = byName
    ? h("input", { id: "who", name: "user", autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: "128", placeholder: w.namePlaceholder, "aria-describedby": "hint fault" })
    : h("input", { id: "who", name: "token", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "hint fault" });
  if (byName && app.me !== "") input.value = app.me;
  const go = h("button", { class: "main wide", type: "submit" }, w.signIn);
  const hint = h("p", { class: "hint", id: "hint" }, how === "token" ? w.tokenHint : how === "name" ? w.nameHint : invitation === "" ? w.needInvitation : w.nameHintRoom);
  const say = (s: string) => {
    text(fault, s);
    show(fault, s !== "");
  };
  async function submit(e: Event): Promise<void> {
    e.preventDefault();
    const value = input.value.trim();
    if (value === "") {
      say(byName ? w.nameEmpty : w.tokenEmpty);
      input.focus();
      return;
    }
    say("");
    go.disabled = true;
    text(go, w.signingIn);
    try {
      if (byName) await app.signInByName(value, invitation);
      else await app.signInByToken(value);
      done();
    } catch (err) {
      const code = err instanceof DevError ? err.code : codeOf(err);
      say(code === 7 && how === "invitation" ? w.invitationUsed : code === 9 ? w.nameTaken : `${w.codes(code, "")} (${w.results.code(code)})`);
      go.disabled = false;
      text(go, w.signIn);
      input.focus();
    }
  }
  const shut = how === "invitation" && invitation === "";
  queueMicrotask(() => input.focus());
  return h("main", { class: "signin" },
    h("div", { class: "corner" }, switches(redraw)),
    h("form", { class: "panel", onsubmit: (e: Event) => void submit(e), novalidate: true },
      h("h1", {}, mark(), "Dian", h("span", { lang: "zh-CN" }, "点")),
      h("p", { class: "tagline" }, w.tagline),
      !shut && h("label", { for: "who" }, byName ? w.yourName : w.token),
      !shut && input,
      hint, fault,
      !shut && go));
}

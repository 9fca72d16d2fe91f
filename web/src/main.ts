// The relay's web page. It begins with what the relay says of itself, and a way in.
import { App } from "./app.js";
import { countTraffic, DevError, pageSettings } from "./dev.js";
import { h } from "./dom.js";
import { language, setTheme, theme } from "./settings.js";
import { shellView } from "./view/shell.js";
import { signInView } from "./view/signin.js";
import { mark, switches } from "./view/parts.js";
import { speak, w } from "./words.js";

interface Policies {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): unknown;
}

// The only script that is ever loaded later is the SDK's worker, from beside this file. With
// this the browser lets nothing else become a script, and no text markup (case 115).
(window as unknown as { trustedTypes?: Policies }).trustedTypes?.createPolicy("default", {
  createScriptURL(url) {
    const u = new URL(url, location.href);
    if (u.origin !== location.origin || !/\/assets\/worker-[\w-]+\.js$/.test(u.pathname)) throw new TypeError("no script of this page");
    return url;
  },
});

setTheme(theme());
speak(language());

// An invitation is used from memory and leaves the address and the history at once (case 118).
const invitation = new URLSearchParams(location.hash.slice(1)).get("in") ?? "";
if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);

const live = h("div", { class: "sr", role: "status", "aria-live": "polite" });
const toast = h("div", { class: "toast", role: "status", hidden: true });
let said = 0;

function announce(text: string): void {
  live.append(h("p", {}, text));
  while (live.childElementCount > 5) live.firstElementChild?.remove();
}

function notice(text: string): void {
  toast.textContent = text;
  toast.hidden = false;
  const n = ++said;
  setTimeout(() => {
    if (n === said) toast.hidden = true;
  }, 5000);
}

function page(el: HTMLElement): void {
  document.body.replaceChildren(el, live, toast);
}

async function start(): Promise<void> {
  try {
    const app = new App(await pageSettings());
    app.announce = announce;
    app.notice = notice;
    if (app.settings.dev) countTraffic(() => app.changed());
    signIn(app);
  } catch (e) {
    if (!(e instanceof DevError)) throw e;
    page(h("main", { class: "signin" }, h("div", { class: "corner" }, switches(() => void start())),
      h("div", { class: "panel" }, h("h1", {}, mark(), "Dian"), h("p", { role: "alert" }, w.relaySilent),
        h("button", { type: "button", class: "main wide", onclick: () => void start() }, w.tryAgain))));
  }
}

function signIn(app: App): void {
  app.draw = () => {};
  document.title = "Dian 点";
  page(signInView(app, invitation, () => shell(app), () => signIn(app)));
}

function shell(app: App): void {
  const view = shellView(app, () => signIn(app), () => shell(app));
  app.draw = () => view.update();
  page(view.el);
  view.update();
}

// A file that misses its target must not replace the page, and with it all that is under way.
for (const event of ["dragover", "drop"]) addEventListener(event, (e) => e.preventDefault());

void start();

// What the relay tells its page before a login, and the toys of dev mode.

export interface PageSettings {
  login: "token" | "name" | "invitation";
  dev: boolean;
  invite: boolean;
  cut: boolean;
  restart: boolean;
}

/** Where the relay is: where the page came from. */
export const relayURL = new URL(".", location.href.split("#")[0]);

/** An answer of the relay that was no. */
export class DevError extends Error {
  readonly code: number;
  constructor(code: number) {
    super(`code ${code}`);
    this.code = code;
  }
}

async function ask(path: string, init: RequestInit): Promise<unknown> {
  let answer: Response;
  try {
    answer = await fetch(new URL(path, relayURL), { cache: "no-store", credentials: "omit", redirect: "error", ...init });
  } catch {
    throw new DevError(203);
  }
  const text = await answer.text();
  let body: unknown;
  try {
    body = text === "" ? {} : JSON.parse(text);
  } catch {
    body = undefined;
  }
  if (answer.ok && body !== undefined) return body;
  const code = (body as { code?: unknown } | undefined)?.code;
  throw new DevError(typeof code === "number" ? code : 202);
}

export async function pageSettings(): Promise<PageSettings> {
  return (await ask("v1/page", {})) as PageSettings;
}

const post = (path: string, token: string, body?: unknown) => ask(path, {
  method: "POST",
  headers: { ...(token === "" ? {} : { Authorization: `Bearer ${token}` }), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
  ...(body === undefined ? {} : { body: JSON.stringify(body) }),
});

/** A token for a name. Errors: DevError 7 the invitation does not count, 9 the name is taken, 1102 it is none, 203. */
export async function devToken(user: string, invitation: string): Promise<string> {
  return ((await post("v1/dev/login", "", { user, invitation })) as { token: string }).token;
}

export async function cut(token: string): Promise<number> {
  return ((await post("v1/dev/cut", token)) as { cut: number }).cut;
}

export async function restart(token: string): Promise<void> {
  await post("v1/dev/restart", token);
}

export interface Invitation {
  url: string;
  ends: number;
  qr: string[];
}

export async function invite(token: string): Promise<Invitation> {
  return (await post("v1/dev/invite", token)) as Invitation;
}

/** What this tab's up-lanes have carried. */
export const traffic = { sent: 0, twice: 0 };
const highest = new Map<string, number>(); // by URL: up to which offset bytes were handed to a connection

/** Counts from now on. A transfer keeps its URL over cuts and restarts. */
export function countTraffic(changed: () => void): void {
  globalThis.XMLHttpRequest = class extends XMLHttpRequest {
    #url = "";
    #from = -1;

    override open(method: string, url: string | URL, ...rest: unknown[]): void {
      this.#url = method === "PATCH" ? String(url) : "";
      (super.open as (...a: unknown[]) => void)(method, url, ...(rest.length === 0 ? [true] : rest));
    }

    override setRequestHeader(name: string, value: string): void {
      if (name.toLowerCase() === "upload-offset") this.#from = Number(value);
      super.setRequestHeader(name, value);
    }

    override send(body?: Document | XMLHttpRequestBodyInit | null): void {
      if (this.#url !== "" && this.#from >= 0) {
        const was = highest.get(this.#url) ?? 0;
        let at = this.#from;
        this.upload.addEventListener("progress", (e) => {
          const to = this.#from + e.loaded;
          if (to <= at) return;
          traffic.sent += to - at;
          traffic.twice += Math.max(0, Math.min(to, was) - at);
          at = to;
          highest.set(this.#url, Math.max(highest.get(this.#url) ?? 0, to));
          changed();
        });
      }
      super.send(body);
    }
  };
}

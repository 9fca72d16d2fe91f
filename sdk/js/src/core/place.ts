// Where the server is, and which receiving place belongs to a user of it.
import { Code, DianError } from "../codes.js";
import { toHex } from "./names.js";
import { x3b } from "./x3b.js";

export interface Server {
  base: string; // without a slash at the end
  session: string; // ws: or wss:
  origin: string;
  lane(laneBase: string, path: string): string;
}

/** Reads the server's URL. Error: DianError 5. */
export function serverUrl(server: string | URL): Server {
  const no = (detail: string) => new DianError("connect", Code.badParameter, { detail });
  let u: URL;
  try {
    u = new URL(server);
  } catch {
    throw no("the server's URL cannot be read");
  }
  if (u.protocol !== "http:" && u.protocol !== "https:") throw no("the server's URL is not http:// or https://");
  if (u.username !== "" || u.password !== "" || u.search !== "" || u.hash !== "") throw no("the server's URL has more than scheme, host and path");
  const base = u.origin + u.pathname.replace(/\/+$/, "");
  return {
    base, origin: u.origin, session: `${base.replace(/^http/, "ws")}/v1/session`,
    // A base that the server names may move lanes to another host, but not from TLS to plain text.
    lane(laneBase, path) {
      let at = base;
      if (laneBase !== "") {
        try {
          const other = new URL(laneBase, `${base}/`);
          if (other.protocol === "https:" || (other.protocol === "http:" && u.protocol === "http:")) at = other.origin + other.pathname.replace(/\/+$/, "");
        } catch {
          // What cannot be read is not used.
        }
      }
      return `${at}/${path.replace(/^\/+/, "")}`;
    },
  };
}

/**
 * A place's name for a server and what a token says about app and user. The token is not
 * verified here: it only has to lead to the same place again.
 */
export async function placeName(base: string, token: string): Promise<string> {
  let sub = "";
  let aud = "";
  try {
    const part = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const text = new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0)));
    const claims = JSON.parse(text) as { sub?: unknown; aud?: unknown };
    sub = typeof claims.sub === "string" ? claims.sub : "";
    aud = JSON.stringify(Array.isArray(claims.aud) && claims.aud.length === 1 ? claims.aud[0] : (claims.aud ?? ""));
  } catch {
    // A token that cannot be read will be refused.
  }
  return toHex(await x3b(new TextEncoder().encode([base, aud, sub].join("\0"))));
}

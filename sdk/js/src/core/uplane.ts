// What the answers of an up-lane mean (docs/protocol.md §8.1).
import { Code } from "../codes.js";
import type { UpEnd } from "../platform.js";
import { Limit } from "../limits.js";
import { cutText } from "./bytes.js";

/** Reads what an answer to PATCH or HEAD means. The body is only asked for when it counts. */
export async function upEnd(status: number, header: (name: string) => string | null, body: () => Promise<string>): Promise<UpEnd> {
  if (status >= 200 && status < 300) {
    const offset = Number(header("Upload-Offset") ?? "");
    return header("Upload-Offset") !== null && Number.isSafeInteger(offset) && offset >= 0 ? { end: "confirmed", offset } : { end: "broken" };
  }
  if (status === 409) return { end: "conflict" };
  if (status === 423) return { end: "notThere" };
  if (status === 404) return { end: "gone" };
  // With 401, 408 and 429 another token, or another moment, may do.
  if (status < 400 || status >= 500 || status === 401 || status === 408 || status === 429) return { end: "broken" };
  const problem = readProblem(await body().catch(() => ""));
  if (problem !== undefined) return { end: "final", ...problem };
  return { end: status === 413 ? "tooLarge" : "final", code: Code.sendFailed, detail: `HTTP ${status}` };
}

/** Reads a problem document (docs/protocol.md §9). */
function readProblem(text: string): { code: number; detail: string } | undefined {
  try {
    const p = JSON.parse(text) as { code?: unknown; detail?: unknown } | null;
    if (typeof p?.code !== "number" || p.code === 0) return undefined;
    return { code: p.code, detail: typeof p.detail === "string" ? cutText(p.detail, Limit.detailBytes) : "" };
  } catch {
    return undefined;
  }
}

/** Asks where a transfer stands. */
export async function head(url: string, token: string, signal: AbortSignal): Promise<UpEnd> {
  try {
    const r = await fetch(url, {
      method: "HEAD", headers: { Authorization: `Bearer ${token}`, "Tus-Resumable": "1.0.0" },
      cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer", signal,
    });
    return await upEnd(r.status, (name) => r.headers.get(name), () => r.text());
  } catch {
    return { end: "broken" };
  }
}

/** The headers of a PATCH, Content-Length aside. */
export function patchHeaders(token: string, offset: number): Record<string, string> {
  return {
    Authorization: `Bearer ${token}`, "Tus-Resumable": "1.0.0",
    "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(offset),
  };
}

// An up-lane by node:http: one PATCH whose body is read as the connection takes it.
import { once } from "node:events";
import * as http from "node:http";
import * as https from "node:https";
import { patchHeaders, upEnd } from "../core/uplane.js";
import type { Source, UpEnd, UpRequest } from "../platform.js";

const pieceBytes = 256 << 10;
const wroteEvery = 50; // ms between two reports of what was handed over
const answerBytes = 4096; // of an error's body

const agents = {
  "http:": new http.Agent({ keepAlive: true }),
  "https:": new https.Agent({ keepAlive: true, ALPNProtocols: ["http/1.1"] }),
};

export async function patch(source: Source, r: UpRequest): Promise<UpEnd> {
  const secure = new URL(r.url).protocol === "https:";
  const request = (secure ? https : http).request(r.url, {
    method: "PATCH", agent: agents[secure ? "https:" : "http:"], signal: r.signal,
    headers: { ...patchHeaders(r.token, r.offset), "Content-Length": r.length },
  });
  const answer = once(request, "response").then(([m]) => m as http.IncomingMessage);
  const failed = new Promise<undefined>((resolve) => request.on("error", () => resolve(undefined)).on("close", () => resolve(undefined)));
  answer.catch(() => {});
  const writing = write(source, r, request, answer);
  writing.catch(() => request.destroy());
  const response = await Promise.race([answer.catch(() => undefined), failed]);
  if (response === undefined) {
    request.destroy();
    await writing; // a fault of the source counts more
    return { end: "broken" };
  }
  try {
    return await upEnd(response.statusCode ?? 0, (name) => (response.headers[name.toLowerCase()] as string | undefined) ?? null, () => bodyOf(response));
  } finally {
    if (request.writableFinished) response.resume(); // the connection may serve the next lane
    else request.destroy();
    await writing;
  }
}

/** Hands the content to the connection. Error: SourceFault. */
async function write(source: Source, r: UpRequest, request: http.ClientRequest, answer: Promise<unknown>): Promise<void> {
  let over = false;
  let go = () => {}; // what a full connection waits for
  const stop = () => {
    over = true;
    go();
  };
  answer.then(stop, stop);
  request.on("close", stop).on("error", stop).on("drain", () => go());
  const end = r.offset + r.length;
  let told = performance.now();
  for (let at = r.offset; at < end && !over; ) {
    const p = await source.read(at, Math.min(pieceBytes, end - at));
    if (over) return;
    at += p.length;
    if (!request.write(p)) await new Promise<void>((resolve) => (over ? resolve() : (go = resolve)));
    const now = performance.now();
    if (!over && at < end && now - told >= wroteEvery) {
      told = now;
      r.wrote(at);
    }
  }
  if (over) return;
  request.end();
  r.wrote(end);
}

async function bodyOf(response: http.IncomingMessage): Promise<string> {
  let text = "";
  for await (const p of response) {
    text += String(p);
    if (text.length > answerBytes) break;
  }
  return text;
}

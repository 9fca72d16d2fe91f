// A down-lane by fetch (docs/protocol.md §8.2). It runs in pages, workers and Node alike,
// and imports nothing at run time.
import type { DownEnd, DownRequest } from "../platform.js";
import type { LaneEnd } from "./steps.js";

const pieceBytes = 1 << 20; // of one read at most

/** Gives the lane's bytes piece by piece, and how it has ended after them. A piece is valid until the next is asked for. */
export interface DownReader {
  next(): Promise<Uint8Array | LaneEnd>;
}

export interface Down {
  end: LaneEnd; // if there is no reader
  etag: string;
  reader: DownReader | undefined;
}

/** Asks for the bytes from offset. Aborting the signal ends the lane as broken. */
export async function openDown(d: DownRequest, offset: number, signal: AbortSignal): Promise<Down> {
  const last = d.length > 0 ? String(offset + d.length - 1) : "";
  let response: Response;
  try {
    response = await fetch(d.url, {
      headers: { Range: `bytes=${offset}-${last}`, Authorization: `Ticket ${d.ticket}` },
      cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer", signal,
    });
  } catch {
    return { end: "broken", etag: "", reader: undefined };
  }
  const etag = response.headers.get("ETag") ?? "";
  const status = response.status;
  const ends = (end: LaneEnd): Down => {
    void response.body?.cancel().catch(() => {});
    return { end, etag: end === "broken" ? etag : "", reader: undefined };
  };
  if (status === 410) return ends("over");
  if (status === 503) return ends("nothing");
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) return ends("gone");
  if (status !== 206 && !(status === 200 && offset === 0)) return ends("broken");
  if (d.etag !== "" && etag !== d.etag) return ends("gone"); // another content has this address now
  const length = status === 206 ? rangeLength(response.headers.get("Content-Range") ?? "", offset, d.size) : d.size - offset;
  if (length === undefined || response.body === null) return ends("broken");
  return { end: "broken", etag, reader: new Reader(response.body, length) };
}

/**
 * Receives until the lane ends. `place` takes each piece and counts it in its offset, `took`
 * is told of that, and `fault` makes a code of an error of the place.
 */
export async function receiveInto(place: { readonly offset: number; receiveBytes(p: Uint8Array): Promise<void> }, request: DownRequest,
  took: (offset: number) => void, signal: AbortSignal, fault: (e: unknown) => number): Promise<DownEnd> {
  const down = await openDown(request, place.offset, signal);
  if (down.reader === undefined) return { end: down.end, etag: down.etag, fault: 0 };
  for (;;) {
    const p = await down.reader.next();
    if (typeof p === "string") return { end: p, etag: down.etag, fault: 0 };
    try {
      await place.receiveBytes(p);
    } catch (e) {
      return { end: "broken", etag: down.etag, fault: fault(e) };
    }
    took(place.offset);
  }
}

/** Reads a body into one buffer again and again where the browser can: half the work. */
class Reader implements DownReader {
  readonly #read: () => Promise<ReadableStreamReadResult<Uint8Array>>;
  readonly #cancel: () => Promise<void>;
  #buffer = new ArrayBuffer(pieceBytes);
  #left: number;

  constructor(body: ReadableStream<Uint8Array>, length: number) {
    this.#left = length;
    let byob: ReadableStreamBYOBReader | undefined;
    try {
      byob = body.getReader({ mode: "byob" });
    } catch {
      // Not a stream of bytes here.
    }
    if (byob === undefined) {
      const reader = body.getReader();
      this.#read = () => reader.read();
      this.#cancel = () => reader.cancel();
      return;
    }
    const reader = byob;
    this.#cancel = () => reader.cancel();
    this.#read = async () => {
      const r = await reader.read(new Uint8Array(this.#buffer));
      if (r.value !== undefined) this.#buffer = r.value.buffer as ArrayBuffer;
      return r as ReadableStreamReadResult<Uint8Array>;
    };
  }

  async next(): Promise<Uint8Array | LaneEnd> {
    if (this.#left === 0) {
      void this.#cancel().catch(() => {});
      return "whole";
    }
    try {
      const { done, value } = await this.#read();
      if (done || value === undefined) return "broken";
      const p = value.length > this.#left ? value.subarray(0, this.#left) : value;
      this.#left -= p.length;
      return p;
    } catch {
      return "broken";
    }
  }
}

/** Reads "bytes N-M/size": how long that is, if N and size are what was asked for. */
export function rangeLength(text: string, offset: number, size: number): number | undefined {
  const m = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(text);
  if (m === null) return undefined;
  const [n, last, total] = [Number(m[1]), Number(m[2]), Number(m[3])];
  return n === offset && total === size && last >= n && last < total ? last - n + 1 : undefined;
}

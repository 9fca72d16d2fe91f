// The worker that receives files: fetch, hash and write happen here, away from the page's
// thread and its throttled timers. OPFS gives out synchronous access handles to workers alone;
// they write in place, so what is flushed survives a reload.
import { createSHA256 } from "hash-wasm";
import { openDown } from "../core/downlane.js";
import { fromHex, toHex } from "../core/names.js";
import { blockSize, digestBytes, X3b } from "../core/x3b.js";
import type { DownEnd, DownRequest } from "../platform.js";
import type { Answers, Question, Reply } from "./messages.js";

interface SyncHandle {
  read(p: Uint8Array, options: { at: number }): number;
  write(p: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

const readBytes = 1 << 20;
const toldEvery = 50; // ms between two reports of what a lane has brought
const openTries = 40; // a tab that was just kicked lets go of its file within moments
const openPause = 250; // ms

const port = self as unknown as { postMessage(m: Reply, transfer?: Transferable[]): void; onmessage: ((m: MessageEvent<Question>) => void) | null };

class WorkerPart {
  readonly #folder: FileSystemDirectoryHandle;
  readonly #file: string;
  readonly #handle: SyncHandle;
  readonly #hash: X3b;
  offset: number;
  lane: AbortController | undefined;

  private constructor(folder: FileSystemDirectoryHandle, file: string, handle: SyncHandle, hash: X3b) {
    this.#folder = folder;
    this.#file = file;
    this.#handle = handle;
    this.#hash = hash;
    this.offset = hash.length;
  }

  static async open(q: Question & { ask: "open" }): Promise<WorkerPart> {
    const folder = await placeFolder(q.place);
    const file = await folder.getFileHandle(q.file, { create: true });
    const handle = await access(file);
    try {
      const offset = Math.min(q.offset, handle.getSize(), q.size);
      const blocks = fromHex(q.blocks);
      const whole = Math.min(Math.floor(offset / blockSize), Math.floor(blocks.length / digestBytes));
      const hash = await X3b.create(blocks.subarray(0, whole * digestBytes));
      const p = new Uint8Array(readBytes);
      while (hash.length < offset) {
        const n = handle.read(p.subarray(0, Math.min(p.length, offset - hash.length)), { at: hash.length });
        if (n === 0) break;
        hash.update(p.subarray(0, n));
      }
      handle.truncate(hash.length);
      return new WorkerPart(folder, q.file, handle, hash);
    } catch (e) {
      handle.close();
      throw e;
    }
  }

  async receive(request: DownRequest, took: (offset: number) => void): Promise<DownEnd> {
    const lane = (this.lane = new AbortController());
    const down = await openDown(request, this.offset, lane.signal);
    if (down.reader === undefined) return { end: down.end, etag: down.etag, fault: 0 };
    let told = -Infinity;
    for (;;) {
      const p = await down.reader.next();
      if (typeof p === "string" || lane.signal.aborted) {
        took(this.offset);
        return { end: typeof p === "string" ? p : "broken", etag: down.etag, fault: 0 };
      }
      try {
        this.bytes(p);
      } catch (e) {
        lane.abort();
        return { end: "broken", etag: down.etag, fault: codeOf(e) };
      }
      const now = performance.now();
      if (now - told >= toldEvery || this.offset === request.size) {
        told = now;
        took(this.offset);
      }
    }
  }

  bytes(p: Uint8Array): void {
    for (let n = 0; n < p.length; ) {
      const written = this.#handle.write(n === 0 ? p : p.subarray(n), { at: this.offset + n });
      if (written === 0) throw new DOMException("nothing was written", "QuotaExceededError");
      n += written;
    }
    this.#hash.update(p);
    this.offset += p.length;
  }

  mark(): { offset: number; blocks: string } {
    this.#handle.flush();
    return { offset: this.offset, blocks: toHex(this.#hash.blocks) };
  }

  async digest(algorithm: string): Promise<Uint8Array> {
    if (algorithm !== "sha-256") return this.#hash.digest();
    const h = (await createSHA256()).init();
    const p = new Uint8Array(readBytes);
    for (let at = 0; at < this.offset; ) {
      const n = this.#handle.read(p, { at });
      if (n === 0) break;
      h.update(p.subarray(0, n));
      at += n;
    }
    return h.digest("binary");
  }

  commit(): void {
    this.#handle.flush();
    this.close();
  }

  close(): void {
    this.lane?.abort();
    this.#handle.close();
  }

  async drop(): Promise<void> {
    this.close();
    await this.#folder.removeEntry(this.#file).catch(() => {});
  }
}

async function placeFolder(place: string): Promise<FileSystemDirectoryHandle> {
  const root = await navigator.storage.getDirectory();
  return (await root.getDirectoryHandle("dian", { create: true })).getDirectoryHandle(place, { create: true });
}

/** Opens a file for this worker alone. Another tab that has it was kicked, or will be. */
async function access(file: FileSystemFileHandle): Promise<SyncHandle> {
  const open = (file as unknown as { createSyncAccessHandle(): Promise<SyncHandle> }).createSyncAccessHandle.bind(file);
  for (let i = 1; ; i++) {
    try {
      return await open();
    } catch (e) {
      if (i === openTries || !(e instanceof DOMException) || e.name !== "NoModificationAllowedError") throw e;
      await new Promise((resolve) => setTimeout(resolve, openPause));
    }
  }
}

/** 1112 no space, 1402 anything else. */
function codeOf(e: unknown): number {
  return e instanceof DOMException && e.name === "QuotaExceededError" ? 1112 : 1402;
}

const parts = new Map<number, WorkerPart>();

async function answer(q: Question): Promise<Answers[keyof Answers]> {
  if (q.ask === "open") {
    const part = await WorkerPart.open(q);
    parts.set(q.part, part);
    return { offset: part.offset };
  }
  const part = parts.get(q.part);
  if (part === undefined) throw new Error("no such part");
  switch (q.ask) {
    case "receive": return part.receive(q.request, (took) => port.postMessage({ part: q.part, took }));
    case "bytes":
      part.bytes(q.data);
      return { offset: part.offset };
    case "abort":
      part.lane?.abort();
      return null;
    case "mark": return part.mark();
    case "digest": return part.digest(q.algorithm);
    case "commit":
      part.commit();
      parts.delete(q.part);
      return null;
    case "close":
      part.close();
      parts.delete(q.part);
      return null;
    case "drop":
      parts.delete(q.part);
      await part.drop();
      return null;
  }
}

port.onmessage = (m) => {
  const q = m.data;
  answer(q).then(
    (a) => port.postMessage({ n: q.n, answer: a }),
    (e: unknown) => port.postMessage({ n: q.n, code: codeOf(e), name: e instanceof Error ? e.name : "" }),
  );
};

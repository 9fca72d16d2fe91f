// Received files in the origin's private file system (OPFS), and in handles that users chose.
import type { FileTarget } from "../api.js";
import { Code, DianError } from "../codes.js";
import { receiveInto } from "../core/downlane.js";
import { X3b } from "../core/x3b.js";
import type { DownEnd, DownRequest, Part, Vault } from "../platform.js";
import { DbLedger } from "./ledger.js";
import type { Answers, Question, Reply } from "./messages.js";
import { saveByBrowser } from "./download.js";

type Ask<K extends Question["ask"]> = Omit<Extract<Question, { ask: K }>, "n">;

const octets = "application/octet-stream"; // whatever the sender said: no page runs it (case 120)

/** The worker, asked by messages. */
class Hand {
  readonly #worker: Worker;
  #n = 0;
  readonly #waiting = new Map<number, { resolve: (a: never) => void; reject: (e: DianError) => void }>();
  readonly took = new Map<number, (offset: number) => void>(); // by part
  #dead: DianError | undefined;

  constructor() {
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "dian" });
    this.#worker.onmessage = (m: MessageEvent<Reply>) => this.#reply(m.data);
    this.#worker.onerror = (e) => this.#fail(new DianError("receive", Code.fileWrite, { detail: "the worker has failed", cause: e.message }));
  }

  #reply(r: Reply): void {
    if ("took" in r) {
      this.took.get(r.part)?.(r.took);
      return;
    }
    const w = this.#waiting.get(r.n);
    this.#waiting.delete(r.n);
    if ("code" in r) w?.reject(new DianError("receive", r.code, { detail: r.name }));
    else w?.resolve(r.answer as never);
  }

  #fail(why: DianError): void {
    this.#dead = why;
    for (const w of this.#waiting.values()) w.reject(why);
    this.#waiting.clear();
  }

  ask<K extends Question["ask"]>(q: Ask<K>): Promise<Answers[K]> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const n = ++this.#n;
    return new Promise<Answers[K]>((resolve, reject) => {
      this.#waiting.set(n, { resolve, reject });
      this.#worker.postMessage({ ...q, n });
    });
  }

  end(): void {
    this.#fail(new DianError("receive", Code.notLoggedIn));
    this.#worker.terminate();
  }
}

/** A part in OPFS, written by the worker. */
class OpfsPart implements Part {
  offset: number;
  readonly #hand: Hand;
  readonly #part: number;

  constructor(hand: Hand, part: number, offset: number) {
    this.#hand = hand;
    this.#part = part;
    this.offset = offset;
  }

  async receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd> {
    const part = this.#part;
    const abort = () => void this.#hand.ask<"abort">({ ask: "abort", part }).catch(() => {});
    if (signal.aborted) return { end: "broken", etag: "", fault: 0 };
    signal.addEventListener("abort", abort, { once: true });
    this.#hand.took.set(part, (offset) => {
      this.offset = offset;
      if (!signal.aborted) took(offset);
    });
    try {
      return await this.#hand.ask<"receive">({ ask: "receive", part, request });
    } finally {
      signal.removeEventListener("abort", abort);
      this.#hand.took.delete(part);
    }
  }

  async receiveBytes(data: Uint8Array): Promise<void> {
    this.offset = (await this.#hand.ask<"bytes">({ ask: "bytes", part: this.#part, data })).offset;
  }
  mark(): Promise<{ offset: number; blocks: string }> {
    return this.#hand.ask<"mark">({ ask: "mark", part: this.#part });
  }
  digest(algorithm: string): Promise<Uint8Array> {
    return this.#hand.ask<"digest">({ ask: "digest", part: this.#part, algorithm });
  }
  async commit(): Promise<void> {
    await this.#hand.ask<"commit">({ ask: "commit", part: this.#part });
  }
  async close(): Promise<void> {
    await this.#hand.ask<"close">({ ask: "close", part: this.#part });
  }
  async drop(): Promise<void> {
    await this.#hand.ask<"drop">({ ask: "drop", part: this.#part });
  }
}

/** A part that goes to a handle the user chose. Nothing is there before commit. */
class HandlePart implements Part {
  offset = 0;
  readonly #out: FileSystemWritableFileStream;
  readonly #hash: X3b;
  #open = true;

  private constructor(out: FileSystemWritableFileStream, hash: X3b) {
    this.#out = out;
    this.#hash = hash;
  }

  static async open(handle: FileSystemFileHandle): Promise<HandlePart> {
    try {
      return new HandlePart(await handle.createWritable({ keepExistingData: false }), await X3b.create());
    } catch (e) {
      throw placeError("receive", e);
    }
  }

  receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd> {
    return receiveInto(this, request, took, signal, (e) => placeError("receive", e).code);
  }

  async receiveBytes(p: Uint8Array): Promise<void> {
    await this.#out.write(p as Uint8Array<ArrayBuffer>); // waits: the disk's speed is the sender's
    this.#hash.update(p);
    this.offset += p.length;
  }
  async mark(): Promise<{ offset: number; blocks: string }> {
    return { offset: 0, blocks: "" }; // nothing survives a reload
  }
  async digest(algorithm: string): Promise<Uint8Array> {
    if (algorithm === "x3b") return this.#hash.digest();
    throw new DianError("receive", Code.digestMismatch, { detail: "a digest that cannot be checked here" });
  }
  async commit(): Promise<void> {
    this.#open = false;
    await this.#out.close().catch((e: unknown) => Promise.reject(placeError("receive", e)));
  }
  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#out.abort().catch(() => {});
  }
  drop(): Promise<void> {
    return this.close();
  }
}

export class OpfsVault implements Vault {
  readonly instance: Uint8Array;
  readonly ledger: DbLedger;
  readonly #place: string;
  readonly #folder: FileSystemDirectoryHandle;
  #hand: Hand | undefined;
  #parts = 0;

  private constructor(place: string, folder: FileSystemDirectoryHandle, ledger: DbLedger, instance: Uint8Array) {
    this.#place = place;
    this.#folder = folder;
    this.ledger = ledger;
    this.instance = instance;
  }

  /** Opens a place; undefined where the browser has no OPFS, or not here (private windows, http). */
  static async open(place: string): Promise<OpfsVault | undefined> {
    if (typeof Worker !== "function" || typeof indexedDB === "undefined" || typeof navigator.storage?.getDirectory !== "function") return undefined;
    try {
      const root = await navigator.storage.getDirectory();
      const folder = await (await root.getDirectoryHandle("dian", { create: true })).getDirectoryHandle(place, { create: true });
      const ledger = await DbLedger.open(place);
      void navigator.storage.persist?.().catch(() => {}); // so that the browser does not clean it away
      return new OpfsVault(place, folder, ledger, await ledger.instance());
    } catch {
      return undefined;
    }
  }

  async open(file: string, size: number, offset: number, blocks: string): Promise<Part> {
    const { quota = Infinity, usage = 0 } = await navigator.storage.estimate();
    if (size - offset > quota - usage) throw new DianError("receive", Code.noSpace);
    const hand = (this.#hand ??= new Hand());
    const part = ++this.#parts;
    const at = await hand.ask<"open">({ ask: "open", part, place: this.#place, file, size, offset, blocks });
    return new OpfsPart(hand, part, at.offset);
  }

  openTarget(to: FileTarget): Promise<Part> {
    if (typeof to === "string") return Promise.reject(new DianError("receive", Code.badParameter, { detail: "a path, in a browser" }));
    return HandlePart.open(to);
  }

  async exists(file: string): Promise<boolean> {
    return this.#folder.getFileHandle(file).then(() => true, () => false);
  }

  async remove(file: string): Promise<void> {
    await this.#folder.removeEntry(file).catch(() => {});
  }

  async blob(file: string): Promise<Blob> {
    try {
      const f = await (await this.#folder.getFileHandle(file)).getFile();
      return f.slice(0, f.size, octets);
    } catch (e) {
      throw new DianError("read file", Code.fileNotFound, { cause: e });
    }
  }

  path(): undefined {
    return undefined;
  }

  async save(file: string, safeName: string, to: FileTarget | undefined): Promise<{ where: string; moved: boolean }> {
    const blob = await this.blob(file);
    if (to === undefined) {
      saveByBrowser(blob, safeName);
      return { where: safeName, moved: false };
    }
    if (typeof to === "string") throw new DianError("save file", Code.badParameter, { detail: "a path, in a browser" });
    try {
      await blob.stream().pipeTo(await to.createWritable({ keepExistingData: false }));
    } catch (e) {
      throw placeError("save file", e);
    }
    return { where: to.name, moved: false };
  }

  async close(): Promise<void> {
    this.#hand?.end();
    await this.ledger.close();
  }
}

function placeError(op: string, e: unknown): DianError {
  const name = e instanceof DOMException ? e.name : "";
  return e instanceof DianError ? e : new DianError(op, name === "QuotaExceededError" ? Code.noSpace : Code.fileWrite, { detail: name, cause: e });
}

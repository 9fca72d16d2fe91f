// Places for content that need no disk: memory, and the browser's own download.
import { createSHA256 } from "hash-wasm";
import { Code, DianError } from "../codes.js";
import type { DownEnd, DownRequest, Part } from "../platform.js";
import { receiveInto } from "./downlane.js";
import { x3b } from "./x3b.js";

/** Returns the digest of content in memory. */
export async function digestOf(data: Uint8Array, algorithm: string): Promise<Uint8Array> {
  if (algorithm !== "sha-256") return x3b(data);
  const h = await createSHA256();
  return h.init().update(data).digest("binary");
}

/** A buffer in memory. */
export class MemoryPart implements Part {
  offset = 0;
  data: Uint8Array;

  constructor(size: number) {
    this.data = new Uint8Array(size);
  }

  receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd> {
    return receiveInto(this, request, took, signal, () => Code.internal);
  }

  async receiveBytes(p: Uint8Array): Promise<void> {
    this.data.set(p, this.offset);
    this.offset += p.length;
  }

  async mark(): Promise<{ offset: number; blocks: string }> {
    return { offset: this.offset, blocks: "" };
  }
  digest(algorithm: string): Promise<Uint8Array> {
    return digestOf(this.data, algorithm);
  }
  async commit(): Promise<void> {}
  async close(): Promise<void> {}
  async drop(): Promise<void> {
    this.data = new Uint8Array();
    this.offset = 0;
  }
}

/** A file that the browser fetches by itself. What it has only the server knows: its Sync tells. */
export class DownloadPart implements Part {
  offset = 0;
  readonly #begin: (url: string) => void;
  #begun = false;

  constructor(begin: (url: string) => void) {
    this.#begin = begin;
  }

  receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd> {
    void took;
    if (!this.#begun) {
      this.#begun = true;
      this.#begin(`${request.url}?ticket=${encodeURIComponent(request.ticket)}`);
    }
    return new Promise((resolve) => {
      const over = () => resolve({ end: "broken", etag: "", fault: 0 });
      if (signal.aborted) over();
      else signal.addEventListener("abort", over, { once: true });
    });
  }

  async mark(): Promise<{ offset: number; blocks: string }> {
    return { offset: this.offset, blocks: "" };
  }
  digest(): Promise<Uint8Array> {
    return Promise.reject(new DianError("receive", Code.internal));
  }
  async commit(): Promise<void> {}
  async close(): Promise<void> {}
  async drop(): Promise<void> {}
}

import { Code } from "../codes.js";
import { SourceFault, type Source } from "../platform.js";

const pieceBytes = 1 << 20;

/** A Blob or File that is sent. A browser tells by itself when the file below has changed. */
export class BlobSource implements Source {
  readonly size: number;
  readonly name: string;
  readonly type: string;
  readonly path: string;
  readonly blob: Blob;
  readonly #done: (() => Promise<void>) | undefined;

  constructor(blob: Blob, done?: () => Promise<void>) {
    this.blob = blob;
    this.size = blob.size;
    this.name = "name" in blob && typeof blob.name === "string" ? blob.name.toWellFormed() : "";
    this.type = blob.type;
    this.path = this.name;
    this.#done = done;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      return new Uint8Array(await this.blob.slice(offset, Math.min(offset + length, this.size)).arrayBuffer());
    } catch (e) {
      throw blobFault(e);
    }
  }

  /** Reads one piece after the other from the beginning: of a file on disk seven times as fast as slices. */
  pieces(): () => Promise<Uint8Array> {
    const stream = this.blob.stream();
    let buffer = new ArrayBuffer(pieceBytes);
    let read: () => Promise<ReadableStreamReadResult<Uint8Array>>;
    try {
      const reader = stream.getReader({ mode: "byob" });
      read = async () => {
        const r = await reader.read(new Uint8Array(buffer));
        if (r.value !== undefined) buffer = r.value.buffer as ArrayBuffer;
        return r as ReadableStreamReadResult<Uint8Array>;
      };
    } catch {
      const reader = stream.getReader();
      read = () => reader.read();
    }
    return async () => {
      try {
        return (await read()).value ?? new Uint8Array();
      } catch (e) {
        throw blobFault(e);
      }
    };
  }

  async check(): Promise<void> {
    if (this.size > 0) await this.read(this.size - 1, 1);
  }

  async close(): Promise<void> {
    await this.#done?.();
  }
}

function blobFault(e: unknown): SourceFault {
  const name = e instanceof Error ? e.name : "";
  if (name === "NotFoundError") return new SourceFault(Code.fileNotFound, "the file is gone", e);
  if (name === "NotReadableError") return new SourceFault(Code.fileError, "changed, or gone, while it was sent", e);
  return new SourceFault(Code.fileRead, "cannot be read", e);
}

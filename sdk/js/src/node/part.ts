import { createReadStream } from "node:fs";
import { createHash } from "node:crypto";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { Code, DianError } from "../codes.js";
import { receiveInto } from "../core/downlane.js";
import { fromHex, toHex } from "../core/names.js";
import { blockSize, digestBytes, X3b } from "../core/x3b.js";
import type { DownEnd, DownRequest, Part } from "../platform.js";
import { syncFolder } from "./vault.js";

const readBytes = 1 << 20;

/** A part file: path + ".part" until it is whole and verified. */
export class FilePart implements Part {
  offset: number;
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #hash: X3b;
  #open = true;

  private constructor(path: string, handle: FileHandle, hash: X3b) {
    this.#path = path;
    this.#handle = handle;
    this.#hash = hash;
    this.offset = hash.length;
  }

  static async open(path: string, size: number, offset: number, blocks: string, dir: string): Promise<FilePart> {
    try {
      const handle = await open(`${path}.part`, offset > 0 ? "r+" : "wx+", 0o600).catch((e: unknown) => {
        if (offset === 0 && (e as NodeJS.ErrnoException).code === "EEXIST") return open(`${path}.part`, "r+");
        throw e;
      });
      if (offset === 0) await syncFolder(dir);
      const { size: there } = await handle.stat();
      return await FilePart.#resume(path, handle, Math.min(offset, there, size), fromHex(blocks));
    } catch (e) {
      throw placeError("receive", e);
    }
  }

  /** Goes on behind what was written down: only the last, unfinished block is read again. */
  static async #resume(path: string, handle: FileHandle, offset: number, blocks: Uint8Array): Promise<FilePart> {
    const whole = Math.min(Math.floor(offset / blockSize), Math.floor(blocks.length / digestBytes));
    const hash = await X3b.create(blocks.subarray(0, whole * digestBytes));
    const p = new Uint8Array(readBytes);
    while (hash.length < offset) {
      const { bytesRead } = await handle.read(p, 0, Math.min(p.length, offset - hash.length), hash.length);
      if (bytesRead === 0) break;
      hash.update(p.subarray(0, bytesRead));
    }
    await handle.truncate(hash.length);
    return new FilePart(path, handle, hash);
  }

  receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd> {
    return receiveInto(this, request, took, signal, (e) => placeError("receive", e).code);
  }

  async receiveBytes(p: Uint8Array): Promise<void> {
    for (let n = 0; n < p.length; ) {
      const { bytesWritten } = await this.#handle.write(p, n, p.length - n, this.offset + n);
      n += bytesWritten;
    }
    this.#hash.update(p);
    this.offset += p.length;
  }

  async mark(): Promise<{ offset: number; blocks: string }> {
    const at = { offset: this.offset, blocks: toHex(this.#hash.blocks) };
    try {
      if (this.#open) await this.#handle.datasync();
    } catch (e) {
      throw placeError("receive", e);
    }
    return at;
  }

  async digest(algorithm: string): Promise<Uint8Array> {
    if (algorithm !== "sha-256") return this.#hash.digest();
    const h = createHash("sha256");
    for await (const p of createReadStream(`${this.#path}.part`)) h.update(p as Buffer);
    return new Uint8Array(h.digest());
  }

  async commit(): Promise<void> {
    try {
      await this.#handle.sync();
      await this.close();
      await rename(`${this.#path}.part`, this.#path);
      await syncFolder(dirname(this.#path));
    } catch (e) {
      throw placeError("receive", e);
    }
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
  }

  async drop(): Promise<void> {
    await this.close();
    await rm(`${this.#path}.part`, { force: true });
  }
}

/** Makes a DianError of what a disk says. */
export function placeError(op: string, e: unknown): DianError {
  if (e instanceof DianError) return e;
  const code = (e as NodeJS.ErrnoException | null)?.code;
  return new DianError(op, code === "ENOSPC" || code === "EDQUOT" ? Code.noSpace : Code.fileWrite, { cause: e });
}

import { createWriteStream } from "node:fs";
import { mkdtemp, open, rm, stat, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { BigIntStats } from "node:fs";
import { Code } from "../codes.js";
import { SourceFault, type Source } from "../platform.js";

/** A regular file that is sent. It is opened when it is its turn, and must stay what it was. */
export class PathSource implements Source {
  readonly size: number;
  readonly name: string;
  readonly type = "";
  readonly path: string;
  readonly blob = undefined;
  readonly #was: BigIntStats;
  readonly #done: (() => Promise<void>) | undefined;
  #handle: Promise<FileHandle> | undefined;

  private constructor(path: string, was: BigIntStats, done?: () => Promise<void>) {
    this.path = path;
    this.name = basename(path).toWellFormed();
    this.size = Number(was.size);
    this.#was = was;
    this.#done = done;
  }

  /** Looks at a path. Errors: SourceFault 1400, 1401, 1103. */
  static async create(path: string, done?: () => Promise<void>): Promise<PathSource> {
    const full = resolve(path);
    try {
      const was = await stat(full, { bigint: true });
      if (!was.isFile()) throw new SourceFault(Code.fileError, "no regular file");
      return new PathSource(full, was, done);
    } catch (e) {
      throw fileFault(e);
    }
  }

  async #open(): Promise<FileHandle> {
    this.#handle ??= (async () => {
      const h = await open(this.path, "r");
      try {
        await this.#same(h);
        return h;
      } catch (e) {
        await h.close();
        throw e;
      }
    })();
    return this.#handle;
  }

  async #same(h: FileHandle): Promise<void> {
    const now = await h.stat({ bigint: true });
    const was = this.#was;
    if (now.dev !== was.dev || now.ino !== was.ino || now.size !== was.size || now.mtimeNs !== was.mtimeNs) {
      throw new SourceFault(Code.fileError, "changed while it was sent");
    }
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      const h = await this.#open();
      const p = new Uint8Array(Math.max(0, Math.min(length, this.size - offset)));
      let n = 0;
      while (n < p.length) {
        const { bytesRead } = await h.read(p, n, p.length - n, offset + n);
        if (bytesRead === 0) throw new SourceFault(Code.fileError, "shorter than it was");
        n += bytesRead;
      }
      return p;
    } catch (e) {
      throw fileFault(e);
    }
  }

  async check(): Promise<void> {
    try {
      await this.#same(await this.#open());
      // The path may lead to another file by now.
      const now = await stat(this.path, { bigint: true });
      if (now.dev !== this.#was.dev || now.ino !== this.#was.ino) throw new SourceFault(Code.fileError, "replaced while it was sent");
    } catch (e) {
      throw fileFault(e);
    }
  }

  async close(): Promise<void> {
    const h = await this.#handle?.catch(() => undefined);
    await h?.close().catch(() => {});
    await this.#done?.();
  }
}

/** Writes a stream to a temporary file, which is removed when it has been sent. */
export async function spool(stream: ReadableStream<Uint8Array>): Promise<Source> {
  const dir = await mkdtemp(join(tmpdir(), "dian-"));
  const done = () => rm(dir, { recursive: true, force: true });
  const path = join(dir, "content");
  try {
    await pipeline(Readable.fromWeb(stream as Parameters<typeof Readable.fromWeb>[0]), createWriteStream(path, { mode: 0o600 }));
    const source = await PathSource.create(path, done);
    return { size: source.size, name: "", type: "", path: "", blob: undefined,
      read: (offset, length) => source.read(offset, length), check: () => source.check(), close: () => source.close() };
  } catch (e) {
    await done();
    throw e instanceof SourceFault ? e : new SourceFault(Code.fileRead, "the stream has failed", e);
  }
}

function fileFault(e: unknown): SourceFault {
  if (e instanceof SourceFault) return e;
  const code = (e as NodeJS.ErrnoException | null)?.code;
  if (code === "ENOENT" || code === "ENOTDIR") return new SourceFault(Code.fileNotFound, "no such file", e);
  return new SourceFault(Code.fileRead, "cannot be read", e);
}

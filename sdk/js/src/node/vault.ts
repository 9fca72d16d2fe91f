// The receive folder: parts, kept files and what is known of them, under random names.
import { constants, existsSync, openAsBlob } from "node:fs";
import { copyFile, link, mkdir, open, readdir, readFile, rename, rm, stat, unlink, writeFile, type FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Code, DianError } from "../codes.js";
import { fromHex, numbered, toHex } from "../core/names.js";
import { x3b } from "../core/x3b.js";
import type { FileTarget } from "../api.js";
import type { Entry, Ledger, Part, Vault } from "../platform.js";
import { FilePart, placeError } from "./part.js";

const openFolders = new Set<string>(); // of this process

export class FolderVault implements Vault {
  readonly instance: Uint8Array;
  readonly ledger: Ledger;
  readonly #dir: string;

  private constructor(dir: string, instance: Uint8Array) {
    this.#dir = dir;
    this.instance = instance;
    this.ledger = new FolderLedger(dir);
  }

  /** Opens a folder for one client. Errors: DianError 1402; "in use" is its detail if it is. */
  static async open(dir: string): Promise<FolderVault> {
    const full = resolve(dir);
    try {
      await mkdir(full, { recursive: true, mode: 0o700 });
      await lock(full);
    } catch (e) {
      throw e instanceof DianError ? e : new DianError("connect", Code.fileWrite, { detail: "receive folder", cause: e });
    }
    try {
      return new FolderVault(full, await instanceOf(full));
    } catch (e) {
      await unlock(full);
      throw new DianError("connect", Code.fileWrite, { detail: "receive folder", cause: e });
    }
  }

  async open(file: string, size: number, offset: number, blocks: string): Promise<Part> {
    return FilePart.open(join(this.#dir, file), size, offset, blocks, this.#dir);
  }

  openTarget(): Promise<Part> {
    return Promise.reject(new DianError("receive", Code.badParameter, { detail: "a handle, in Node" }));
  }

  path(file: string): string {
    return /[/\\]/.test(file) ? file : join(this.#dir, file);
  }

  async exists(file: string, part: boolean): Promise<boolean> {
    return existsSync(this.path(file) + (part ? ".part" : ""));
  }

  async remove(file: string): Promise<void> {
    await rm(this.path(file), { force: true });
    if (this.path(file) !== file) await rm(`${this.path(file)}.part`, { force: true });
  }

  async blob(file: string): Promise<Blob> {
    try {
      return (await openAsBlob(this.path(file), { type: "application/octet-stream" })) as unknown as Blob;
    } catch (e) {
      throw new DianError("read file", Code.fileNotFound, { cause: e });
    }
  }

  async save(file: string, safeName: string, to: FileTarget | undefined): Promise<{ where: string; moved: boolean }> {
    if (typeof to !== "string") throw new DianError("save file", Code.badParameter, { detail: "no path" });
    const from = this.path(file);
    try {
      const folder = await stat(to).then((s) => s.isDirectory(), () => false);
      const wanted = folder ? join(to, safeName) : resolve(to);
      const at = Math.max(wanted.lastIndexOf("/"), wanted.lastIndexOf("\\")) + 1;
      for (let i = 0; ; i++) {
        const where = wanted.slice(0, at) + numbered(wanted.slice(at), i);
        if (await moveTo(from, where)) return { where, moved: true };
      }
    } catch (e) {
      if (!existsSync(from)) throw new DianError("save file", Code.fileNotFound, { cause: e });
      throw placeError("save file", e);
    }
  }

  async close(): Promise<void> {
    await this.ledger.close();
    await unlock(this.#dir);
  }
}

/** Moves without replacing: a link fails where a rename would not. False: the name is taken. */
async function moveTo(from: string, where: string): Promise<boolean> {
  try {
    await link(from, where);
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code;
    if (code === "EEXIST") return false;
    if (code !== "EXDEV" && code !== "EPERM" && code !== "ENOTSUP" && code !== "ENOSYS") throw e;
    try {
      await copyFile(from, where, constants.COPYFILE_EXCL);
    } catch (again) {
      if ((again as NodeJS.ErrnoException).code === "EEXIST") return false;
      await rm(where, { force: true });
      throw again;
    }
    const h = await open(where, "r+");
    await h.sync();
    await h.close();
  }
  await unlink(from);
  return true;
}

/** One JSON file for each transfer, beside the parts. */
class FolderLedger implements Ledger {
  readonly #dir: string;
  readonly #names = new Map<string, Promise<string>>();
  #tail: Promise<void> = Promise.resolve();

  constructor(dir: string) {
    this.#dir = dir;
  }

  async all(): Promise<Entry[]> {
    const list: Entry[] = [];
    for (const name of await readdir(this.#dir)) {
      if (!/^[0-9a-f]{32}\.json$/.test(name)) continue;
      try {
        const e = JSON.parse(await readFile(join(this.#dir, name), "utf8")) as Entry;
        if (typeof e.key === "string" && name === (await this.#name(e.key))) list.push(e);
      } catch {
        // Torn before rename was safe: nothing was promised of it.
      }
    }
    return list;
  }

  #name(key: string): Promise<string> {
    let name = this.#names.get(key);
    if (name === undefined) {
      name = x3b(new TextEncoder().encode(key)).then((sum) => `${toHex(sum)}.json`);
      this.#names.set(key, name);
    }
    return name;
  }

  /** One after the other: the last word about an entry counts. */
  #inTurn(fn: () => Promise<void>): Promise<void> {
    const turn = this.#tail.then(fn);
    this.#tail = turn.catch(() => {});
    return turn;
  }

  put(e: Entry): Promise<void> {
    return this.#inTurn(async () => {
      const path = join(this.#dir, await this.#name(e.key));
      await writeDurably(path, JSON.stringify(e));
      await syncFolder(this.#dir);
    });
  }

  delete(key: string): Promise<void> {
    return this.#inTurn(async () => {
      await rm(join(this.#dir, await this.#name(key)), { force: true });
      this.#names.delete(key);
    });
  }

  /** Waits for what is being written. */
  close(): Promise<void> {
    return this.#tail;
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  const h = await open(`${path}.new`, "w", 0o600);
  try {
    await h.writeFile(text);
    await h.sync();
  } finally {
    await h.close();
  }
  await rename(`${path}.new`, path);
}

/** Makes names in a folder durable, where a folder can be flushed. */
export async function syncFolder(dir: string): Promise<void> {
  let h: FileHandle | undefined;
  try {
    h = await open(dir, "r");
    await h.sync();
  } catch (e) {
    if (process.platform !== "win32") throw e;
  } finally {
    await h?.close();
  }
}

async function instanceOf(dir: string): Promise<Uint8Array> {
  const path = join(dir, "instance");
  const text = await readFile(path, "utf8").catch(() => "");
  if (/^[0-9a-f]{32}$/.test(text)) return fromHex(text);
  const id = crypto.getRandomValues(new Uint8Array(16));
  await writeDurably(path, toHex(id));
  return id;
}

/** Takes the folder for this client: a lock of a process that is gone does not count. */
async function lock(dir: string): Promise<void> {
  const path = join(dir, "lock");
  const inUse = () => new DianError("connect", Code.fileWrite, { detail: "the receive folder is in use" });
  if (openFolders.has(dir)) throw inUse();
  openFolders.add(dir);
  try {
    for (;;) {
      try {
        await writeFile(path, String(process.pid), { flag: "wx", mode: 0o600 });
        return;
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code !== "EEXIST") throw e;
      }
      const pid = Number(await readFile(path, "utf8").catch(() => "0"));
      if (pid !== process.pid && pid > 0 && alive(pid)) throw inUse();
      await rm(path, { force: true });
    }
  } catch (e) {
    openFolders.delete(dir);
    throw e;
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === "EPERM";
  }
}

async function unlock(dir: string): Promise<void> {
  if (!openFolders.delete(dir)) return;
  await rm(join(dir, "lock"), { force: true });
}

import type { FileData, FileTarget, Receipt } from "../api.js";
import { Code, DianError } from "../codes.js";
import type { Entry, Vault } from "../platform.js";
import { fromHex, safeName } from "./names.js";

/** A received file that is kept here. */
export class KeptFile implements FileData {
  readonly source: string;
  readonly sendId: string;
  readonly name: string;
  readonly safeName: string;
  readonly type: string;
  readonly meta: Uint8Array;
  readonly size: number;
  readonly receipt: Receipt = "stored";
  readonly at: number;
  readonly #e: Entry;
  readonly #vault: Vault;
  readonly #gone: () => Promise<void>;
  path: string | undefined;

  constructor(e: Entry, vault: Vault, gone: () => Promise<void>) {
    this.source = e.source;
    this.sendId = e.sendId;
    this.name = e.name;
    this.safeName = safeName(e.name);
    this.type = e.type;
    this.meta = fromHex(e.meta);
    this.size = e.size;
    this.at = e.at;
    this.#e = e;
    this.#vault = vault;
    this.#gone = gone;
    this.path = e.file === "" ? undefined : vault.path(e.file);
  }

  #here(op: string): string {
    if (this.#e.state !== "kept" || this.#e.file === "") throw new DianError(op, Code.fileNotFound, { detail: "the file is not here any more" });
    return this.#e.file;
  }

  async blob(): Promise<Blob> {
    return this.#vault.blob(this.#here("read file"));
  }

  async save(to?: FileTarget): Promise<string> {
    const { where, moved } = await this.#vault.save(this.#here("save file"), this.safeName, to);
    if (moved) {
      this.path = where;
      await this.#gone();
    }
    return where;
  }

  async remove(): Promise<void> {
    if (this.#e.state !== "kept" || this.#e.file === "") return;
    const file = this.#e.file;
    await this.#gone(); // first: a file that is known and not there would be a lie
    await this.#vault.remove(file);
  }
}

/** A received file that is not kept here: a handle of the user's has it, or the browser's download. */
export class PassedFile implements FileData {
  readonly source: string;
  readonly sendId: string;
  readonly name: string;
  readonly safeName: string;
  readonly type: string;
  readonly meta: Uint8Array;
  readonly size: number;
  readonly receipt: Receipt;
  readonly at = Date.now();
  readonly path = undefined;
  readonly #handle: FileSystemFileHandle | undefined;

  constructor(from: { source: string; sendId: string; name: string; type: string; meta: Uint8Array; size: number }, receipt: Receipt, handle?: FileSystemFileHandle) {
    this.source = from.source;
    this.sendId = from.sendId;
    this.name = from.name;
    this.safeName = safeName(from.name);
    this.type = from.type;
    this.meta = from.meta;
    this.size = from.size;
    this.receipt = receipt;
    this.#handle = handle;
  }

  async blob(): Promise<Blob> {
    if (this.#handle === undefined) throw new DianError("read file", Code.fileNotFound, { detail: "the browser's downloads have it" });
    return (await this.#handle.getFile()).slice(0, this.size, "application/octet-stream");
  }

  async save(): Promise<string> {
    if (this.#handle === undefined) throw new DianError("save file", Code.fileNotFound, { detail: "the browser's downloads have it" });
    return this.#handle.name;
  }

  async remove(): Promise<void> {}
}

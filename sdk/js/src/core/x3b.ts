// The digest x3b: XXH3-128 over the XXH3-128 values of 8 MiB blocks (docs/protocol.md §7.5).
import { createXXHash128, type IHasher } from "hash-wasm";

/** The length of a block in bytes, part of the digest's definition. */
export const blockSize = 8 * 1024 * 1024;

/** The length of a digest in bytes. */
export const digestBytes = 16;

/** Hashes content as it streams by, and can go on from the digests of complete blocks. */
export class X3b {
  readonly #hash: IHasher;
  #blocks: Uint8Array[];
  #filled = 0;

  private constructor(hash: IHasher, blocks: Uint8Array[]) {
    this.#hash = hash;
    this.#blocks = blocks;
    hash.init();
  }

  /** Returns a hasher that stands behind complete blocks with these digests, one after the other. */
  static async create(blocks: Uint8Array = new Uint8Array()): Promise<X3b> {
    const list: Uint8Array[] = [];
    for (let at = 0; at + digestBytes <= blocks.length; at += digestBytes) list.push(blocks.slice(at, at + digestBytes));
    return new X3b(await createXXHash128(), list);
  }

  /** How many bytes were hashed, those of the given blocks included. */
  get length(): number {
    return this.#blocks.length * blockSize + this.#filled;
  }

  /** The digests of the complete blocks, one after the other. */
  get blocks(): Uint8Array {
    return concat(this.#blocks);
  }

  update(p: Uint8Array): void {
    for (let at = 0; at < p.length; ) {
      const n = Math.min(p.length - at, blockSize - this.#filled);
      this.#hash.update(n === p.length ? p : p.subarray(at, at + n));
      this.#filled += n;
      at += n;
      if (this.#filled === blockSize) {
        this.#blocks.push(this.#hash.digest("binary"));
        this.#hash.init();
        this.#filled = 0;
      }
    }
  }

  /** Returns the digest of all, after which nothing may be added. */
  digest(): Uint8Array {
    if (this.#filled > 0) {
      this.#blocks.push(this.#hash.digest("binary"));
      this.#filled = 0;
    }
    this.#hash.init();
    this.#hash.update(concat(this.#blocks));
    return this.#hash.digest("binary");
  }
}

/** Returns the digest of content in memory. */
export async function x3b(p: Uint8Array): Promise<Uint8Array> {
  const h = await X3b.create();
  h.update(p);
  return h.digest();
}

function concat(list: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(list.length * digestBytes);
  list.forEach((b, i) => out.set(b, i * digestBytes));
  return out;
}

/** Reports whether two digests are equal. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

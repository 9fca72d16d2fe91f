import type { Bytes } from "../api.js";

export const empty = new Uint8Array();

const encoder = new TextEncoder();

/** Returns bytes as they are, or a string as UTF-8. */
export function toBytes(b: Bytes): Uint8Array {
  if (typeof b === "string") return encoder.encode(b);
  return b instanceof Uint8Array ? b : new Uint8Array(b);
}

/** Reports whether two runs of bytes are equal. */
export function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Returns bytes as text, with U+FFFD for what is not UTF-8. */
export function toText(b: Uint8Array): string {
  return decoder.decode(b);
}

/** Cuts a text to so many bytes of UTF-8, between characters, with U+FFFD for lone surrogates. */
export function cutText(s: string, most: number): string {
  const b = encoder.encode(s);
  if (b.length <= most) return decoder.decode(b);
  let n = most;
  while (n > 0 && ((b[n] as number) & 0xc0) === 0x80) n--;
  return decoder.decode(b.subarray(0, n));
}

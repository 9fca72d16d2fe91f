// Names from people and peers: user ids, sendIds, names of files. They are data.
import { Limit } from "../limits.js";

const utf8 = new TextEncoder();

/** How many bytes a string has in UTF-8. */
export function bytesOf(s: string): number {
  return utf8.encode(s).length;
}

/** Says why s cannot be a user id (docs/protocol.md §2); "" if it can. The text does not repeat s. */
export function userFault(s: string): string {
  return nameFault(s, Limit.userChars);
}

/** The same for an app id. */
export function appFault(s: string): string {
  return nameFault(s, Limit.appChars);
}

const invisible = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Noncharacter_Code_Point}]/u;
const spaceAtEnd = /^\p{White_Space}|\p{White_Space}$/u;

function nameFault(s: string, chars: number): string {
  if (s === "") return "empty";
  if (s.length > 2 * chars || [...s].length > chars) return `longer than ${chars} characters`;
  if (s === "." || s === "..") return "a dot name";
  if (invisible.test(s)) return "holds a control or invisible character";
  if (spaceAtEnd.test(s)) return "begins or ends with a space";
  if (s.normalize("NFC") !== s) return "not in Unicode normal form C";
  return "";
}

/** Reports whether s is a UUID in canonical lower-case form. */
export function isSendId(s: string): boolean {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(s);
}

/** Returns a fresh sendId: a UUIDv7, so ids sort by their time. */
export function newSendId(now = Date.now()): string {
  const b = crypto.getRandomValues(new Uint8Array(16));
  for (let i = 0; i < 6; i++) b[i] = Math.floor(now / 2 ** (8 * (5 - i))) & 0xff;
  b[6] = ((b[6] as number) & 0x0f) | 0x70;
  b[8] = ((b[8] as number) & 0x3f) | 0x80;
  const hex = toHex(b);
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Returns bytes as lower-case hex. */
export function toHex(b: Uint8Array): string {
  let s = "";
  for (const x of b) s += x.toString(16).padStart(2, "0");
  return s;
}

/** Returns the bytes of a hex string. */
export function fromHex(s: string): Uint8Array {
  const b = new Uint8Array(s.length / 2);
  for (let i = 0; i < b.length; i++) b[i] = parseInt(s.slice(2 * i, 2 * i + 2), 16);
  return b;
}

const maxSafe = 240; // bytes; leaves room for " (123)" below the usual 255
const maxExt = 32; // bytes, dot included; longer ones are not extensions
const unsafe = new RegExp(
  '[<>:"|?*\\uff0f\\uff3c\\ufe68\\u2100\\u2101\\u2105\\u2106\\u2044\\u2215\\u2216\\u29f5\\u29f8\\u29f9' +
    "\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}\\p{Default_Ignorable_Code_Point}\\p{Variation_Selector}" +
    "\\u2800\\uf000-\\uf0ff\\p{Noncharacter_Code_Point}]",
  "gu",
);

/**
 * Turns the name that a peer gave a file into one that is safe to create on any system
 * (cases 57 to 63): the same as the Go SDK's, testdata/vectors/names.json tells.
 */
export function safeName(name: string): string {
  name = name.normalize("NFC").replace(/[/\\]+$/, "");
  name = name.slice(Math.max(name.lastIndexOf("/"), name.lastIndexOf("\\")) + 1);
  name = trimEnd(name.replace(unsafe, "_"));
  if (trimEnd(name.normalize("NFKC")) === "") return "unnamed"; // "‥" is ".." to whoever folds names
  name = cut(name);
  return reserved(name) ? cut("_" + name) : name;
}

/** Returns the name to try after i taken ones: "photo (1).jpg". */
export function numbered(name: string, i: number): string {
  if (i === 0) return name;
  const [stem, ext] = splitExt(name);
  return `${stem} (${i})${ext}`;
}

function cut(name: string): string {
  if (bytesOf(name) <= maxSafe) return name;
  const [stem, ext] = splitExt(name);
  const room = maxSafe - bytesOf(ext);
  let size = 0;
  let kept = "";
  for (const c of stem) {
    size += bytesOf(c);
    if (size > room) break;
    kept += c;
  }
  return trimEnd(kept + ext);
}

function trimEnd(name: string): string {
  return name.replace(/[.\p{White_Space}]+$/u, "");
}

function splitExt(name: string): [string, string] {
  const dot = name.lastIndexOf(".");
  if (dot <= 0 || bytesOf(name.slice(dot)) > maxExt) return [name, ""];
  return [name.slice(0, dot), name.slice(dot)];
}

function reserved(name: string): boolean {
  const stem = (name.normalize("NFKC").split(".")[0] ?? "").replace(/\p{White_Space}+$/u, "").toUpperCase();
  return /^(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|COM[0-9]|LPT[0-9])$/.test(stem);
}

// Numbers, times and names for people.

const units = ["B", "KB", "MB", "GB", "TB"];

/** 1536 → "1.5 KB": powers of 1024, two or three digits. */
export function bytes(n: number): string {
  let u = 0;
  let v = n;
  while (v >= 1000 && u < units.length - 1) {
    v /= 1024;
    u++;
  }
  return `${u === 0 || v >= 100 ? Math.round(v) : v.toFixed(v >= 10 ? 1 : 2).replace(/\.?0+$/, "")} ${units[u]}`;
}

/** 75 → "1:15". */
export function clock(seconds: number): string {
  const s = Math.max(0, Math.ceil(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

/** The time of day, as people write it where the browser is set to be, if that is of the language. */
export function timeOfDay(at: number, language: string): string {
  const own = navigator.language.split("-")[0] === language.split("-")[0] ? navigator.language : language;
  return new Date(at).toLocaleTimeString(own, { hour: "2-digit", minute: "2-digit" });
}

/** A name or an id as it may be shown in one line: what would turn or hide text is made visible (case 115). */
export function shownName(s: string): string {
  return s.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => (c === "\u200d" || c === "\u200c" ? c : `⟨${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}⟩`));
}

/** A text of several lines: only what overrides the direction, and control characters, are made visible. */
export function shownText(s: string): string {
  return s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202d\u202e]/g, (c) => (c === "\r" ? "" : `⟨${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`));
}

/** How fast something goes: over the last seconds, so that it neither jumps nor lags much. */
export class Rate {
  #seen: { at: number; n: number }[] = [];

  /** Notes that there are n bytes at a time in ms. */
  add(n: number, at: number): void {
    this.#seen.push({ at, n });
    while (this.#seen.length > 2 && at - (this.#seen[1] as { at: number }).at > 5000) this.#seen.shift();
  }

  /** What was before a break says nothing. */
  reset(): void {
    this.#seen = [];
  }

  /** Bytes a second, 0 if that is not known. */
  perSecond(now: number): number {
    const first = this.#seen[0];
    const last = this.#seen[this.#seen.length - 1];
    if (first === undefined || last === undefined || last.at - first.at < 400) return 0;
    return ((last.n - first.n) * 1000) / (Math.max(now, last.at) - first.at);
  }
}

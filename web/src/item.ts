// One thing that was sent or received in this tab, and how that went.
import type { FileData, Kind, Receipt, Task } from "@dian-im/sdk";
import { bytes, clock, Rate, shownName } from "./format.js";
import { w } from "./words.js";

/** Where it stands. `asking` waits for the other side, `line` for the line. */
export type Phase = "queued" | "asking" | "line" | "sending" | "receiving" | "verifying" | "offered" | "cancelling" | "done";

/** What ended it: the code is not all, because on the receiver some ends have none. */
export type End = "result" | "withdrawn" | "refusedHere" | "cancelledHere" | "cancelledThere" | "lost" | "earlier";

export interface Item {
  readonly key: string;
  readonly dir: "out" | "in";
  readonly kind: Kind;
  readonly peer: string;
  sendId: string;
  /** As sent: data. `safeName` is what a file may be called. */
  name: string;
  safeName: string;
  type: string;
  size: number;
  at: number;
  text: string | undefined;
  phase: Phase;
  moved: number;
  end: End;
  code: number;
  detail: string;
  byPeer: boolean; // whose word the code is
  receipt: Receipt;
  lengthOnly: boolean;
  task: Task | undefined;
  file: FileData | undefined;
  blob: Blob | undefined;
  removed: boolean;
  stop: (() => void) | undefined;
  again: (() => void) | undefined;
  readonly rate: Rate;
  /** Rises with each change, so that views know. */
  rev: number;
}

export function newItem(from: Pick<Item, "key" | "dir" | "kind" | "peer" | "sendId"> & Partial<Item>): Item {
  return {
    name: "", safeName: "", type: "", size: 0, at: Date.now(), text: undefined, phase: "queued", moved: 0, end: "result", code: 0, detail: "",
    byPeer: false, receipt: "none", lengthOnly: false, task: undefined, file: undefined, blob: undefined, removed: false, stop: undefined,
    again: undefined, rate: new Rate(), rev: 0, ...from,
  };
}

/** The name as it may be shown. */
export function title(i: Item): string {
  if (i.name !== "") return shownName(i.name);
  if (i.text !== undefined) return shownName(i.text.slice(0, 80).replace(/\s+/g, " "));
  return `${w.kinds[i.kind]} ${w.noName}`;
}

export function succeeded(i: Item): boolean {
  return i.phase === "done" && (i.end === "earlier" || (i.end === "result" && i.code === 0));
}

/** How it stands, or how it has ended, in words. */
export function words(i: Item, now: number): string {
  const who = shownName(i.peer);
  switch (i.phase) {
    case "queued": return w.states.queued;
    case "asking": return w.states.asking(who);
    case "line": return i.moved > 0 && i.size > 0 ? `${w.of(bytes(i.moved), bytes(i.size))} · ${w.states.line}` : w.states.line;
    case "verifying": return w.states.verifying;
    case "offered": return w.states.offered;
    case "cancelling": return w.states.cancelling;
    case "sending":
    case "receiving": {
      const parts = [i.phase === "sending" ? w.states.sending : w.states.receiving];
      if (i.kind !== "command") parts[0] = w.of(bytes(i.moved), bytes(i.size));
      const rate = i.rate.perSecond(now);
      if (rate > 0) {
        parts.push(w.rate(bytes(rate)));
        const left = (i.size - i.moved) / rate;
        if (i.moved < i.size && left < 360_000) parts.push(w.left(clock(left)));
      }
      return parts.join(" · ");
    }
    case "done": return outcome(i, who);
  }
}

function outcome(i: Item, who: string): string {
  const r = w.results;
  switch (i.end) {
    case "withdrawn": return r.withdrawn(who);
    case "refusedHere": return r.refusedByYou;
    case "cancelledHere": return r.cancelledByYou;
    case "cancelledThere": return r.cancelledBy(who);
    case "lost": return r.lost;
    case "earlier": return i.removed ? r.earlier + " · " + w.removed : r.earlier;
    case "result":
  }
  if (i.code !== 0) {
    if (i.code === 1105) return i.byPeer ? r.cancelledBy(who) : r.cancelledByYou;
    const text = w.codes(i.code, i.dir === "in" ? "" : who);
    const says = i.detail === "" ? "" : ` · ${i.byPeer ? r.says(who, shownName(i.detail)) : shownName(i.detail)}`;
    return `${text} (${r.code(i.code)})${says}`;
  }
  if (i.kind === "command") return i.dir === "out" ? r.delivered : r.received;
  let text = i.dir === "in" ? r.storedIn : i.kind === "file" ? r.storedOut(who) : r.bufferOut(who);
  if (i.receipt === "handed") text = i.dir === "in" ? r.handedIn : r.handedOut(who);
  if (i.lengthOnly) text += ` · ${r.lengthOnly}`;
  return i.removed ? `${text} · ${w.removed}` : text;
}

// What a page and its worker say to each other.
import type { DownEnd, DownRequest } from "../platform.js";

/** A question of the page: `n` names it, `part` the part it is about. */
export type Question = { n: number; part: number } & (
  | { ask: "open"; place: string; file: string; size: number; offset: number; blocks: string }
  | { ask: "receive"; request: DownRequest }
  | { ask: "bytes"; data: Uint8Array }
  | { ask: "abort" } // of the lane that runs; not answered
  | { ask: "mark" }
  | { ask: "digest"; algorithm: string }
  | { ask: "commit" }
  | { ask: "close" }
  | { ask: "drop" }
);

/** What a question gets back, by its kind. */
export interface Answers {
  open: { offset: number };
  receive: DownEnd;
  bytes: { offset: number };
  abort: null;
  mark: { offset: number; blocks: string };
  digest: Uint8Array;
  commit: null;
  close: null;
  drop: null;
}

export type Reply =
  | { n: number; answer: Answers[keyof Answers] }
  | { n: number; code: number; name: string } // it failed
  | { part: number; took: number };

// What the machines of transfers are told, and what they ask for.

export const retryFirst = 250; // ms; doubles with each try without progress
export const retryMost = 5_000;
export const pieceMin = 1 << 20;
export const pieceMax = 8 << 20;
export const pieceQuick = 2_000; // a piece that took less is followed by a larger one

/** How a lane or a HEAD ended. */
export type LaneEnd =
  | "broken" // no answer, or one that asks for another try
  | "confirmed" // 204 or a HEAD's 200, with an offset
  | "conflict" // 409
  | "notThere" // 423
  | "gone" // 404
  | "tooLarge" // 413 without a code of ours
  | "final" // another 4xx, with its code
  | "whole" // down-lane: its range has ended as a whole
  | "nothing" // down-lane: 503, nothing to send at the moment
  | "over"; // down-lane: 410

/** How a task ended, and whose word that is. */
export interface SenderResult {
  code: number;
  receipt: "none" | "stored" | "handed";
  origin: "local" | "server" | "peer";
  lengthOnly: boolean;
  detail: string;
}

export interface SenderConfig {
  size: number;
  inlined: boolean; // the content is in the offer
  reused: boolean; // the sendId may have been used by an earlier process
  window: number; // without progress the task ends with 207
  offerWait: number; // how long the server waits for an answer
  peerWait: number; // how long an offline peer is waited for
  jitter: (d: number) => number;
}

export type SenderEvent =
  | { on: "lineUp" }
  | { on: "lineDown" }
  | { on: "accepted"; transfer: string; url: string; offset: number; instance: Uint8Array }
  | { on: "received"; offset: number }
  | { on: "verdict"; transfer: string; result: SenderResult }
  | { on: "unknown" }
  | { on: "cancel" }
  | { on: "sourceFailed"; code: number; detail: string }
  | { on: "digested" }
  | { on: "wrote"; lane: number; offset: number }
  | { on: "laneEnded"; lane: number; end: LaneEnd; offset?: number; code?: number; detail?: string }
  | { on: "tick" };

export type SenderAction =
  | { do: "offer"; resent: boolean }
  | { do: "finish" }
  | { do: "ack"; transfer: string }
  | { do: "cancel" }
  | { do: "openLane"; lane: number; offset: number; length: number }
  | { do: "askHead"; lane: number }
  | { do: "endLane" }
  | { do: "digest" }
  | { do: "progress"; offset: number }
  | { do: "tell" };

/** What the receiver knows of a transfer from an earlier life. */
export interface ReceiverRecord {
  state: "unknown" | "partial" | "have" | "cancelled";
  offset: number;
  size: number;
  code: number;
  receipt: "none" | "stored" | "handed";
}

/** How a transfer ended here. */
export interface ReceiverVerdict {
  code: number;
  receipt: "none" | "stored" | "handed";
  lengthOnly: boolean;
  detail: string;
}

export interface ReceiverConfig {
  record: ReceiverRecord;
  idle: number; // how long it is kept open without a byte, and a verdict is repeated
  jitter: (d: number) => number;
}

/** The digest of a Finish or an inline offer. */
export interface ContentDigest {
  algorithm: string;
  value: Uint8Array;
}

export type ReceiverEvent =
  | { on: "offered"; transfer: string; url: string; ticket: string; size: number; inlined: boolean; digest: ContentDigest | undefined }
  | { on: "sync"; offset: number }
  | { on: "finish"; digest: ContentDigest | undefined }
  | { on: "cancel"; transfer: string }
  | { on: "query"; transfer: string; url: string; ticket: string }
  | { on: "acked" }
  | { on: "lineUp" }
  | { on: "lineDown" }
  | { on: "accept"; receipt: "stored" | "handed" }
  | { on: "refuse"; code: number; detail: string }
  | { on: "stop" } // the application's cancel
  | { on: "ready"; offset: number } // the place is there, with so many bytes
  | { on: "broke"; code: number; detail: string } // the bytes cannot be kept
  | { on: "took"; offset: number }
  | { on: "laneEnded"; lane: number; end: LaneEnd }
  | { on: "kept"; verdict: ReceiverVerdict } // the outcome of verify
  | { on: "tick" };

export type ReceiverAction =
  | { do: "answer"; transfer: string; decision: "accept" | "refuse" | "have"; offset: number; verdict: ReceiverVerdict }
  | { do: "received"; transfer: string; offset: number; mark: boolean } // with mark it has to survive this process
  | { do: "verdict"; transfer: string; verdict: ReceiverVerdict }
  | { do: "standing"; transfer: string; state: "unknown" | "partial" | "have" | "cancelled"; offset: number; size: number; verdict: ReceiverVerdict }
  | { do: "ask" } // the application
  | { do: "prepare" } // find a place, then ready or broke
  | { do: "openLane"; lane: number; offset: number; length: number } // length 0: all
  | { do: "endLane" }
  | { do: "verify" } // verify, flush, write down, notify: then kept
  | { do: "drop"; record: boolean } // remove what is here; with record, write down that it is cancelled
  | { do: "leave" } // close what is here, to go on with later
  | { do: "withdrawn" } // the application's answer is not waited for any more
  | { do: "notifyCancel" }
  | { do: "forget" };

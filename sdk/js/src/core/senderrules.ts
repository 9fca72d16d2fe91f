// Where an outgoing buffer or file may stand, and what the sender's machine waits for:
//
//   offered → streaming → verifying → done
//             streaming ⇄ interrupted
//   offered, interrupted → verifying                nothing is left to upload
//   verifying → interrupted                         bytes that were written are lost
//   streaming, interrupted, verifying → offered     the receiver knows nothing of it any more
//   any but the last four → done | refused | cancelled | failed
import type { SenderResult } from "./steps.js";

export type SenderState = "offered" | "streaming" | "interrupted" | "verifying" | "done" | "refused" | "cancelled" | "failed";

export const moves: Record<SenderState, readonly SenderState[]> = {
  offered: ["streaming", "interrupted", "verifying", "done", "refused", "cancelled", "failed"],
  streaming: ["offered", "interrupted", "verifying", "done", "refused", "cancelled", "failed"],
  interrupted: ["offered", "streaming", "verifying", "done", "refused", "cancelled", "failed"],
  verifying: ["offered", "interrupted", "done", "refused", "cancelled", "failed"],
  done: [], refused: [], cancelled: [], failed: [],
};

export const peerRetry = 1_000; // between offers while the peer is offline
export const stallTime = 10_000; // without confirmed progress: bounded pieces
export const pieceTime = 30_000; // for a bounded piece
export const finalTime = 5_000; // for the verdict that goes with a lane's final answer
export const offerSlack = 30_000; // beyond the server's own time for an answer
export const boundedFor = 64 << 20; // after so much in pieces, whole lanes are tried again…
export const boundedMost = 2; // …so often
export const finalsMost = 3; // final answers of lanes without a verdict or progress
export const askedMost = 20; // offers after "unknown" without any progress

/** A result that is this side's own word. */
export const own = (code: number, detail = ""): SenderResult => ({ code, detail, origin: "local", receipt: "none", lengthOnly: false });

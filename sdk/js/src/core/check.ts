// What docs/protocol.md allows in a frame from the server, before anything is kept of it.
// A frame with a bad field is left out: what it was about is asked for again.
import { Limit } from "../limits.js";
import { appFault, bytesOf, isSendId, userFault } from "./names.js";
import type { Body, CommandResult, Digest, Offer, Peer, Welcome } from "./wire.js";

/** Says what is wrong with a frame from the server; "" if it is good. */
export function frameFault(f: Body): string {
  switch (f.case) {
    case "welcome":
      return welcomeFault(f.value);
    case "lineOff":
    case "tokenUpdated":
      return tooLong("detail", f.value.detail, Limit.detailBytes);
    case "command": {
      const c = f.value;
      if (c.data.length > Limit.commandBytes) return "data is too long";
      if (!isSendId(c.id)) return "bad id";
      if (c.stream === 0n && (c.seq !== 0n || c.floor !== 0n)) return "seq or floor without a stream";
      if (c.stream !== 0n && (c.floor < 1n || c.floor > c.seq)) return "floor is not in 1 to seq";
      if (c.seq === 0xffff_ffff_ffff_ffffn) return "seq is too large";
      return peerFault(c.source) || tooLong("meta", c.meta, Limit.metaBytes) || tooLong("header", c.header, Limit.headerBytes);
    }
    case "commandResult":
      return resultFault(f.value);
    case "offer":
      return offerFault(f.value);
    case "accepted": {
      const a = f.value;
      if (!isSendId(a.sendId)) return "bad send_id";
      return transferFault(a.transfer) || tooLong("url", a.url, Limit.urlBytes) || size("offset", a.offset) || peerFault(a.peer);
    }
    case "received":
    case "sync":
      return transferFault(f.value.transfer) || size("offset", f.value.offset);
    case "finish":
      return transferFault(f.value.transfer) || digestFault(f.value.digest);
    case "verdict": {
      const v = f.value;
      return either(v.sendId, v.transfer) || tooLong("detail", v.detail, Limit.detailBytes) || (v.receipt > 2 ? "receipt has no such value" : "");
    }
    case "verdictAck":
      return transferFault(f.value.transfer);
    case "cancel":
      if (f.value.source === undefined) return either(f.value.sendId, f.value.transfer);
      return either(f.value.sendId, f.value.transfer) || peerFault(f.value.source) || (isSendId(f.value.sendId) ? "" : "bad send_id");
    case "query": {
      const q = f.value;
      if (!isSendId(q.sendId)) return "bad send_id";
      return transferFault(q.transfer) || peerFault(q.source) || tooLong("url", q.url, Limit.urlBytes) || tooLong("ticket", q.ticket, Limit.ticketBytes);
    }
    case "standing":
      return either(f.value.sendId, f.value.transfer) || size("offset", f.value.offset) || size("size", f.value.size);
    default:
      return "";
  }
}

function welcomeFault(w: Welcome): string {
  if (userFault(w.user) !== "" || appFault(w.app) !== "") return "user or app is malformed";
  const l = w.limits;
  if (l !== undefined) {
    for (const v of [l.commandBytes, l.replyBytes, l.bufferBytes, l.fileBytes, l.inlineBytes, l.metaBytes, l.headerBytes,
      l.resumeWindowMs, l.offerWaitMs, l.commandWaitMs]) {
      if (v < 0n) return "a limit is negative";
    }
  }
  return tooLong("lane_base", w.laneBase, Limit.urlBytes);
}

function resultFault(r: CommandResult): string {
  if (!isSendId(r.id)) return "bad id";
  if (r.outcome < 1 || r.outcome > 3) return "outcome has no such value";
  return tooLong("reply", r.reply, Limit.replyBytes) || tooLong("detail", r.detail, Limit.detailBytes);
}

function offerFault(o: Offer): string {
  if (!isSendId(o.sendId)) return "bad send_id";
  if (o.kind < 1 || o.kind > 2) return "kind has no such value";
  if (o.kind === 1 && o.size > BigInt(Limit.bufferBytes)) return "the buffer is too large";
  if (!o.inlined && o.inline.length > 0) return "inline content in an offer that is not inlined";
  if (o.inlined && BigInt(o.inline.length) !== o.size) return "inline is not as long as size says";
  return (
    peerFault(o.source) || size("size", o.size) || transferFault(o.transfer) || digestFault(o.digest) ||
    tooLong("inline", o.inline, Limit.inlineBytes) || tooLong("name", o.name, Limit.nameBytes) ||
    tooLong("type", o.type, Limit.typeBytes) || tooLong("meta", o.meta, Limit.metaBytes) ||
    tooLong("header", o.header, Limit.headerBytes) || tooLong("url", o.url, Limit.urlBytes) ||
    tooLong("ticket", o.ticket, Limit.ticketBytes)
  );
}

function tooLong(name: string, v: string | Uint8Array, limit: number): string {
  const n = typeof v === "string" ? (v.length > limit ? v.length : bytesOf(v)) : v.length;
  return n > limit ? `${name} is too long` : "";
}

function size(name: string, v: bigint): string {
  return v < 0n ? `${name} is negative` : "";
}

function transferFault(id: string): string {
  return id === "" ? "transfer is empty" : tooLong("transfer", id, Limit.transferBytes);
}

function either(sendId: string, transfer: string): string {
  if (sendId === "") return transferFault(transfer);
  return isSendId(sendId) ? tooLong("transfer", transfer, Limit.transferBytes) : "bad send_id";
}

function peerFault(p: Peer | undefined): string {
  if (p === undefined) return "source is missing";
  const n = p.instance.length;
  return userFault(p.user) || (n === 0 || n === Limit.instanceBytes ? "" : "bad instance");
}

function digestFault(d: Digest | undefined): string {
  if (d === undefined) return "";
  const want = d.algorithm === "x3b" ? 16 : d.algorithm === "sha-256" ? 32 : -1;
  return d.value.length === want ? "" : "a digest of an unknown kind or length";
}

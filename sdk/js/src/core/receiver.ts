// The receiver's machine for one buffer or file: events go in, actions come out. It has
// no clock, timer or I/O, and does the same as internal/transfer's Receiver in Go.
//
//   asking → preparing → receiving → verifying → done
//            receiving ⇄ parked
//   preparing → verifying             the content came inside the offer
//   any but the last four → done | refused | cancelled | failed
//
// done straight from asking is a transfer that was delivered in an earlier life.
import { Code } from "../codes.js";
import {
  pieceMax, pieceMin, pieceQuick, retryFirst, retryMost,
  type ContentDigest, type LaneEnd, type ReceiverAction, type ReceiverConfig, type ReceiverEvent, type ReceiverVerdict,
} from "./steps.js";

export type ReceiverState = "asking" | "preparing" | "receiving" | "parked" | "verifying" | "done" | "refused" | "cancelled" | "failed";

const ends: readonly ReceiverState[] = ["done", "refused", "cancelled", "failed"];
const moves: Partial<Record<ReceiverState, readonly ReceiverState[]>> = {
  asking: ["preparing", ...ends],
  preparing: ["receiving", "verifying", ...ends],
  receiving: ["parked", "verifying", ...ends],
  parked: ["receiving", "verifying", ...ends],
  verifying: ends,
};

const receivedEvery = 100; // ms between two Received at least
const silentTime = 5_000; // without a byte that a Sync speaks of: bounded ranges

const verdictOf = (code: number, detail = ""): ReceiverVerdict => ({ code, detail, receipt: "none", lengthOnly: false });

export class Receiver {
  readonly #cfg: ReceiverConfig;
  state: ReceiverState = "asking";
  verdict: ReceiverVerdict = verdictOf(Code.ok);
  over = false; // the machine can be forgotten
  offset = 0; // bytes that are here
  transfer = "";
  url = "";
  ticket = "";
  digest: ContentDigest | undefined;
  syncAt = 0; // to be told of at once; 0: nothing

  #offered = false; // an Offer has come: size and the rest are known
  #size = 0;
  #inlined = false;
  #receipt: "none" | "stored" | "handed" = "none";
  #confirmed = 0; // the last Received
  #told = -Infinity;
  #syncFrom = 0;
  #finish = false;
  #lane = 0;
  #running = false;
  #laneAt = 0;
  #laneFrom = 0;
  #laneTicket = "";
  #tries = 0;
  #next: number | undefined;
  #piece = 0; // of bounded ranges; 0: not bounded
  #lastByte: number;
  #stopping = false; // a cancel waits for the outcome of verifying
  #acked = false;
  #endedAt = 0;
  #out: ReceiverAction[] = [];

  constructor(cfg: ReceiverConfig, now: number) {
    this.#cfg = cfg;
    this.#lastByte = now;
  }

  get ended(): boolean {
    return ends.includes(this.state);
  }
  get size(): number {
    return this.#size;
  }

  step(now: number, e: ReceiverEvent): ReceiverAction[] {
    this.#out = [];
    if (this.over) return this.#out;
    switch (e.on) {
      case "offered": this.#onOffered(now, e); break;
      case "sync": this.#sync(now, e.offset); break;
      case "finish": this.#onFinish(now, e.digest); break;
      case "cancel": this.#onCancel(now, e.transfer); break;
      case "query": this.#query(now, e); break;
      case "acked":
        if (!this.ended) break;
        this.#acked = true;
        this.#forget();
        break;
      case "lineUp":
        if (this.ended && !this.#acked && this.state !== "refused") this.#sendVerdict();
        break;
      case "lineDown": break;
      case "accept":
        if (this.state !== "asking" || !this.#offered) break;
        this.#receipt = e.receipt;
        this.#move("preparing");
        this.#out.push({ do: "prepare" });
        break;
      case "refuse":
        if (this.state !== "asking" || !this.#offered) break;
        this.#end(now, "refused", verdictOf(e.code, e.detail));
        this.#answer("refuse");
        break;
      case "stop":
        if (this.ended || !this.#offered) break;
        if (this.state === "verifying") this.#stopping = true;
        else this.#cancelled(now, false);
        break;
      case "ready": this.#ready(now, e.offset); break;
      case "broke": this.#broke(now, verdictOf(e.code, e.detail)); break;
      case "took": this.#took(now, e.offset); break;
      case "laneEnded": this.#laneEnded(now, e); break;
      case "kept": this.#kept(now, e.verdict); break;
      case "tick": this.#tick(now); break;
    }
    return this.#out;
  }

  #move(next: ReceiverState): void {
    if (this.state === next) return;
    if (!moves[this.state]?.includes(next)) throw new Error(`dian: receiver cannot move from ${this.state} to ${next}`);
    this.state = next;
  }

  #sendVerdict(): void {
    this.#out.push({ do: "verdict", transfer: this.transfer, verdict: this.verdict });
  }

  #answer(decision: "refuse" | "have"): void {
    this.#out.push({ do: "answer", transfer: this.transfer, decision, offset: this.offset, verdict: this.verdict });
  }

  #accept(): void {
    const verdict = { ...verdictOf(Code.ok), receipt: this.#receipt };
    this.#out.push({ do: "answer", transfer: this.transfer, decision: "accept", offset: this.offset, verdict });
    this.#confirmed = Math.max(this.#confirmed, this.offset);
  }

  #forget(): void {
    this.over = true;
    this.#out.push({ do: "forget" });
  }

  /** Brings the transfer to its end, once. Who calls it says so to the server. */
  #end(now: number, state: ReceiverState, v: ReceiverVerdict): void {
    this.#endLane();
    this.#move(state);
    this.verdict = v;
    this.#endedAt = now;
  }

  #endLane(): void {
    this.#next = undefined;
    if (!this.#running) return;
    this.#running = false;
    this.#out.push({ do: "endLane" });
  }

  /** Ends a machine of which the record says that it has ended before. */
  #recall(now: number): void {
    if (this.state !== "asking" || this.#offered) return;
    const r = this.#cfg.record;
    if (r.state === "have") this.#end(now, "done", { ...verdictOf(r.code), receipt: r.receipt });
    else if (r.state === "cancelled") this.#end(now, "cancelled", verdictOf(Code.cancelled));
  }

  #onOffered(now: number, e: Extract<ReceiverEvent, { on: "offered" }>): void {
    this.#recall(now);
    if (this.#offered && e.size !== this.#size && !this.ended) {
      // Another content under an id that is in use: only this offer is refused.
      const verdict = verdictOf(Code.badSendId, "the id is in use");
      this.#out.push({ do: "answer", transfer: e.transfer, decision: "refuse", offset: 0, verdict });
      return;
    }
    this.transfer = e.transfer;
    this.url = e.url;
    this.ticket = e.ticket;
    this.#acked = false;
    if (this.state === "done") this.#answer("have");
    else if (this.state === "cancelled" || this.state === "refused") this.#answer("refuse");
    else if (this.state === "failed") this.#sendVerdict();
    else if (!this.#offered) {
      this.#offered = true;
      this.#size = e.size;
      this.#inlined = e.inlined;
      if (e.inlined) {
        this.#finish = true;
        this.digest = e.digest;
      }
      this.#out.push({ do: "ask" });
    } else if (this.state === "verifying" && !this.#inlined) this.#accept();
    else if (this.state === "receiving" || this.state === "parked") {
      this.#accept();
      this.#goOn(now);
    }
  }

  /** Gets bytes to flow again after the server has shown that it knows the transfer. */
  #goOn(now: number): void {
    this.#move("receiving");
    this.#tries = 0;
    if (this.#running && now - this.#laneFrom >= silentTime && now - this.#lastByte >= silentTime) this.#endLane();
    this.#lastByte = now;
    if (!this.#running && this.offset < this.#size) this.#open(now);
    this.#whole();
  }

  #open(now: number): void {
    this.#next = undefined;
    this.#lane++;
    this.#running = true;
    this.#laneAt = this.offset;
    this.#laneFrom = now;
    this.#laneTicket = this.ticket;
    const length = this.#piece > 0 && this.#size - this.offset > this.#piece ? this.#piece : 0;
    this.#out.push({ do: "openLane", lane: this.#lane, offset: this.offset, length });
  }

  #later(now: number): void {
    const wait = Math.min(retryFirst * 2 ** Math.min(this.#tries, 10), retryMost);
    this.#tries++;
    this.#next = now + this.#cfg.jitter(wait);
  }

  #ready(now: number, offset: number): void {
    if (this.state !== "preparing") return;
    this.#lastByte = now;
    if (this.#inlined) {
      this.offset = this.#size;
      this.#whole();
      return;
    }
    this.offset = Math.min(Math.max(offset, 0), this.#size);
    this.#move("receiving");
    this.#accept();
    if (this.offset < this.#size) this.#open(now);
    this.#whole();
  }

  /** Begins to verify if everything is there. */
  #whole(): void {
    if (this.state !== "receiving" && this.state !== "parked" && this.state !== "preparing") return;
    if (!this.#finish || this.offset !== this.#size) return;
    this.#endLane();
    this.#move("verifying");
    this.#out.push({ do: "verify" });
  }

  #took(now: number, offset: number): void {
    if (offset <= this.offset || offset > this.#size || (this.state !== "receiving" && this.state !== "parked")) return;
    this.offset = offset;
    this.#lastByte = now;
    this.#tries = 0;
    if (this.syncAt > 0 && offset >= this.syncAt) {
      this.syncAt = 0;
      this.#received(now, true);
    } else if (offset === this.#size || now - this.#told >= receivedEvery) this.#received(now, false);
    this.#whole();
  }

  #received(now: number, mark: boolean): void {
    this.#told = now;
    this.#confirmed = this.offset;
    this.#out.push({ do: "received", transfer: this.transfer, offset: this.offset, mark });
  }

  #sync(now: number, offset: number): void {
    if (this.state !== "receiving" && this.state !== "parked" && this.state !== "verifying") return;
    if (offset > this.#size) return;
    if (offset <= this.offset) this.#received(now, this.state !== "verifying");
    else {
      if (this.syncAt === 0) this.#syncFrom = now;
      this.syncAt = Math.max(this.syncAt, offset);
    }
  }

  #onFinish(now: number, d: ContentDigest | undefined): void {
    this.#recall(now);
    if (this.ended) {
      this.#sendVerdict();
      return;
    }
    if (!this.#offered) {
      this.#forget(); // of a part that was left: an offer or a question goes on with it
      return;
    }
    if (this.#inlined || this.state === "verifying") return;
    this.#finish = true;
    this.digest = d;
    if (this.state === "receiving" || this.state === "parked") this.#whole();
  }

  #onCancel(now: number, transfer: string): void {
    if (this.transfer === "") this.transfer = transfer;
    this.#recall(now);
    if (this.ended) this.#sendVerdict();
    else if (this.state === "verifying") this.#stopping = true;
    else this.#cancelled(now, true);
  }

  /** Removes and writes down what was cancelled. */
  #cancelled(now: number, bySender: boolean): void {
    const asking = this.state === "asking" && this.#offered;
    const accepted = this.state !== "asking";
    this.#end(now, "cancelled", verdictOf(Code.cancelled));
    if (asking) this.#out.push({ do: "withdrawn" });
    this.#out.push({ do: "drop", record: true });
    if (accepted) this.#out.push({ do: "withdrawn" });
    if (accepted && bySender) this.#out.push({ do: "notifyCancel" });
    this.#sendVerdict();
  }

  #broke(now: number, v: ReceiverVerdict): void {
    if (this.ended || this.state === "asking" || this.state === "verifying") return;
    const preparing = this.state === "preparing";
    this.#end(now, "failed", v);
    // Without space the part would keep the disk full for everybody else.
    this.#out.push(v.code === Code.noSpace ? { do: "drop", record: false } : { do: "leave" });
    this.#out.push({ do: "withdrawn" });
    if (preparing) this.#answer("refuse");
    else this.#sendVerdict();
  }

  #kept(now: number, v: ReceiverVerdict): void {
    if (this.state !== "verifying") return;
    if (v.code === Code.ok) {
      this.#end(now, "done", v);
      this.#sendVerdict();
    } else if (this.#stopping) this.#cancelled(now, true);
    else {
      this.#end(now, "failed", v);
      this.#out.push({ do: "withdrawn" });
      this.#sendVerdict();
    }
  }

  #query(now: number, e: { transfer: string; url: string; ticket: string }): void {
    this.#recall(now);
    this.transfer = e.transfer;
    this.url = e.url;
    this.ticket = e.ticket;
    const standing = (state: "unknown" | "partial" | "have" | "cancelled") =>
      this.#out.push({ do: "standing", transfer: this.transfer, state, offset: this.offset, size: this.#size, verdict: this.verdict });
    switch (this.state) {
      case "done": standing("have"); break;
      case "cancelled": standing("cancelled"); break;
      case "refused":
      case "failed": this.#sendVerdict(); break;
      case "asking":
      case "preparing":
        // The sender offers again; a part that is here is gone on with then.
        standing("unknown");
        if (!this.#offered) this.#forget();
        break;
      default:
        standing("partial");
        this.#confirmed = this.offset;
        if (this.state !== "verifying") this.#goOn(now);
    }
  }

  #laneEnded(now: number, e: { lane: number; end: LaneEnd }): void {
    if (!this.#running || e.lane !== this.#lane || this.state !== "receiving") return;
    this.#running = false;
    if (this.offset === this.#size) return; // waits for Finish
    const moved = this.offset > this.#laneAt;
    switch (e.end) {
      case "gone":
      case "over":
        // A lane that was opened before the latest offer or question says nothing.
        if (this.#laneTicket !== this.ticket) this.#later(now);
        else this.#move("parked");
        break;
      case "whole":
        if (this.#piece > 0 && moved) {
          if (now - this.#laneFrom < pieceQuick) this.#piece = Math.min(2 * this.#piece, pieceMax);
          this.#open(now);
        } else this.#later(now);
        break;
      case "nothing":
        if (now - this.#laneFrom >= 1_000) this.#open(now);
        else this.#later(now);
        break;
      default:
        if (this.#piece > 0 && !moved) this.#piece = Math.max(this.#piece / 2, pieceMin);
        this.#later(now);
    }
  }

  /** When the bytes that a Sync speaks of should have come. */
  #silentAt(): number | undefined {
    if (this.syncAt === 0 || this.#piece > 0 || !this.#running) return undefined;
    return Math.max(this.#lastByte, this.#syncFrom, this.#laneFrom) + silentTime;
  }

  /** When the next tick is due; undefined for never. */
  wake(): number | undefined {
    if (this.over) return undefined;
    if (this.ended) return this.#endedAt + this.#cfg.idle;
    if (this.state !== "receiving" && this.state !== "parked") return undefined;
    let at = this.#lastByte + this.#cfg.idle;
    for (const t of [this.#next, this.#silentAt()]) if (t !== undefined) at = Math.min(at, t);
    if (this.offset > this.#confirmed) at = Math.min(at, this.#told + receivedEvery);
    return at;
  }

  #tick(now: number): void {
    if (this.ended) {
      if (now >= this.#endedAt + this.#cfg.idle) this.#forget();
      return;
    }
    if (this.state !== "receiving" && this.state !== "parked") return;
    if (now >= this.#lastByte + this.#cfg.idle) {
      // Nobody goes on with it. What is here stays for a later offer.
      this.#endLane();
      this.#out.push({ do: "leave" });
      this.#forget();
      return;
    }
    if (this.offset > this.#confirmed && now - this.#told >= receivedEvery) this.#received(now, false);
    const silent = this.#silentAt();
    if (silent !== undefined && now >= silent) {
      this.#endLane();
      this.#piece = 2 * pieceMin;
      this.#open(now);
    }
    if (this.#next !== undefined && now >= this.#next && !this.#running) this.#open(now);
  }
}

// The sender's machine for one buffer or file: events go in, actions come out. It has no
// clock, timer or I/O, and does the same as internal/transfer's Sender in Go. Its states
// and times are in senderrules.ts.
import { Code } from "../codes.js";
import { same } from "./bytes.js";
import { Pieces } from "./pieces.js";
import {
  moves, peerRetry, stallTime, pieceTime, finalTime, offerSlack, finalsMost, askedMost, own, type SenderState,
} from "./senderrules.js";
import {
  pieceMin, retryFirst, retryMost,
  type LaneEnd, type SenderAction, type SenderConfig, type SenderEvent, type SenderResult,
} from "./steps.js";

type Planned = "offer" | "askHead" | "openLane";

export class Sender {
  readonly cfg: SenderConfig;
  state: SenderState = "offered";
  result: SenderResult = own(Code.unknown);
  transfer = "";
  url = "";
  instance: Uint8Array | undefined;
  confirmed = 0;

  #up = false;
  #accepted = false; // an Accepted has come and no UNKNOWN after it
  #everyone = false; // an Accepted has come at any time
  #held = false; // an offer was not passed on because the server stops
  #asked = 0; // offers without an answer
  #unanswered = false; // the one that went out at asks is not answered
  #reasked = 0; // offers after UNKNOWN without progress
  #wrote = 0; // handed to the present lane, or the one before
  #lane = 0;
  #running = false;
  #heading = false;
  #laneEnd = 0;
  readonly #pieces = new Pieces();
  #digesting = false;
  #digested = false;
  #finished = false;
  #cancelling = false;
  #reason: SenderResult | undefined; // why, if it was not the application
  #withdrawing = false; // ended, and the server has yet to learn of it
  #until = 0;
  #tries = 0;
  #next: { at: number; what: Planned; offset: number } | undefined;
  #progress: number;
  #asks: number;
  #stalled: number | undefined; // since when unconfirmed bytes are under way
  readonly #patience: number;
  #finalAt: number | undefined;
  #final: SenderResult = own(Code.unknown);
  #finals = 0;
  #out: SenderAction[] = [];

  constructor(cfg: SenderConfig, now: number) {
    this.cfg = cfg;
    this.#progress = this.#asks = now;
    this.#patience = now + cfg.peerWait;
  }

  get ended(): boolean { return moves[this.state].length === 0; }
  /** Nothing is left to do: it has ended, and the server knows or has had its time to learn. */
  get over(): boolean { return this.ended && !this.#withdrawing; }
  /** It waits for line, peer or answer. */
  get waiting(): boolean { return this.state === "offered" || (!this.#running && this.state !== "verifying"); }

  step(now: number, e: SenderEvent): SenderAction[] {
    this.#out = [];
    switch (e.on) {
      case "lineUp": this.#lineUp(now); break;
      case "lineDown":
        this.#up = false;
        if (this.state === "offered") this.#progress = now; // from here on the line is waited for
        this.#drop("offer");
        break;
      case "accepted": this.#onAccepted(now, e); break;
      case "received":
        if (this.ended) break;
        this.#confirm(now, e.offset);
        if (this.state === "verifying") this.#progress = now; // the receiver is still at it
        break;
      case "verdict": this.#verdict(now, e); break;
      case "unknown": this.#unknown(now); break;
      case "cancel": this.#cancel(now); break;
      case "sourceFailed": this.#fail(now, own(e.code, e.detail)); break;
      case "digested":
        this.#digested = true;
        this.#sendFinish();
        break;
      case "wrote": this.#onWrote(now, e); break;
      case "laneEnded": this.#laneEnded(now, e); break;
      case "tick": this.#tick(now); break;
    }
    return this.#out;
  }

  #move(next: SenderState): void {
    if (this.state === next) return;
    if (!moves[this.state].includes(next)) throw new Error(`dian: sender cannot move from ${this.state} to ${next}`);
    this.state = next;
  }

  #lineUp(now: number): void {
    this.#up = true;
    if (this.#withdrawing) this.#out.push({ do: "cancel" });
    else if (!this.ended) {
      this.#offer(now);
      if (this.#cancelling) this.#out.push({ do: "cancel" });
    }
  }

  #offer(now: number): void {
    if (!this.#up || this.ended) return;
    this.#drop("offer");
    this.#out.push({ do: "offer", resent: this.cfg.reused || this.#known() });
    this.#asked++;
    if (!this.#unanswered) {
      this.#unanswered = true;
      this.#asks = now;
    }
  }

  /** Somebody may have got an offer of this task. */
  #known(): boolean { return this.#everyone || this.#asked > 0; }

  /** The receiver may have it all, for all we know. */
  #deliverable(): boolean { return this.#finished || (this.#known() && this.cfg.inlined) || (this.cfg.reused && !this.#everyone); }

  #endLane(): void {
    this.#next = undefined;
    if (this.#running) {
      this.#running = false;
      this.#out.push({ do: "endLane" });
    }
    this.#stalled = undefined;
  }

  #end(state: SenderState, r: SenderResult): void {
    this.#endLane();
    this.#move(state);
    this.#cancelling = false;
    this.result = r;
    this.#out.push({ do: "tell" });
  }

  /** Ends the task by this side's word alone; the server is told. */
  #withdraw(now: number, state: SenderState, r: SenderResult): void {
    const known = this.#known();
    this.#end(state, r);
    if (!known) return;
    this.#withdrawing = true;
    this.#until = now + this.cfg.window;
    if (this.#up) this.#out.push({ do: "cancel" });
  }

  #cancel(now: number): void {
    if (this.ended) return;
    if (this.#cancelling) this.#reason = undefined; // now it is the application's wish too
    else if (!this.#known() && !this.#deliverable()) this.#end("cancelled", own(Code.cancelled));
    else if (!this.#up && !this.#deliverable()) this.#withdraw(now, "cancelled", own(Code.cancelled));
    else this.#askCancel(now);
  }

  /** Leaves the decision to the server and the receiver. */
  #askCancel(now: number): void {
    if (this.state !== "verifying") this.#endLane();
    this.#next = undefined;
    this.#cancelling = true;
    this.#until = now + this.cfg.window;
    if (this.#up) this.#out.push({ do: "cancel" });
  }

  #fail(now: number, r: SenderResult): void {
    if (this.ended || this.#cancelling) return;
    if (!this.#finished) {
      this.#withdraw(now, "failed", r); // without Finish nothing was delivered
      return;
    }
    this.#reason = r;
    this.#askCancel(now);
  }

  /** Offers again what the server does not know. */
  #forgotten(now: number): void {
    this.#accepted = false;
    this.#move("offered");
    this.#unanswered = false;
    this.#asks = now;
    if (++this.#reasked > askedMost) {
      this.#withdraw(now, "failed", own(Code.connectionLost, "forgotten again and again"));
    } else if (this.#reasked === 1) this.#offer(now);
    else this.#later(now, "offer", 0);
  }

  #unknown(now: number): void {
    if (this.#withdrawing) this.#withdrawing = false;
    else if (this.ended || this.#cancelling) return; // the cancel behind it is always answered
    else {
      this.#endLane();
      this.#forgotten(now);
    }
  }

  /** Ends a cancel of which nobody knows anything (any more). */
  #lost(): void {
    if (this.#reason !== undefined) this.#end("failed", this.#reason);
    else this.#end("cancelled", own(Code.cancelled));
  }

  #verdict(now: number, e: { transfer: string; result: SenderResult }): void {
    if (e.transfer !== "") this.#out.push({ do: "ack", transfer: e.transfer });
    const r = e.result;
    const server = r.origin !== "peer"; // the server's own word
    if (this.#withdrawing) {
      this.#withdrawing = false; // also an end
      return;
    }
    if (this.ended) return;
    this.#unanswered = false;
    if (server && (r.code === Code.peerOffline || r.code === Code.serviceFault)) {
      this.#offline(now, r);
      return;
    }
    if (this.#cancelling && server && r.code === Code.badSendId && e.transfer === "") {
      // Nothing to cancel there. If the receiver can have it all only an offer finds out.
      if (this.#deliverable()) this.#later(now, "offer", 0);
      else this.#lost();
      return;
    }
    if (r.code === Code.ok) {
      this.#confirm(now, this.cfg.size);
      this.#end("done", r);
    } else if (this.#reason !== undefined && this.#cancelling) this.#end("failed", this.#reason);
    else if (r.code === Code.cancelled) this.#end("cancelled", r);
    else if (this.state === "offered") this.#end("refused", r);
    else this.#end("failed", r);
  }

  /** The server's word that it could not pass the offer on. */
  #offline(now: number, r: SenderResult): void {
    const first = !this.#everyone && this.#asked <= 1;
    // This one has reached nobody; after a cancel, 8 may be about that.
    if (first && !(this.#cancelling && r.code === Code.serviceFault)) this.#asked = 0;
    // A server that stops says 8 of a peer who is there, and who comes back too.
    const again = !first || this.#held;
    this.#held ||= r.code === Code.serviceFault;
    const inWindow = now - this.#progress < this.cfg.window;
    if (this.#cancelling) {
      if (this.#deliverable()) this.#later(now, "offer", 0);
      else this.#lost();
    } else if ((r.code === Code.serviceFault && inWindow) || (first && now < this.#patience) || (again && inWindow)) {
      if (this.#running) return; // a lane lives on by itself
      this.#later(now, "offer", 0);
      if (first && this.#next !== undefined) {
        this.#next.at = now + this.cfg.jitter(peerRetry) + peerRetry / 2;
        if (this.cfg.peerWait > 0 && r.code === Code.peerOffline && this.#next.at > this.#patience) this.#next.at = this.#patience;
      }
    } else if (this.#everyone) this.#end("failed", own(Code.connectionLost, "the peer did not come back"));
    else this.#end("refused", r);
  }

  #onAccepted(now: number, e: { transfer: string; url: string; offset: number; instance: Uint8Array }): void {
    const first = !this.#accepted;
    if (!this.ended) {
      this.#asked = 0;
      this.#unanswered = false;
      this.#accepted = this.#everyone = true;
      this.#drop("offer");
    }
    [this.transfer, this.url] = [e.transfer, e.url];
    if (this.instance === undefined || !same(this.instance, e.instance)) this.instance = e.instance;
    if (this.#withdrawing) {
      this.#out.push({ do: "cancel" }); // it crossed the first one
      return;
    }
    if (this.ended) return;
    if (e.offset > this.cfg.size) {
      this.#fail(now, own(Code.badData, "accepted from an offset behind the size"));
      return;
    }
    if (this.#cancelling) return;
    if (first) {
      this.#progress = now;
      this.#tries = 0;
    }
    this.#confirm(now, e.offset);
    if (this.cfg.inlined) this.#move("verifying");
    else if (e.offset === this.cfg.size) {
      if (!this.#running) {
        this.#next = undefined;
        this.#move("verifying");
      }
      this.#whole();
    } else if (this.#running && !this.#heading) this.#sendFinish();
    else {
      this.#endLane(); // a HEAD, which this answers
      this.#open(now, e.offset);
      this.#sendFinish();
    }
  }

  /** Takes in how much the receiver has. */
  #confirm(now: number, offset: number): void {
    if (offset <= this.confirmed || offset > this.cfg.size) return;
    this.#pieces.confirmed(offset - this.confirmed);
    this.confirmed = offset;
    this.#progress = now;
    this.#tries = this.#reasked = this.#finals = 0;
    this.#stalled = this.#wrote <= offset ? undefined : now;
    this.#out.push({ do: "progress", offset });
  }

  #open(now: number, offset: number): void {
    if (this.state === "verifying") this.#move("interrupted");
    this.#move("streaming");
    this.#next = undefined;
    this.#finalAt = undefined;
    this.#lane++;
    [this.#running, this.#heading] = [true, false];
    this.#wrote = offset;
    this.#stalled = undefined;
    this.#laneEnd = this.#pieces.end(now, offset, this.cfg.size);
    this.#out.push({ do: "openLane", lane: this.#lane, offset, length: this.#laneEnd - offset });
  }

  #head(): void {
    this.#next = undefined;
    this.#lane++;
    this.#running = this.#heading = true;
    this.#stalled = undefined;
    this.#out.push({ do: "askHead", lane: this.#lane });
  }

  #onWrote(now: number, e: { lane: number; offset: number }): void {
    if (this.ended || !this.#running || this.#heading || e.lane !== this.#lane) return;
    if (e.offset <= this.#wrote || e.offset > this.#laneEnd) return;
    this.#wrote = e.offset;
    if (this.#wrote > this.confirmed) this.#stalled ??= now;
    if (this.#wrote === this.cfg.size && !this.#cancelling) {
      this.#move("verifying");
      this.#whole();
    }
  }

  /** Asks for the digest, or says it again. */
  #whole(): void {
    if (this.#digesting) return this.#sendFinish();
    this.#digesting = true;
    this.#out.push({ do: "digest" });
  }

  #sendFinish(): void {
    if (!this.#digested || !this.#up || !this.#accepted || this.#cancelling || this.ended || this.cfg.inlined) return;
    this.#finished = true;
    this.#out.push({ do: "finish" });
  }

  #laneEnded(now: number, e: { lane: number; end: LaneEnd; offset?: number; code?: number; detail?: string }): void {
    if (this.ended || !this.#running || e.lane !== this.#lane) return;
    const head = this.#heading;
    this.#running = this.#heading = false;
    this.#stalled = undefined;
    if (this.#cancelling) return;
    const offset = e.offset ?? -1;
    let end = e.end;
    if (end === "confirmed" && (offset < 0 || offset > this.cfg.size)) end = "broken";
    if (this.state === "streaming" || (this.state === "verifying" && end !== "confirmed")) this.#move("interrupted");
    switch (end) {
      case "confirmed": {
        const before = this.confirmed;
        this.#confirm(now, offset);
        if (head || this.state === "verifying") this.#headSays(now, offset, head);
        else if (offset < this.#laneEnd || (offset <= before && this.#laneEnd > this.#wrote)) this.#later(now, "openLane", offset);
        else {
          this.#pieces.grow(now);
          this.#open(now, offset);
        }
        break;
      }
      case "gone":
        this.#forgotten(now);
        break;
      case "tooLarge":
        if (this.#pieces.size === pieceMin) {
          this.#withdraw(now, "failed", own(Code.sendFailed, "a proxy takes no upload of 1 MiB"));
          break;
        }
        this.#pieces.shrink();
        this.#later(now, "askHead", 0);
        break;
      case "final":
        // The verdict says it better, if there is one.
        this.#final = { ...own(e.code ?? Code.sendFailed, e.detail), origin: "server" };
        if (++this.#finals > finalsMost) {
          this.#withdraw(now, "failed", this.#final);
          break;
        }
        this.#finalAt = now + finalTime;
        this.#offer(now);
        break;
      default:
        if (this.#pieces.size > 0 && end === "broken") this.#pieces.shrink();
        this.#later(now, "askHead", 0);
    }
  }

  /** Goes on after an offset that leaves open whether the last byte is there. */
  #headSays(now: number, offset: number, head: boolean): void {
    if (!head && (offset >= this.cfg.size - 1 || this.confirmed === this.cfg.size)) {
      // All was written and taken: the verdict comes, unless the server has restarted.
      this.#later(now, "offer", 0);
    } else if (offset === this.cfg.size) {
      // There is a verdict. It comes, or it went to nobody: an offer asks for it.
      this.#move("verifying");
      this.#later(now, "offer", 0);
      this.#whole();
    } else if (head) this.#open(now, offset);
    else {
      this.#move("interrupted");
      this.#later(now, "openLane", offset);
    }
  }

  #stallAt(): number | undefined {
    if (!this.#running || this.#heading || this.#stalled === undefined) return undefined;
    return this.#stalled + (this.#pieces.size > 0 ? pieceTime : stallTime);
  }

  #later(now: number, what: Planned, offset: number): void {
    const wait = Math.min(retryFirst * 2 ** Math.min(this.#tries, 10), retryMost);
    this.#tries++;
    this.#next = { at: now + this.cfg.jitter(wait), what, offset };
  }

  #drop(what: Planned): void { if (this.#next?.what === what) this.#next = undefined; }

  /** When the task fails for want of progress, and how. */
  #deadline(): [number, SenderResult] {
    const wait = Math.max(this.cfg.offerWait, this.cfg.window) + offerSlack;
    if (this.state === "offered" && this.#up && this.#next?.what !== "offer") return [this.#asks + wait, own(Code.peerNoAnswer)];
    let at = this.#progress + this.cfg.window;
    if (this.#unanswered) at = Math.min(at, this.#asks + wait + this.cfg.window); // a line that comes and goes is no progress
    if (this.state === "offered" && this.#next?.what === "offer" && this.#patience > at) at = this.#patience + peerRetry;
    return [at, own(Code.connectionLost, "no progress within the resume window")];
  }

  /** When the next tick is due; undefined for never. */
  wake(): number | undefined {
    const times: (number | undefined)[] = [];
    if (this.#withdrawing) times.push(this.#until);
    else if (!this.ended) {
      if (this.#cancelling) times.push(this.#until);
      else times.push(this.#deadline()[0], this.#stallAt());
      times.push(this.#next?.at, this.#finalAt);
    }
    const known = times.filter((t) => t !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  }

  #tick(now: number): void {
    const due = (at: number | undefined) => at !== undefined && now >= at;
    if (this.#withdrawing && due(this.#until)) this.#withdrawing = false;
    if (this.ended) return;
    if (this.#cancelling && due(this.#until)) {
      if (this.#deliverable() && this.#reason === undefined) {
        this.#end("failed", own(Code.connectionLost, "the fate of the cancel is unknown"));
      } else this.#lost();
      return;
    }
    const [at, r] = this.#deadline();
    if (!this.#cancelling && due(at)) {
      this.#end("failed", r); // the receiver keeps what it has: no cancel
      return;
    }
    if (due(this.#finalAt)) {
      this.#finalAt = undefined;
      if (!this.#running && this.#up && !this.#cancelling) {
        this.#end("failed", this.#final);
        return;
      }
    }
    if (!this.#cancelling && due(this.#stallAt())) {
      this.#endLane();
      this.#pieces.shrink();
      if (this.state === "streaming" || this.state === "verifying") this.#move("interrupted");
      this.#later(now, "askHead", 0);
    }
    const next = this.#next;
    if (next === undefined || !due(next.at)) return;
    this.#next = undefined;
    switch (next.what) {
      case "offer":
        this.#offer(now);
        if (this.#cancelling && this.#up) this.#out.push({ do: "cancel" });
        break;
      case "askHead": this.#head(); break;
      case "openLane": this.#open(now, next.offset); break;
    }
  }
}

// The sender's side of docs/protocol.md §6: which command is sent when, and what its
// result is. It has no clock, timer or I/O, and does the same as internal/command's Sender.
import { Code } from "../codes.js";
import type { CommandResult, Moment } from "./wire.js";
import { CommandOutcome, Origin } from "./wire.js";

const maxFlying = 1024; // commands on the wire without a result
const maxFlyingBytes = 4 << 20; // their data
const maxFlyingTo = 512; // the same for one target, so that a slow one leaves room for others
const maxFlyingToBytes = 2 << 20;
const maxCommands = 65_536; // commands without a result
const maxCommandBytes = 64 << 20;
const maxStreams = 1024; // streams kept although all their commands have results…
const streamIdle = 600_000; // …at least for this long
const retryFirst = 500;
const retryMost = 5_000;
const maxGaps = 8; // of one command: a receiver that wants still more is not hurried
const minCost = 256; // what an empty command counts

/** A command until it has its result: fresh → flying ⇄ held → resolved. */
export interface Outgoing {
  readonly id: string;
  readonly target: string;
  readonly data: Uint8Array;
  readonly meta: Uint8Array;
  readonly wait: number; // for an offline peer
  readonly done: (o: Outcome) => void;
}

/** A command's result. */
export interface Outcome {
  code: number;
  origin: "local" | "server" | "peer";
  detail: string;
  reply: Uint8Array;
}

/** What goes on the wire. */
export interface CommandFields {
  id: string;
  target: string;
  stream: bigint;
  seq: bigint;
  floor: bigint;
  resent: boolean;
  data: Uint8Array;
  meta: Uint8Array;
  since: Moment | undefined;
}

interface Entry {
  readonly o: Outgoing;
  readonly stream: Stream;
  readonly seq: number;
  state: "fresh" | "flying" | "held" | "resolved";
  resent: boolean; // the next or last sending says that it may have arrived before
  sent: boolean; // at least once
  since: Moment | undefined; // of the login under which it was first sent
  gaps: number;
  waiting: number; // held because of this refusal; 0: it is not
  waitUntil: number;
  due: number; // when it is resolved for want of an answer
}

/** The commands to one target, in order. */
interface Stream {
  readonly id: bigint; // random, not 0
  list: Entry[];
  head: number; // list[head:] begins with the lowest unresolved
  next: number; // seq of the next command
  fresh: number; // index of the first that was never sent
  held: number;
  flying: number;
  flyingBytes: number;
  starved: boolean;
  retry: number; // 0: the last answer was the peer's own
  pausedUntil: number; // held commands wait for this
  used: number;
}

const cost = (o: Outgoing) => Math.max(o.data.length + o.meta.length, minCost);

export class Outbox {
  readonly #timeout: number;
  readonly #random: () => bigint;
  #up = false;
  #moment: Moment | undefined;
  readonly #streams = new Map<string, Stream>(); // by target
  readonly #byId = new Map<string, Entry>();
  readonly #paused = new Set<Stream>();
  #starved: Stream[] = [];
  #bytes = 0;
  #flying = 0;
  #flyingBytes = 0;
  #soonest = Infinity; // no command is due before it
  #frames: CommandFields[] = [];
  #outcomes: [Outgoing, Outcome][] = [];

  constructor(timeout: number, random: () => bigint) {
    this.#timeout = timeout;
    this.#random = random;
  }

  /** Takes a command; false when the bound is reached. */
  add(now: number, o: Outgoing): boolean {
    if (this.#byId.size >= maxCommands || (this.#byId.size > 0 && this.#bytes + cost(o) > maxCommandBytes)) return false;
    let s = this.#streams.get(o.target);
    if (s === undefined) {
      this.#forgetStreams(now);
      s = { id: this.#random(), list: [], head: 0, next: 1, fresh: 0, held: 0, flying: 0, flyingBytes: 0,
        starved: false, retry: 0, pausedUntil: 0, used: now };
      this.#streams.set(o.target, s);
    }
    s.used = now;
    const waitUntil = now + o.wait;
    const e: Entry = { o, stream: s, seq: s.next++, state: "fresh", resent: false, sent: false, since: undefined, gaps: 0,
      waiting: 0, waitUntil, due: waitUntil + this.#timeout };
    s.list.push(e);
    this.#byId.set(o.id, e);
    this.#bytes += cost(o);
    this.#soonest = Math.min(this.#soonest, e.due);
    this.#pump(now, s);
    return true;
  }

  #forgetStreams(now: number): void {
    if (this.#streams.size < maxStreams) return;
    for (const [target, s] of this.#streams) {
      if (s.head === s.list.length && now - s.used > streamIdle) this.#streams.delete(target);
    }
  }

  lineUp(now: number, moment: Moment | undefined): void {
    this.#up = true;
    this.#moment = moment;
    for (const s of this.#streams.values()) this.#pump(now, s);
  }

  /** Marks what was sent: its fate is unknown. */
  lineDown(): void {
    this.#up = false;
    for (const s of this.#streams.values()) {
      for (let i = s.head; i < s.fresh; i++) {
        const e = s.list[i] as Entry;
        if (e.state === "flying") this.#hold(e, true);
      }
      this.#unpause(s);
    }
  }

  #hold(e: Entry, resent: boolean): void {
    this.#land(e);
    e.state = "held";
    e.resent = resent;
    e.stream.held++;
  }

  #land(e: Entry): void {
    e.stream.flying--;
    e.stream.flyingBytes -= cost(e.o);
    this.#flying--;
    this.#flyingBytes -= cost(e.o);
  }

  /** Takes a CommandResult that has been checked. */
  result(now: number, r: CommandResult): void {
    const e = this.#byId.get(r.id);
    if (e === undefined) return; // resolved before
    const s = e.stream;
    s.used = now;
    const peer = r.origin === Origin.PEER;
    const final = r.outcome === CommandOutcome.FINAL;
    if (e.state !== "flying" && !(final && (peer || r.code === Code.ok))) return; // about an earlier sending
    const notYet = r.code === Code.peerOffline || r.code === Code.peerBusy || r.code === Code.overLimit;
    if (r.outcome === CommandOutcome.GAP) {
      this.#unpause(s);
      this.#hold(e, false);
      if (++e.gaps > maxGaps) this.#pause(now, s);
    } else if (r.outcome === CommandOutcome.LOST) this.#hold(e, true);
    else if (e.resent && !peer && notYet) {
      // It may have been delivered the first time, so its result cannot be that it was not.
      this.#hold(e, true);
      this.#pause(now, s);
    } else if ((r.code === Code.peerOffline || r.code === Code.overLimit) && !peer && now < e.waitUntil) {
      this.#hold(e, false);
      e.waiting = r.code;
      e.due = e.waitUntil;
      this.#soonest = Math.min(this.#soonest, e.due);
      this.#pause(now, s);
    } else {
      if (peer || r.code === Code.ok) this.#unpause(s);
      this.#resolve(e, { code: r.code, origin: peer ? "peer" : "server", detail: r.detail, reply: r.reply.slice() });
    }
    this.#pump(now, s);
    this.#feed(now);
  }

  /** Keeps the held commands of a stream back for a while, longer each time. */
  #pause(now: number, s: Stream): void {
    if (now < s.pausedUntil) return;
    s.retry = Math.min(Math.max(2 * s.retry, retryFirst), retryMost);
    s.pausedUntil = now + s.retry;
    this.#paused.add(s);
  }

  #unpause(s: Stream): void {
    s.retry = s.pausedUntil = 0;
    this.#paused.delete(s);
  }

  #resolve(e: Entry, r: Outcome): void {
    const s = e.stream;
    if (e.state === "flying") this.#land(e);
    else if (e.state === "held") s.held--;
    e.state = "resolved";
    this.#byId.delete(e.o.id);
    this.#bytes -= cost(e.o);
    while (s.head < s.list.length && (s.list[s.head] as Entry).state === "resolved") s.head++;
    s.fresh = Math.max(s.fresh, s.head);
    if (s.head === s.list.length || (s.head >= 1024 && s.head > s.list.length / 2)) {
      s.list = s.list.slice(s.head);
      s.fresh -= s.head;
      s.head = 0;
      if (s.list.length === 0) this.#unpause(s);
    }
    this.#outcomes.push([e.o, r]);
  }

  /** Resolves what is out of time and goes on with streams whose pause is over. */
  tick(now: number): void {
    const touched = new Set<Stream>();
    if (now >= this.#soonest) {
      this.#soonest = Infinity;
      for (const e of [...this.#byId.values()]) {
        if (now < e.due) {
          this.#soonest = Math.min(this.#soonest, e.due);
          continue;
        }
        const code = e.waiting !== 0 ? e.waiting : !this.#up && !e.sent ? Code.connectionLost : Code.peerNoAnswer;
        this.#resolve(e, local(code));
        touched.add(e.stream);
      }
    }
    for (const s of this.#paused) {
      if (now < s.pausedUntil) continue;
      this.#paused.delete(s);
      touched.add(s);
    }
    for (const s of touched) this.#pump(now, s);
    this.#feed(now);
  }

  /** When tick has something to do; undefined for never. */
  wake(): number | undefined {
    let at = this.#byId.size > 0 ? this.#soonest : Infinity;
    for (const s of this.#paused) at = Math.min(at, s.pausedUntil);
    return at === Infinity ? undefined : at;
  }

  /** Resolves everything. */
  end(code: number, origin: Outcome["origin"], detail: string): void {
    for (const e of [...this.#byId.values()]) this.#resolve(e, { ...local(code), origin, detail });
  }

  /** Goes on with streams that found no room. */
  #feed(now: number): void {
    while (this.#flying < maxFlying && this.#flyingBytes < maxFlyingBytes) {
      const s = this.#starved.shift();
      if (s === undefined) return;
      s.starved = false;
      this.#pump(now, s);
      if (s.starved) return; // no room for its next one either
    }
  }

  /** Sends what may be sent of one stream. */
  #pump(now: number, s: Stream): void {
    if (!this.#up) return;
    if (s.held > 0 && now >= s.pausedUntil && !this.#pumpHeld(now, s)) return;
    // Past held commands that are paused new ones may go: if the peer is offline they
    // learn it at once, if not a GAP tells that the pause can end.
    for (; s.fresh < s.list.length; s.fresh++) {
      const e = s.list[s.fresh] as Entry;
      if (e.state === "fresh" && !this.#send(now, e)) return;
    }
  }

  /** Sends held commands in order; false if some must stay, so that nothing above them is sent. */
  #pumpHeld(now: number, s: Stream): boolean {
    let open = false; // something below is on the wire for a while, or may have arrived
    for (const e of s.list.slice(s.head, s.fresh)) {
      if (e.state === "flying") open = true;
      else if (e.state === "held") {
        if ((open && !e.resent) || !this.#send(now, e)) return false;
        open ||= e.resent;
      }
    }
    return true;
  }

  /** Puts a command on the wire, if there is room. */
  #send(now: number, e: Entry): boolean {
    const s = e.stream;
    const c = cost(e.o);
    if (s.flying >= maxFlyingTo || (s.flying > 0 && s.flyingBytes + c > maxFlyingToBytes)) return false;
    if (this.#flying >= maxFlying || (this.#flying > 0 && this.#flyingBytes + c > maxFlyingBytes)) {
      if (!s.starved) {
        s.starved = true;
        this.#starved.push(s);
      }
      return false;
    }
    if (e.state === "held") s.held--;
    if (!e.sent) e.since = this.#moment;
    e.state = "flying";
    e.sent = true;
    e.waiting = 0;
    s.flying++;
    s.flyingBytes += c;
    this.#flying++;
    this.#flyingBytes += c;
    if (e.o.wait > 0 && !e.resent) { // the time for an answer begins when the peer may be there
      e.due = now + this.#timeout;
      this.#soonest = Math.min(this.#soonest, e.due);
    }
    const floor = s.next - (s.list.length - s.head);
    this.#frames.push({ id: e.o.id, target: e.o.target, stream: s.id, seq: BigInt(e.seq), floor: BigInt(floor), resent: e.resent,
      data: e.o.data, meta: e.o.meta, since: e.resent ? e.since : undefined });
    return true;
  }

  /** Returns what is to be done and forgets it. */
  take(): { frames: CommandFields[]; outcomes: [Outgoing, Outcome][] } {
    const r = { frames: this.#frames, outcomes: this.#outcomes };
    this.#frames = [];
    this.#outcomes = [];
    return r;
  }
}

function local(code: number): Outcome {
  return { code, origin: "local", detail: "", reply: new Uint8Array() };
}

// The receiver's side of docs/protocol.md §6: which command is delivered and what is
// answered. It has no clock, timer or I/O, and does the same as internal/command's
// Receiver. Its memory is that of one life of the client.
import { Code } from "../codes.js";
import { empty } from "./bytes.js";
import { CommandOutcome, type Command, type Moment } from "./wire.js";

/** How many commands may wait for the application; one more is answered 602. */
export const maxQueued = 1024;

// Peers choose what they send, so each of these is held whatever they do.
const maxDeliveryBytes = 4 << 20; // data that waits
const maxStreams = 4096; // the least recently used one is forgotten
const maxAnswers = 4096; // remembered of one stream
const maxAnswerBytes = 16 << 20; // replies remembered of one stream
const maxReplyBytes = 64 << 20; // replies remembered of all
const maxKnownIds = 65_536; // ids of unordered commands
const memory = 600_000; // ms
const replyCost = 64; // what an empty reply counts
const maxServers = 1024; // whose moments are remembered
const maxForgot = 4096; // senders of forgotten streams; with more, all count as such

/** An answer to a command. */
export interface Ack {
  ref: bigint;
  id: string;
  outcome: CommandOutcome;
  code: number;
  next: bigint;
  reply: Uint8Array;
  detail: string;
}

/** A command that is delivered, and what was answered to it. */
export interface Incoming {
  readonly source: string;
  readonly id: string;
  data: Uint8Array; // until it is handled
  meta: Uint8Array;
  readonly size: number;
  readonly at: number;
  stream: Stream | undefined; // undefined for an unordered one
  seq: bigint;
  ref: bigint; // whom to answer…
  line: number; // …in which session
  handled: boolean;
  known: boolean; // still remembered
  code: number;
  reply: Uint8Array;
  detail: string;
}

interface Stream {
  readonly key: string;
  readonly source: string;
  next: bigint; // the seq that is delivered next
  floor: bigint; // the highest that the sender has told
  readonly answers: Map<bigint, Incoming>;
  cached: number; // cost of their replies
  used: number;
}

export class InOrder {
  readonly #ackHandled: boolean;
  #line = 0;
  readonly #streams = new Map<string, Stream>(); // the least recently used first
  readonly #ids = new Map<string, Incoming>(); // by age
  #cached = 0;
  readonly #alive = new Map<bigint, bigint>(); // by server: the moment of this life's first login there
  readonly #forgot = new Set<string>(); // senders a stream of whom was forgotten
  #queued = 0;
  #queuedBytes = 0;

  constructor(ackHandled: boolean) {
    this.#ackHandled = ackHandled;
  }

  /** Begins a session: refs of the one before are void. */
  lineUp(m: Moment | undefined): void {
    this.#line++;
    if (m !== undefined && m.count > 0n && !this.#alive.has(m.server) && this.#alive.size < maxServers) this.#alive.set(m.server, m.count);
  }

  /** A resent command of an unknown stream was certainly never delivered here ("never here"). */
  #never(c: Command): boolean {
    const here = c.since === undefined ? undefined : this.#alive.get(c.since.server);
    if (here === undefined || c.since === undefined) return false;
    return c.since.count > here && !this.#forgot.has(c.source?.user ?? "") && this.#forgot.size < maxForgot;
  }

  /** Takes a command that has been checked: what is to be delivered, and what to be answered. */
  arrive(now: number, c: Command): [Incoming | undefined, Ack | undefined] {
    this.#forget(now);
    const source = c.source?.user ?? "";
    if (c.stream === 0n) return this.#unordered(now, source, c);
    const key = `${c.stream}/${source}`;
    let s = this.#streams.get(key);
    if (s === undefined) {
      if (c.resent && !this.#never(c)) return [undefined, final(c, Code.peerNoAnswer, "the receiver has restarted, or forgotten")];
      if (c.seq > c.floor) return [undefined, gap(c, c.floor)];
      s = { key, source, next: c.floor, floor: c.floor, answers: new Map(), cached: 0, used: now };
    }
    this.#streams.delete(key); // to the end: it is the most recently used
    this.#streams.set(key, s);
    for (const oldest of this.#streams.values()) {
      if (this.#streams.size <= maxStreams) break;
      this.#dropStream(oldest);
    }
    s.used = now;
    this.#raise(s, c.floor);
    if (c.seq > s.next) return [undefined, gap(c, s.next)];
    if (c.seq < s.next) return [undefined, this.#again(s, c)];
    if (this.#full(c) || s.answers.size >= maxAnswers || s.cached > maxAnswerBytes) return [undefined, final(c, Code.peerBusy)];
    s.next++;
    const d = this.#deliver(now, source, c);
    d.stream = s;
    d.seq = c.seq;
    if (!this.#ackHandled) return [d, final(c, Code.ok)];
    s.answers.set(d.seq, d);
    d.known = true;
    this.#charge(d, 1);
    return [d, undefined];
  }

  /** Notes a floor. Replies below it will not be asked for again. */
  #raise(s: Stream, floor: bigint): void {
    if (floor <= s.floor) return;
    for (const seq of s.answers.keys()) if (seq < floor) this.#unlearn(s, seq);
    s.floor = floor;
    if (s.next < floor) s.next = floor;
  }

  #unlearn(s: Stream, seq: bigint): void {
    const d = s.answers.get(seq);
    if (d === undefined) return;
    s.answers.delete(seq);
    this.#charge(d, -1);
    d.known = false;
  }

  #charge(d: Incoming, sign: number): void {
    const cost = sign * (d.reply.length + replyCost);
    this.#cached += cost;
    if (d.stream !== undefined) d.stream.cached += cost;
  }

  /** Answers a command of a known stream that came before. */
  #again(s: Stream, c: Command): Ack | undefined {
    if (!this.#ackHandled && c.seq >= s.floor) return final(c, Code.ok);
    const d = s.answers.get(c.seq);
    // Below the floor the sender has its result and ignores this one.
    return d === undefined ? final(c, Code.peerNoAnswer) : this.#repeat(d, c);
  }

  #repeat(d: Incoming, c: Command): Ack | undefined {
    if (!d.handled && this.#ackHandled) {
      d.ref = c.ref;
      d.line = this.#line;
      return undefined;
    }
    return final(c, d.code, d.detail, d.reply);
  }

  /** Delivers a command of stream 0 unless its id is known. */
  #unordered(now: number, source: string, c: Command): [Incoming | undefined, Ack | undefined] {
    const known = this.#ids.get(`${c.id}/${source}`);
    if (known !== undefined) return [undefined, this.#repeat(known, c)];
    if (this.#full(c)) return [undefined, final(c, Code.peerBusy)];
    const d = this.#deliver(now, source, c);
    d.known = true;
    this.#ids.set(`${c.id}/${source}`, d);
    this.#charge(d, 1);
    return [d, this.#ackHandled ? undefined : final(c, Code.ok)];
  }

  #full(c: Command): boolean {
    return this.#queued >= maxQueued || (this.#queued > 0 && this.#queuedBytes + c.data.length + c.meta.length > maxDeliveryBytes);
  }

  #deliver(now: number, source: string, c: Command): Incoming {
    const d: Incoming = {
      source, id: c.id, data: c.data.slice(), meta: c.meta.slice(), size: c.data.length + c.meta.length, at: now,
      stream: undefined, seq: 0n, ref: c.ref, line: this.#line, handled: false, known: false, code: Code.ok, reply: empty, detail: "",
    };
    this.#queued++;
    this.#queuedBytes += d.size;
    return d;
  }

  /** Notes that the application is done with a command; the answer is to be sent, if there is one. */
  handled(d: Incoming, code: number, reply: Uint8Array, detail: string): Ack | undefined {
    this.#queued--;
    this.#queuedBytes -= d.size;
    d.data = d.meta = empty;
    d.handled = true;
    if (!this.#ackHandled) return undefined;
    if (d.known) this.#charge(d, -1);
    d.code = code;
    d.reply = reply;
    d.detail = detail;
    if (d.known) {
      this.#charge(d, 1);
      this.#shed(d.stream);
    }
    if (d.line !== this.#line) return undefined; // its line broke: the sender asks again, or has given up
    return { ref: d.ref, id: d.id, outcome: CommandOutcome.FINAL, code, next: 0n, reply, detail };
  }

  /** Forgets until the replies fit. What is forgotten is answered 604: never delivered twice. */
  #shed(keep: Stream | undefined): void {
    for (const s of this.#streams.values()) {
      if (this.#cached <= maxReplyBytes) return;
      if (s !== keep) this.#dropStream(s);
    }
    for (const key of this.#ids.keys()) {
      if (this.#cached <= maxReplyBytes) return;
      this.#dropId(key);
    }
  }

  #forget(now: number): void {
    for (const s of this.#streams.values()) {
      if (now - s.used <= memory) break;
      this.#dropStream(s);
    }
    for (const [key, d] of this.#ids) {
      if (this.#ids.size < maxKnownIds && now - d.at <= memory) break;
      this.#dropId(key);
    }
  }

  #dropId(key: string): void {
    const d = this.#ids.get(key);
    if (d === undefined) return;
    this.#ids.delete(key);
    this.#charge(d, -1);
    d.known = false;
  }

  #dropStream(s: Stream): void {
    for (const seq of s.answers.keys()) this.#unlearn(s, seq);
    this.#streams.delete(s.key);
    if (this.#forgot.size < maxForgot) this.#forgot.add(s.source);
  }
}

/** Returns an ack that ends a command. */
export function final(c: Command, code: number, detail = "", reply: Uint8Array = empty): Ack {
  return { ref: c.ref, id: c.id, outcome: CommandOutcome.FINAL, code, next: 0n, reply, detail };
}

function gap(c: Command, next: bigint): Ack {
  return { ref: c.ref, id: c.id, outcome: CommandOutcome.GAP, code: 0, next, reply: empty, detail: "" };
}

import type { Status, UserStatus } from "../api.js";
import { Code, DianError } from "../codes.js";
import { Limit } from "../limits.js";
import type { Emitter } from "./emitter.js";
import { bytesOf, userFault } from "./names.js";
import { create, PresenceQuerySchema, PresenceSubscribeSchema, StatusSchema, type Body, type Presence as WirePresence, type PresenceList } from "./wire.js";

const namesBytes = 96 << 10; // of names in one frame
const listMost = 1 << 20; // users in one answer
const queriesMost = 1024; // without an answer

interface Query {
  users: UserStatus[];
  subscribe: boolean; // its users are news, not an answer
  answer: ((failed: DianError | undefined) => void) | undefined;
}

/** Who is online, as far as the token may see, and one's own status. */
export class Presence {
  readonly #emitter: Emitter;
  #send: ((f: Body) => boolean) | undefined;
  #lastId = 0n;
  readonly #queries = new Map<bigint, Query>();
  #all = false; // subscribed to everybody
  readonly #names = new Set<string>();
  #status: { busy: boolean; doNotDisturb: number } | undefined;
  #off: DianError | undefined;
  #news = new Map<string, UserStatus>(); // to be told by an event that is queued

  constructor(emitter: Emitter) {
    this.#emitter = emitter;
  }

  setStatus(busy: boolean, doNotDisturb: number): void {
    if (this.#off !== undefined) throw this.#off.for("set status");
    if (!Number.isInteger(doNotDisturb) || doNotDisturb < -0x8000_0000 || doNotDisturb > 0x7fff_ffff) {
      throw new DianError("set status", Code.badParameter, { detail: "doNotDisturb is no 32-bit number" });
    }
    this.#status = { busy, doNotDisturb };
    this.#sendStatus();
  }

  #sendStatus(): void {
    if (this.#status !== undefined) this.#send?.({ case: "status", value: create(StatusSchema, this.#status) });
  }

  async query(users: string[]): Promise<UserStatus[]> {
    const all: UserStatus[] = [];
    for (const part of parts("user status", users)) {
      const q: Query = { users: [], subscribe: false, answer: undefined };
      await this.#ask("user status", q, (id) => ({ case: "presenceQuery", value: create(PresenceQuerySchema, { id, users: part }) }));
      all.push(...q.users);
    }
    return all;
  }

  async subscribe(users: string[]): Promise<void> {
    for (const part of parts("start user status notify", users)) {
      await this.#ask("start user status notify", { users: [], subscribe: true, answer: undefined }, (id) => subscribeFrame(id, part, false));
      this.#all ||= part.length === 0;
      for (const u of part) this.#names.add(u);
    }
  }

  unsubscribe(users: string[]): void {
    const list = parts("stop user status notify", users);
    if (this.#off !== undefined) throw this.#off.for("stop user status notify");
    for (const part of list) {
      if (part.length === 0) this.#all = false;
      for (const u of part) this.#names.delete(u);
      this.#send?.(subscribeFrame(++this.#lastId, part, true)); // without a session there is nothing to stop
    }
  }

  #ask(op: string, q: Query, frame: (id: bigint) => Body): Promise<void> {
    if (this.#off !== undefined) return Promise.reject(this.#off.for(op));
    if (this.#queries.size >= queriesMost) return Promise.reject(new DianError(op, Code.overLimit, { detail: "too many queries under way" }));
    const id = ++this.#lastId;
    if (this.#send === undefined || !this.#send(frame(id))) return Promise.reject(new DianError(op, Code.connectionLost));
    this.#queries.set(id, q);
    return new Promise((resolve, reject) => {
      q.answer = (failed) => (failed === undefined ? resolve() : reject(failed.for(op)));
    });
  }

  /** Takes a part of an answer. */
  list(l: PresenceList): void {
    const q = this.#queries.get(l.id);
    if (q === undefined) return;
    let failed: DianError | undefined;
    if (l.code !== 0) failed = new DianError("", l.code, { origin: "server", detail: l.detail });
    else if (q.users.length + l.users.length > listMost) failed = new DianError("", Code.badData, { detail: "the answer is too long" });
    else if (q.subscribe) this.change(l.users);
    else q.users.push(...l.users.map(userStatus));
    if (failed === undefined && l.more) return;
    this.#queries.delete(l.id);
    q.answer?.(failed);
  }

  /** Queues news. While an event is queued, later states of a user replace earlier ones. */
  change(users: readonly WirePresence[]): void {
    if (users.length === 0 || !this.#emitter.has("userStatus")) return;
    const queued = this.#news.size > 0;
    for (const u of users) if (this.#news.has(u.user) || this.#news.size < listMost) this.#news.set(u.user, userStatus(u));
    if (queued) return;
    this.#emitter.run(() => {
      const news = [...this.#news.values()];
      this.#news = new Map();
      this.#emitter.emit("userStatus", news);
    });
  }

  lineUp(send: (f: Body) => boolean): void {
    this.#send = send;
    this.#sendStatus();
    const list = this.#names.size > 0 ? parts("", [...this.#names].sort()) : [];
    if (this.#all) list.push([]);
    for (const part of list) {
      this.#queries.set(++this.#lastId, { users: [], subscribe: true, answer: undefined });
      send(subscribeFrame(this.#lastId, part, false));
    }
  }

  lineDown(): void {
    this.#send = undefined;
    this.#fail(new DianError("", Code.connectionLost));
  }

  close(why: DianError): void {
    this.#off = why;
    this.#send = undefined;
    this.#fail(why);
  }

  #fail(why: DianError): void {
    const list = [...this.#queries.values()];
    this.#queries.clear();
    for (const q of list) q.answer?.(why);
  }
}

function subscribeFrame(id: bigint, users: string[], stop: boolean): Body {
  return { case: "presenceSubscribe", value: create(PresenceSubscribeSchema, { id, users, stop }) };
}

function userStatus(u: WirePresence): UserStatus {
  return { user: u.user, status: Math.min(u.status, 2) as Status, doNotDisturb: u.doNotDisturb };
}

/** Checks names and cuts them into lists that fit into a frame. No names are one empty list. */
function parts(op: string, users: string[]): string[][] {
  const list: string[][] = [[]];
  let size = 0;
  for (const u of users) {
    const fault = typeof u === "string" ? userFault(u) : "no string";
    if (fault !== "") throw new DianError(op, Code.badTarget, { peer: String(u), detail: fault });
    let last = list[list.length - 1] as string[];
    if (last.length > 0 && (last.length === Limit.presenceUsers || size + bytesOf(u) > namesBytes)) {
      list.push((last = []));
      size = 0;
    }
    last.push(u);
    size += bytesOf(u) + 8;
  }
  return list;
}

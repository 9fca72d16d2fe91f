// The buffers and files that a client sends.
import { Code, DianError } from "../codes.js";
import { SourceFault, type Slot, type Source } from "../platform.js";
import { empty, toBytes } from "./bytes.js";
import { Alarm, awake, jitter } from "./clock.js";
import { Mailbox, type Context } from "./context.js";
import { Sender } from "./sender.js";
import type { SenderAction, SenderEvent } from "./steps.js";
import type { SendTask } from "./task.js";
import { CancelSchema, create, DigestSchema, FinishSchema, Kind, OfferSchema, Origin, Receipt, TransferState, VerdictAckSchema, type Body } from "./wire.js";
import { X3b, x3b } from "./x3b.js";

// Content that travels in its offer goes beside the large ones: many small files need
// no lanes and wait for nobody.
const inlineMost = 64;
const inlineMostBytes = 512 << 10;
const hashPiece = 1 << 20;
const laneLinger = 5_000;

export class Outgoing {
  readonly #c: Context;
  #up = false;
  #closed: DianError | undefined;
  readonly #all = new Map<string, OutTransfer>(); // by sendId: waiting, active, or withdrawing
  readonly #byTransfer = new Map<string, OutTransfer>();
  #large: OutTransfer[] = []; // waiting, in order
  #small: OutTransfer[] = [];
  #active = 0;
  #inline = 0;
  #inlineBytes = 0;
  readonly #parallel: number;
  readonly #left = new Map<AbortController, ReturnType<typeof setTimeout>>();

  constructor(c: Context) {
    this.#c = c;
    this.#parallel = Math.max(1, c.options.parallel ?? c.platform.parallel);
  }

  /** Takes a task whose source was looked at. It ends with t.finish. */
  start(t: SendTask, source: Source, inlineLimit: number): void {
    if (this.#closed !== undefined) {
      t.finish({ error: this.#closed.for(t.op, t.target) });
      void source.close();
      return;
    }
    this.#all.get(t.id)?.abandon(); // it only told the server of its end
    const x = new OutTransfer(this.#c, this, t, source, source.size <= inlineLimit);
    this.#all.set(t.id, x);
    (x.small ? this.#small : this.#large).push(x);
    this.#pump();
  }

  /** Begins what there is room for. */
  #pump(): void {
    for (let x = this.#large[0]; x !== undefined && this.#active < this.#parallel; x = this.#large[0]) {
      this.#large.shift();
      this.#active++;
      void x.begin();
    }
    for (let x = this.#small[0]; x !== undefined && this.#inline < inlineMost && this.#inlineBytes + x.source.size <= inlineMostBytes; x = this.#small[0]) {
      this.#small.shift();
      this.#inline++;
      this.#inlineBytes += x.source.size;
      void x.begin();
    }
  }

  get up(): boolean {
    return this.#up;
  }

  /** Gives the place of a task that has its result to the next one. */
  release(x: OutTransfer): void {
    if (x.small) {
      this.#inline--;
      this.#inlineBytes -= x.source.size;
    } else this.#active--;
    if (this.#closed === undefined) this.#pump();
  }

  forget(x: OutTransfer): void {
    if (this.#all.get(x.t.id) === x) this.#all.delete(x.t.id);
    if (this.#byTransfer.get(x.transfer) === x) this.#byTransfer.delete(x.transfer);
  }

  /** Asks for the end of a task; false if there is none that could be cancelled. */
  cancel(sendId: string): boolean {
    const x = this.#all.get(sendId);
    if (x === undefined || x.t.ended) return false;
    if (x.begun) {
      x.post({ on: "cancel" });
      return true;
    }
    this.#large = this.#large.filter((y) => y !== x);
    this.#small = this.#small.filter((y) => y !== x);
    x.abandon();
    x.t.finish({ error: new DianError(x.t.op, Code.cancelled, { peer: x.t.target }) });
    return true;
  }

  /** Takes in a frame that was checked alone. */
  frame(f: Body): void {
    switch (f.case) {
      case "accepted": {
        const a = f.value;
        const x = this.#all.get(a.sendId);
        if (x === undefined || !x.begun || a.peer?.user !== x.t.target) return;
        if (this.#byTransfer.get(x.transfer) === x) this.#byTransfer.delete(x.transfer);
        x.transfer = a.transfer;
        this.#byTransfer.set(a.transfer, x);
        x.post({ on: "accepted", transfer: a.transfer, url: a.url, offset: Number(a.offset), instance: a.peer.instance.slice() });
        return;
      }
      case "received":
        this.#find("", f.value.transfer)?.post({ on: "received", offset: Number(f.value.offset) });
        return;
      case "verdict": {
        const v = f.value;
        const x = this.#find(v.sendId, v.transfer);
        if (x === undefined) {
          this.ack(v.transfer); // its task has its result, perhaps in another life
          return;
        }
        const receipt = v.receipt === Receipt.STORED ? "stored" : v.receipt === Receipt.HANDED ? "handed" : "none";
        x.post({ on: "verdict", transfer: v.transfer,
          result: { code: v.code, receipt, origin: v.origin === Origin.PEER ? "peer" : "server", lengthOnly: v.lengthOnly, detail: v.detail } });
        return;
      }
      case "standing":
        if (f.value.state === TransferState.UNKNOWN) this.#find(f.value.sendId, f.value.transfer)?.post({ on: "unknown" });
    }
  }

  #find(sendId: string, transfer: string): OutTransfer | undefined {
    const x = this.#byTransfer.get(transfer) ?? this.#all.get(sendId);
    return x?.begun === true ? x : undefined;
  }

  ack(transfer: string): void {
    if (transfer !== "") this.#c.send({ case: "verdictAck", value: create(VerdictAckSchema, { transfer }) });
  }

  line(up: boolean): void {
    this.#up = up;
    for (const x of [...this.#all.values()]) if (x.begun) x.post({ on: up ? "lineUp" : "lineDown" });
  }

  /**
   * Ends a lane whose transfer is delivered when it has heard its own answer, which may come behind the verdict: then its
   * connection can be used again.
   */
  leave(lane: AbortController): void {
    this.#left.set(lane, setTimeout(() => lane.abort(), laneLinger));
  }

  /** Forgets a lane that has ended. */
  heard(lane: AbortController): void {
    clearTimeout(this.#left.get(lane));
    this.#left.delete(lane);
  }

  /** Ends everything. The tasks get their result from the caller. */
  close(why: DianError): void {
    this.#closed ??= why;
    for (const lane of this.#left.keys()) lane.abort();
    for (const x of [...this.#all.values()]) x.abandon();
  }
}

/** One task with its machine. */
class OutTransfer {
  readonly t: SendTask;
  readonly source: Source;
  readonly small: boolean;
  begun = false;
  transfer = "";

  readonly #c: Context;
  readonly #o: Outgoing;
  readonly #box = new Mailbox();
  readonly #end = new AbortController();
  readonly #alarm = new Alarm(() => this.post({ on: "tick" }));
  #m: Sender | undefined;
  #content: Uint8Array = empty; // of a small one
  #digest: Uint8Array | undefined;
  #hasher: Promise<X3b> | undefined;
  #hashing: Promise<void> = Promise.resolve();
  #pieces: (() => Promise<Uint8Array>) | undefined;
  #failure: DianError | undefined; // the source's fault
  #lane: AbortController | undefined;
  #handed = false; // the connection was handed all that the lane is to send
  #slot: Slot | undefined;
  #awake: (() => void) | undefined;
  #over = false;
  #counted = false; // it has a place among those that are sent at a time
  #released = false;

  constructor(c: Context, o: Outgoing, t: SendTask, source: Source, small: boolean) {
    this.#c = c;
    this.#o = o;
    this.t = t;
    this.source = source;
    this.small = small;
    void t.result.then(() => this.#box.post(() => {
      if (this.#m === undefined || !this.#m.ended) this.abandon();
    }));
  }

  post(e: SenderEvent): void {
    this.#box.post(() => this.#step(e));
  }

  async begin(): Promise<void> {
    this.#counted = true;
    try {
      if (this.small) {
        this.#content = await this.source.read(0, this.source.size);
        this.#digest = await x3b(this.#content);
        if (this.#content.length !== this.source.size) throw new SourceFault(Code.fileError, "changed while it was sent");
      } else {
        this.#slot = await this.#c.platform.slot("up", this.#c.origin, this.#end.signal);
        await this.source.check();
      }
    } catch (e) {
      if (this.#over) return;
      this.t.finish({ error: this.#fault(e) });
      this.abandon();
      return;
    }
    if (this.#over) {
      this.#slot?.release();
      return;
    }
    if (!this.small && this.#c.options.wakeLock !== false) this.#awake = this.#c.platform.stayAwake();
    this.#m = new Sender({
      size: this.source.size, inlined: this.small, reused: this.t.options.sendId !== undefined,
      window: this.#c.resumeWindow(), offerWait: this.#c.offerWait(), peerWait: this.t.options.waitForPeer ?? 0, jitter,
    }, awake());
    this.begun = true;
    this.post({ on: this.#o.up ? "lineUp" : "lineDown" });
  }

  /** Ends the machine without a word. */
  abandon(): void {
    if (this.#over) return;
    this.#over = true;
    this.#endLane();
    this.#end.abort();
    this.#alarm.stop();
    this.#release();
    this.#o.forget(this);
    void this.#hashing.catch(() => {}).then(() => this.source.close());
  }

  #release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#slot?.release();
    this.#awake?.();
    if (this.#counted) this.#o.release(this);
  }

  #endLane(): void {
    this.#lane?.abort();
    this.#lane = undefined;
  }

  #leaveLane(): void {
    if (this.#lane !== undefined && this.#handed) {
      this.#o.leave(this.#lane);
      this.#lane = undefined;
    }
    this.#endLane();
  }

  #step(e: SenderEvent): void {
    const m = this.#m;
    if (this.#over || m === undefined) return;
    const actions = m.step(awake(), e);
    if (m.instance !== undefined && m.instance.length === 16) this.t.instance = m.instance;
    for (const a of actions) {
      this.#do(m, a);
      if (this.#over) return;
    }
    if (!this.t.ended) this.t.state = m.state === "verifying" ? "verifying" : m.waiting ? "waiting" : "sending";
    if (m.over) this.abandon();
    else this.#alarm.set(m.wake());
  }

  #do(m: Sender, a: SenderAction): void {
    switch (a.do) {
      case "offer": this.#c.send(this.#offer(m, a.resent)); break;
      case "finish":
        this.#c.send({ case: "finish", value: create(FinishSchema, { transfer: m.transfer, digest: this.#wireDigest() }) });
        break;
      case "ack": this.#o.ack(a.transfer); break;
      case "cancel":
        this.#c.send({ case: "cancel", value: create(CancelSchema, { sendId: this.t.id, transfer: m.transfer }) });
        break;
      case "openLane": void this.#openLane(m.url, a.lane, a.offset, a.length); break;
      case "askHead": void this.#askHead(m.url, a.lane); break;
      case "endLane":
        if (m.state === "done") this.#leaveLane();
        else this.#endLane();
        break;
      case "digest": void this.#findDigest(); break;
      case "progress": this.t.confirmed(a.offset); break;
      case "tell": this.#tell(m); break;
    }
  }

  #wireDigest() {
    return create(DigestSchema, { algorithm: "x3b", value: this.#digest ?? empty });
  }

  #offer(m: Sender, resent: boolean): Body {
    const o = this.t.options;
    const instance = o.instance ?? m.instance ?? empty;
    return { case: "offer", value: create(OfferSchema, {
      sendId: this.t.id, target: this.t.target, kind: this.t.kind === "buffer" ? Kind.BUFFER : Kind.FILE, size: BigInt(this.source.size),
      name: o.name ?? this.source.name, type: o.type ?? this.source.type, meta: o.meta === undefined ? empty : toBytes(o.meta), instance, resent,
      ...(this.small ? { inlined: true, inline: this.#content, digest: this.#wireDigest() } : {}),
    }) };
  }

  async #openLane(path: string, lane: number, offset: number, length: number): Promise<void> {
    this.#endLane();
    const control = (this.#lane = new AbortController());
    this.#handed = false;
    const wrote = (at: number) => {
      if (control.signal.aborted || this.#over) return;
      if (this.#lane === control) this.#handed = at === offset + length;
      void this.#hashTo(at);
      this.post({ on: "wrote", lane, offset: at });
    };
    try {
      if (offset > 0) await this.source.check(); // it may have changed meanwhile
      const token = await this.#c.bearer(control.signal);
      const url = this.#c.laneUrl(path);
      const end = await this.#c.platform.patch(this.source, { url, token, offset, length, signal: control.signal, wrote });
      if (!control.signal.aborted) this.post({ on: "laneEnded", lane, ...end });
    } catch (e) {
      this.#broke(e, control.signal, lane);
    } finally {
      this.#o.heard(control);
    }
  }

  async #askHead(path: string, lane: number): Promise<void> {
    this.#endLane();
    const control = (this.#lane = new AbortController());
    this.#handed = true;
    try {
      const token = await this.#c.bearer(control.signal);
      const end = await this.#c.platform.head(this.#c.laneUrl(path), token, control.signal);
      if (!control.signal.aborted) this.post({ on: "laneEnded", lane, ...end });
    } catch (e) {
      this.#broke(e, control.signal, lane);
    } finally {
      this.#o.heard(control);
    }
  }

  #broke(e: unknown, signal: AbortSignal, lane: number): void {
    if (signal.aborted) return;
    if (e instanceof SourceFault) this.#sourceFailed(e);
    else this.post({ on: "laneEnded", lane, end: "broken" });
  }

  #fault(e: unknown): DianError {
    const { op, target: peer } = this.t;
    if (e instanceof SourceFault) return new DianError(op, e.code, { peer, detail: e.message, cause: e.cause });
    return e instanceof DianError ? e.for(op, peer) : new DianError(op, Code.internal, { peer, cause: e });
  }

  #sourceFailed(e: SourceFault): void {
    this.#failure ??= this.#fault(e);
    this.post({ on: "sourceFailed", code: e.code, detail: e.message });
  }

  /** Hashes the content below an offset, behind what the lane has read. */
  #hashTo(offset: number): Promise<void> {
    this.#hasher ??= X3b.create();
    const hasher = this.#hasher;
    this.#hashing = this.#hashing.then(async () => {
      const h = await hasher;
      while (h.length < offset && !this.#over) {
        this.#pieces ??= this.source.pieces?.() ?? (() => this.source.read(h.length, hashPiece));
        const p = await this.#pieces();
        if (p.length === 0) throw new SourceFault(Code.fileError, "shorter than it was");
        h.update(p);
      }
    });
    this.#hashing.catch(() => {}); // findDigest tells
    return this.#hashing.catch(() => {});
  }

  /** Hashes what no lane has read and looks at the file a last time. */
  async #findDigest(): Promise<void> {
    try {
      void this.#hashTo(this.source.size);
      await this.#hashing;
      await this.source.check();
      this.#digest = (await (this.#hasher as Promise<X3b>)).digest();
      this.post({ on: "digested" });
    } catch (e) {
      if (!this.#over) this.#sourceFailed(e instanceof SourceFault ? e : new SourceFault(Code.fileRead, "cannot be read", e));
    }
  }

  /** Gives the task its result. */
  #tell(m: Sender): void {
    const r = m.result;
    if (r.code === Code.ok) {
      // A minimal receiver does not say how sure it is.
      this.t.finish({ receipt: r.receipt === "none" ? "handed" : r.receipt, lengthOnly: r.lengthOnly });
    } else {
      const error = new DianError(this.t.op, r.code, { peer: this.t.target, origin: r.origin, detail: r.detail });
      this.t.finish({ error: this.#failure?.code === r.code ? this.#failure : error });
    }
    this.#release();
  }
}

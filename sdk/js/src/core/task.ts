import type { Kind, Progress, Receipt, Result, SendOptions, Task, TaskState } from "../api.js";
import { Code, DianError } from "../codes.js";
import { awake } from "./clock.js";
import { empty } from "./bytes.js";
import { guarded, type Emitter } from "./emitter.js";
import { Limit } from "../limits.js";
import { bytesOf, isSendId, newSendId, userFault } from "./names.js";

const progressEvery = 125; // ms between two progress events of one task: never more than ten a second

/** What ends a task; the rest of its Result is known. */
export interface Ending {
  error?: DianError;
  receipt?: Receipt;
  lengthOnly?: boolean;
  reply?: Uint8Array;
}

export class SendTask implements Task {
  readonly id: string;
  readonly target: string;
  readonly kind: Kind;
  readonly options: SendOptions;
  readonly result: Promise<Result>;
  state: TaskState = "queued";
  instance: Uint8Array | undefined;
  fileName = "";
  ended = false;

  readonly #emitter: Emitter;
  readonly #cancel: (t: SendTask) => Promise<boolean>;
  #resolve!: (r: Result) => void;
  #sent = 0;
  #total = 0;
  #shown = -1;
  #lastEvent = -Infinity;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #listeners = new Set<(p: Progress) => void>();
  #cancels: ((took: boolean) => void)[] = [];
  readonly #forget: (t: SendTask) => void;

  constructor(kind: Kind, target: string, options: SendOptions, emitter: Emitter,
    cancel: (t: SendTask) => Promise<boolean>, forget: (t: SendTask) => void) {
    this.kind = kind;
    this.target = target;
    this.options = options;
    this.id = options.sendId ?? newSendId();
    this.#emitter = emitter;
    this.#cancel = cancel;
    this.#forget = forget;
    this.result = new Promise((resolve) => (this.#resolve = resolve));
  }

  /** The task's name in errors. */
  get op(): string {
    return `send ${this.kind}`;
  }

  get progress(): { readonly sent: number; readonly total: number } {
    return { sent: this.#sent, total: this.#total };
  }

  /** Says what can be refused before anything is sent. */
  fault(metaBytes: number): DianError | undefined {
    const no = (code: number, detail: string) => new DianError(this.op, code, { peer: String(this.target), detail });
    const o = this.options;
    if (typeof this.target !== "string") return no(Code.badTarget, "no string");
    const bad = userFault(this.target);
    if (bad !== "") return no(Code.badTarget, bad);
    if (typeof this.id !== "string" || !isSendId(this.id)) return no(Code.badSendId, "not a lower-case UUID of 36 characters");
    for (const [name, text, limit] of [["name", o.name, Limit.nameBytes], ["type", o.type, Limit.typeBytes]] as const) {
      if (text !== undefined && (text.length > limit || bytesOf(text) > limit)) return no(Code.badParameter, `${name} is too long`);
      if (text !== undefined && /\p{Cs}/u.test(text)) return no(Code.badParameter, `${name} has half a character`);
    }
    const meta = o.meta === undefined ? 0 : typeof o.meta === "string" ? bytesOf(o.meta) : o.meta.byteLength;
    if (meta > metaBytes) return no(Code.badParameter, "meta is too long");
    if (o.waitForPeer !== undefined && !(o.waitForPeer >= 0)) return no(Code.badParameter, "waitForPeer is no time");
    if (o.instance !== undefined && o.instance.length !== Limit.instanceBytes) return no(Code.badParameter, "instance has not 16 bytes");
    return undefined;
  }

  setTotal(total: number): void {
    this.#total = total;
  }

  /** Notes how much the receiver has confirmed. Less than before changes nothing. */
  confirmed(sent: number): void {
    if (this.ended || sent <= this.#sent) return;
    this.#sent = sent;
    if (this.#timer !== undefined) return;
    const wait = this.#lastEvent + progressEvery - awake();
    if (wait <= 0) this.#show();
    else this.#timer = setTimeout(() => this.#show(), wait);
  }

  #show(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#sent <= this.#shown) return;
    this.#shown = this.#sent;
    this.#lastEvent = awake();
    const p = this.#snapshot();
    for (const fn of [...this.#listeners]) this.#emitter.run(() => guarded(() => fn(p)));
    this.#emitter.emit("sendProgress", p);
  }

  #snapshot(): Progress {
    return { sendId: this.id, target: this.target, sent: this.#sent, total: this.#total, cookie: this.options.cookie };
  }

  onProgress(fn: (p: Progress) => void): () => void {
    this.#listeners.add(fn);
    const p = this.#snapshot();
    this.#emitter.run(() => guarded(() => fn(p)));
    return () => void this.#listeners.delete(fn);
  }

  /** Gives the task its result; only the first call counts. */
  finish(e: Ending): void {
    if (this.ended) return;
    this.ended = true;
    this.state = "done";
    if (this.kind !== "command" && e.error === undefined) {
      this.#sent = this.#total;
      this.#show();
    }
    clearTimeout(this.#timer);
    const r: Result = {
      sendId: this.id, target: this.target, kind: this.kind, fileName: this.fileName, cookie: this.options.cookie,
      code: e.error?.code ?? Code.ok, receipt: e.error === undefined ? (e.receipt ?? "none") : "none",
      lengthOnly: e.error === undefined && (e.lengthOnly ?? false), reply: e.reply ?? empty, size: this.#total,
      ...(e.error === undefined ? {} : { error: e.error }),
    };
    this.#forget(this);
    const took = r.code === Code.cancelled;
    for (const tell of this.#cancels) {
      this.#tellCancel(took);
      tell(took);
    }
    this.#cancels = [];
    this.#emitter.emit("sendResult", r, () => this.#listeners.clear());
    this.#resolve(r);
  }

  #tellCancel(took: boolean): void {
    this.#emitter.emit("cancelSendResult", {
      sendId: this.id, cookie: this.options.cookie,
      ...(took ? {} : { error: new DianError("cancel", Code.badSendId, { detail: "nothing to cancel" }) }),
    });
  }

  /** Waits for the outcome of a cancel, which the result tells. */
  cancelAsked(): Promise<boolean> {
    return new Promise((resolve) => this.#cancels.push(resolve));
  }

  /** Tells that a cancel does not take. */
  cancelRefused(): false {
    this.#tellCancel(false);
    return false;
  }

  cancel(): Promise<boolean> {
    return this.#cancel(this);
  }

  async #outcome(): Promise<Result> {
    const r = await this.result;
    if (r.error !== undefined) throw r.error;
    return r;
  }

  then<A = Result, B = never>(ok?: ((r: Result) => A | PromiseLike<A>) | null, bad?: ((e: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    return this.#outcome().then(ok, bad);
  }

  catch<T = never>(bad?: ((e: unknown) => T | PromiseLike<T>) | null): Promise<Result | T> {
    return this.#outcome().catch(bad);
  }

  finally(fn?: (() => void) | null): Promise<Result> {
    return this.#outcome().finally(fn);
  }
}

// One session's connection: frames out in batches, frames in, and whether it lives.
import type { WebSocketLike } from "../api.js";
import { Code, DianError } from "../codes.js";
import { Limit } from "../limits.js";
import { frameFault } from "./check.js";
import { awake } from "./clock.js";
import { encode, join, split, subprotocol, varintBytes, type Body, type Hello, type Welcome } from "./wire.js";

const handshakeTime = 20_000; // to an open WebSocket
const welcomeTime = 10_000; // from Hello to Welcome
const probeTime = 5_000; // for any sign of life after a look at the line was asked for
const queueBytes = 16 << 20; // a server that lets more pile up does not read

export interface LinkHandler {
  frame(f: Body): void;
  /** The link has ended, once; nothing comes any more. */
  ended(why: DianError): void;
}

export class Link {
  readonly #ws: WebSocket;
  #handler: LinkHandler | undefined;
  #early: MessageEvent[] = []; // what came before there was a handler
  #out: Uint8Array[] = [];
  #flushing = false;
  #over: DianError | undefined;
  #heartbeat = 25_000;
  #heard = awake();
  #said = awake();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #probe: ReturnType<typeof setTimeout> | undefined;

  private constructor(ws: WebSocket) {
    this.#ws = ws;
  }

  /** Logs in once. Errors: DianError. */
  static async login(ctor: WebSocketLike, url: string, hello: Hello, signal: AbortSignal): Promise<[Link, Welcome]> {
    if (signal.aborted) throw aborted(signal);
    let ws: WebSocket;
    try {
      ws = new ctor(url, [subprotocol]);
    } catch (e) {
      throw new DianError("connect", Code.connectFailed, { cause: e });
    }
    ws.binaryType = "arraybuffer";
    const link = new Link(ws);
    try {
      await link.#opened(signal);
      if (ws.protocol !== subprotocol) throw new DianError("connect", Code.versionNotSupported, { detail: `the server does not speak ${subprotocol}` });
      const first = await link.#greet(hello, signal);
      return [link, first];
    } catch (e) {
      link.#cut();
      throw e;
    }
  }

  #opened(signal: AbortSignal): Promise<void> {
    const ws = this.#ws;
    return new Promise((resolve, reject) => {
      const fail = (e: DianError) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
        reject(e);
      };
      const abort = () => fail(aborted(signal));
      const timer = setTimeout(() => fail(new DianError("connect", Code.noAnswerFromServer)), handshakeTime);
      signal.addEventListener("abort", abort);
      ws.onopen = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
        resolve();
      };
      ws.onerror = ws.onclose = (e: Event) => fail(refusal(e));
    });
  }

  #greet(hello: Hello, signal: AbortSignal): Promise<Welcome> {
    const ws = this.#ws;
    return new Promise((resolve, reject) => {
      const settle = (fn: () => void) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
        fn();
      };
      const abort = () => settle(() => reject(aborted(signal)));
      const timer = setTimeout(() => settle(() => reject(new DianError("connect", Code.noAnswerFromServer))), welcomeTime);
      signal.addEventListener("abort", abort);
      ws.onerror = () => {};
      ws.onclose = () => settle(() => reject(new DianError("connect", Code.connectionClosed)));
      ws.onmessage = (m: MessageEvent) => {
        ws.onmessage = (later: MessageEvent) => this.#early.push(later);
        settle(() => {
          try {
            resolve(this.#welcome(m));
          } catch (e) {
            reject(e instanceof DianError ? e : new DianError("connect", Code.badData, { cause: e }));
          }
        });
      };
      ws.send(join([encode({ case: "hello", value: hello })]));
    });
  }

  #welcome(m: MessageEvent): Welcome {
    const body = split(bytesOf(m))[0]?.body;
    if (body?.case === "lineOff") throw lineOffError("connect", body.value.code, body.value.detail);
    if (body?.case !== "welcome") throw new DianError("connect", Code.badData, { detail: "the server's first frame is neither Welcome nor LineOff" });
    const fault = frameFault(body);
    if (fault !== "") throw new DianError("connect", Code.badData, { detail: fault });
    this.#heartbeat = Math.max(body.value.heartbeatMs || 25_000, 100);
    return body.value;
  }

  /** Puts the link into service. */
  start(handler: LinkHandler): void {
    this.#handler = handler;
    this.#heard = this.#said = awake();
    this.#ws.onclose = () => this.close(new DianError("session", Code.connectionLost));
    this.#ws.onmessage = (m: MessageEvent) => this.#message(m);
    const early = this.#early;
    this.#early = [];
    for (const m of early) this.#message(m);
    if (this.#ws.readyState > 1) this.close(new DianError("session", Code.connectionLost));
    this.#watch();
  }

  #message(m: MessageEvent): void {
    if (this.#over !== undefined) return;
    this.#heard = awake();
    let frames;
    try {
      frames = split(bytesOf(m));
    } catch (e) {
      this.close(new DianError("session", Code.badData, { cause: e }), 1007);
      return;
    }
    for (const f of frames) {
      if (f.body.case === undefined) continue; // of a later version
      if (f.body.case === "ping") this.send({ case: "pong", value: { $typeName: "dian.v1.Pong" } });
      else if (f.body.case !== "pong") this.#handler?.frame(f.body);
      if (this.#over !== undefined) return;
    }
  }

  /** Queues a frame; false if the link has ended. */
  send(body: Body): boolean {
    if (this.#over !== undefined) return false;
    this.#out.push(encode(body));
    if (!this.#flushing) {
      this.#flushing = true;
      queueMicrotask(() => this.#flush());
    }
    return true;
  }

  #flush(): void {
    this.#flushing = false;
    const frames = this.#out;
    this.#out = [];
    let from = 0;
    let size = 0;
    for (let i = 0; i <= frames.length && this.#over === undefined; i++) {
      const f = frames[i];
      const n = f === undefined ? 0 : f.length + varintBytes(f.length);
      if (i > from && (f === undefined || size + n > Limit.messageBytes)) {
        this.#ws.send(join(frames.slice(from, i)));
        this.#said = awake();
        from = i;
        size = 0;
      }
      size += n;
    }
    if (this.#ws.bufferedAmount > queueBytes) this.close(new DianError("session", Code.connectionLost, { detail: "the server does not read" }));
  }

  /**
   * Looks at the line from time to time. A page's timers may be late by minutes, so they
   * never end a line by themselves: a silence is first answered by a question.
   */
  #watch(): void {
    this.#timer = setTimeout(() => {
      if (this.#over !== undefined) return;
      const now = awake();
      if (now - this.#said >= this.#heartbeat * 0.8) this.send({ case: "ping", value: { $typeName: "dian.v1.Ping" } });
      if (now - this.#heard > 2 * this.#heartbeat) this.look();
      this.#watch();
    }, this.#heartbeat / 2);
  }

  /** Asks for a sign of life, and ends the link if none comes. */
  look(): void {
    if (this.#over !== undefined || this.#probe !== undefined) return;
    this.send({ case: "ping", value: { $typeName: "dian.v1.Ping" } });
    const heard = this.#heard;
    const asked = performance.now();
    this.#probe = setTimeout(() => {
      this.#probe = undefined;
      if (this.#heard !== heard) return;
      // A timer that is late itself has slept meanwhile: ask once more.
      if (performance.now() - asked > 2 * probeTime) this.look();
      else this.close(new DianError("session", Code.connectionLost, { detail: "no sign of life" }));
    }, probeTime);
  }

  /** Ends the link now; the handler is told, later frames are ignored. */
  close(why: DianError, status = 1000): void {
    if (this.#over !== undefined) return;
    if (status === 1000 && why.code === Code.notLoggedIn) this.#flush();
    this.#over = why;
    this.#cut(status);
    this.#handler?.ended(why);
  }

  #cut(status = 1000): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#probe);
    const ws = this.#ws;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.onerror = () => {};
    try {
      ws.close(status === 1000 ? 1000 : status < 3000 ? undefined : status);
    } catch {
      // It was not open yet, and never will be.
    }
  }
}

function bytesOf(m: MessageEvent): Uint8Array {
  if (!(m.data instanceof ArrayBuffer)) throw new Error("a text message");
  if (m.data.byteLength > Limit.messageBytes) throw new Error("a message that is too large");
  return new Uint8Array(m.data);
}

function aborted(signal: AbortSignal): DianError {
  return signal.reason instanceof DianError ? signal.reason : new DianError("connect", Code.cancelled, { cause: signal.reason });
}

/** Why there is no WebSocket. A browser does not tell; npm ws does. */
function refusal(e: Event): DianError {
  const text = "message" in e && typeof e.message === "string" ? e.message : "";
  const code = /certificate|self.signed|TLS|SSL|CERT_/i.test(text) ? Code.tlsFault : Code.connectFailed;
  return new DianError("connect", code, { detail: text });
}

/** Makes an error of the server's last word. */
export function lineOffError(op: string, code: number, detail: string): DianError {
  return new DianError(op, code === 0 ? Code.connectionClosed : code, { origin: "server", detail });
}

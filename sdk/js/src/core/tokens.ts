import type { ConnectOptions } from "../api.js";
import { Code, DianError } from "../codes.js";
import { Limit } from "../limits.js";
import type { Emitter } from "./emitter.js";
import { create, UpdateTokenSchema, type Body, type TokenUpdated } from "./wire.js";

const updatesMost = 16; // without an answer
const renewTime = 25_000; // for the provider, once TokenWillExpire has come

/** The client's token, and how it is replaced. */
export class Tokens {
  readonly #options: ConnectOptions;
  readonly #emitter: Emitter;
  #token: string;
  #ends = Infinity; // Unix ms, as the server said
  #send: ((f: Body) => boolean) | undefined;
  #updates: { token: string; answer: (failed: DianError | undefined) => void }[] = [];
  #asking: Promise<string> | undefined;
  #off: DianError | undefined;

  constructor(options: ConnectOptions, emitter: Emitter) {
    this.#options = options;
    this.#emitter = emitter;
    this.#token = options.token ?? "";
  }

  get current(): string {
    return this.#token;
  }

  expires(ms: bigint): void {
    this.#ends = ms > 0n ? Number(ms) : Infinity;
  }

  /** Asks the provider, if there is one, for the token to log in with. */
  async fetch(signal: AbortSignal): Promise<void> {
    if (this.#options.tokenProvider === undefined) return;
    this.#token = await this.#ask(signal);
    this.#ends = Infinity;
  }

  /** Calls the provider, once at a time. */
  #ask(signal: AbortSignal): Promise<string> {
    this.#asking ??= this.#call(signal).finally(() => (this.#asking = undefined));
    const asked = this.#asking;
    return new Promise((resolve, reject) => {
      const abort = () => reject(signal.reason instanceof DianError ? signal.reason : new DianError("token provider", Code.cancelled, { cause: signal.reason }));
      if (signal.aborted) abort();
      signal.addEventListener("abort", abort, { once: true });
      asked.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
    });
  }

  async #call(signal: AbortSignal): Promise<string> {
    let token: unknown;
    try {
      token = await this.#options.tokenProvider?.(signal);
    } catch (e) {
      throw new DianError("token provider", Code.wrongCredentials, { cause: e });
    }
    if (typeof token !== "string" || token === "" || token.length > Limit.tokenBytes) {
      throw new DianError("token provider", Code.tokenMalformed, { detail: "no string, empty, or over 8,192 bytes" });
    }
    return token;
  }

  /** The token for a lane. The session keeps it fresh; only while the line is down it may be over. */
  async bearer(signal: AbortSignal): Promise<string> {
    if (Date.now() > this.#ends) await this.fetch(signal);
    return this.#token;
  }

  async update(token: string): Promise<void> {
    const op = "update token";
    if (typeof token !== "string" || token === "" || token.length > Limit.tokenBytes) {
      throw new DianError(op, Code.tokenMalformed, { detail: "no string, empty, or over 8,192 bytes" });
    }
    if (this.#off !== undefined) throw this.#off.for(op);
    if (this.#updates.length >= updatesMost) throw new DianError(op, Code.overLimit, { detail: "too many updates under way" });
    if (this.#send === undefined || !this.#send({ case: "updateToken", value: create(UpdateTokenSchema, { token }) })) {
      this.#token = token; // for the next login
      this.#ends = Infinity;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      this.#updates.push({ token, answer: (failed) => (failed === undefined ? resolve() : reject(failed.for(op))) });
    });
  }

  /** Takes the server's answer to the oldest UpdateToken. */
  updated(a: TokenUpdated): void {
    const u = this.#updates.shift();
    if (u === undefined) return;
    if (a.code !== 0) {
      u.answer(new DianError("", a.code, { origin: "server", detail: a.detail }));
      return;
    }
    this.#token = u.token;
    this.expires(a.tokenExpiresMs);
    u.answer(undefined);
  }

  /** Renews the token, or tells the application to. */
  willExpire(ms: bigint): void {
    const tell = () => {
      if (this.#off === undefined) this.#emitter.emit("tokenWillExpire", { expires: new Date(Number(ms)) });
    };
    if (this.#options.tokenProvider === undefined) {
      tell();
      return;
    }
    this.#ask(AbortSignal.timeout(renewTime)).then((token) => this.update(token)).catch((e: unknown) => {
      this.#options.log?.(`token not renewed: ${e instanceof DianError ? e.code : Code.unknown}`);
      tell();
    });
  }

  lineUp(send: (f: Body) => boolean): void {
    this.#send = send;
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
    const list = this.#updates;
    this.#updates = [];
    for (const u of list) u.answer(why);
  }
}

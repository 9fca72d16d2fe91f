// What the parts of a client share.
import type { ConnectOptions } from "../api.js";
import type { Platform } from "../platform.js";
import type { Emitter } from "./emitter.js";
import type { Body } from "./wire.js";

export interface Context {
  readonly platform: Platform;
  readonly options: ConnectOptions;
  readonly emitter: Emitter;
  /** Where lanes go: scheme, host and port, for the count of lanes. */
  readonly origin: string;
  /** Queues a frame on the session. False: there is none, and what matters is said again after the next login. */
  send(f: Body): boolean;
  laneUrl(path: string): string;
  bearer(signal: AbortSignal): Promise<string>;
  /** How long unfinished tasks wait for the line, ms. */
  resumeWindow(): number;
  offerWait(): number;
  log(line: string): void;
}

/** Runs functions one after the other, also those that are posted by one of them. */
export class Mailbox {
  #queue: (() => void)[] = [];
  #running = false;

  post(fn: () => void): void {
    this.#queue.push(fn);
    if (this.#running) return;
    this.#running = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) next();
    } finally {
      this.#running = false;
    }
  }
}

/** So much of something that there is; whoever wants more waits for its turn. */
export class Budget {
  #free: number;
  readonly #most: number;
  #waiting: { n: number; go: () => void }[] = [];

  constructor(most: number) {
    this.#most = this.#free = most;
  }

  /** Resolves with what gives it back. Error: the signal's reason. One that wants more than all gets all. */
  async take(want: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const n = Math.min(want, this.#most);
    if (n > this.#free || this.#waiting.length > 0) {
      await new Promise<void>((resolve, reject) => {
        const abort = () => {
          this.#waiting = this.#waiting.filter((w) => w !== entry);
          reject(signal.reason as Error);
          this.#next();
        };
        const entry = { n, go: () => {
          signal.removeEventListener("abort", abort);
          resolve();
        } };
        signal.addEventListener("abort", abort, { once: true });
        this.#waiting.push(entry);
      });
    } else this.#free -= n;
    let given = false;
    return () => {
      if (given) return;
      given = true;
      this.#free += n;
      this.#next();
    };
  }

  #next(): void {
    for (let w = this.#waiting[0]; w !== undefined && w.n <= this.#free; w = this.#waiting[0]) {
      this.#waiting.shift();
      this.#free -= w.n;
      w.go();
    }
  }
}

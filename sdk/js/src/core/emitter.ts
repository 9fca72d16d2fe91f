// Calls listeners one event after the other, in order.
import type { Events } from "../events.js";

type Listener<E extends keyof Events> = (event: Events[E]) => void;

export class Emitter {
  readonly #listeners = new Map<keyof Events, Set<(event: never) => void>>();
  #queue: (() => void)[] = [];
  #running = false;

  on<E extends keyof Events>(event: E, fn: Listener<E>): () => void {
    let set = this.#listeners.get(event);
    if (set === undefined) this.#listeners.set(event, (set = new Set()));
    set.add(fn);
    return () => this.off(event, fn);
  }

  off<E extends keyof Events>(event: E, fn: Listener<E>): void {
    this.#listeners.get(event)?.delete(fn);
  }

  has(event: keyof Events): boolean {
    return (this.#listeners.get(event)?.size ?? 0) > 0;
  }

  /** Queues an event. `after` is called when its listeners have returned. */
  emit<E extends keyof Events>(event: E, value: Events[E], after?: () => void): void {
    this.run(() => {
      for (const fn of [...(this.#listeners.get(event) ?? [])]) guarded(() => (fn as Listener<E>)(value));
      if (after !== undefined) guarded(after);
    });
  }

  /** Queues anything that has to keep its order among the events. */
  run(fn: () => void): void {
    this.#queue.push(fn);
    if (this.#running) return;
    this.#running = true;
    queueMicrotask(() => this.#drain());
  }

  #drain(): void {
    for (let batch = this.#queue; batch.length > 0; batch = this.#queue) {
      this.#queue = [];
      for (const fn of batch) guarded(fn);
    }
    this.#running = false;
  }
}

/** Calls a listener of the application. What it throws is reported as uncaught, and harms nobody else. */
export function guarded(fn: () => void): void {
  try {
    fn();
  } catch (e) {
    if (typeof reportError === "function") reportError(e);
    else setTimeout(() => { throw e; });
  }
}

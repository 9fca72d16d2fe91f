// The time that machines are told. It counts while the program runs and stands still
// while the machine sleeps, so that waking up is not the end of every transfer.

const sleepTime = 120_000; // no timer is late by so much, throttled tabs included
let last = performance.now();
let now = last;

/** Milliseconds of waking time, from an arbitrary moment. */
export function awake(): number {
  const t = performance.now();
  const passed = t - last;
  last = t;
  now += passed > sleepTime ? 1_000 : Math.max(passed, 0);
  return now;
}

/** A timer that looks at the waking time, and can be set again. */
export class Alarm {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #at = Infinity;
  readonly #fn: () => void;

  constructor(fn: () => void) {
    this.#fn = fn;
  }

  /** Calls the function at a time, or not at all if that is undefined. */
  set(at: number | undefined): void {
    if (at === undefined) {
      this.stop();
      return;
    }
    if (this.#timer !== undefined && at === this.#at) return;
    clearTimeout(this.#timer);
    this.#at = at;
    const wait = Math.min(Math.max(at - awake(), 0), 60_000); // looks often enough to notice a sleep
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (awake() + 0.5 < at) this.set(at);
      else this.#fn();
    }, Math.ceil(wait));
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#at = Infinity;
  }
}

/** A random time from 0 to d: full jitter. */
export function jitter(d: number): number {
  return Math.random() * d;
}

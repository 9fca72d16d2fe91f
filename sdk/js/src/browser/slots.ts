// At most two up- and two down-lanes at a time for all tabs of an origin: a browser opens six
// HTTP/1.1 connections to a server, and lanes may stand for hours.
import { Budget } from "../core/context.js";
import type { Slot } from "../platform.js";

const lanes = 2;
const budgets = new Map<string, Budget>(); // where there are no Web Locks: of this tab alone

export async function slot(direction: "up" | "down", origin: string, signal: AbortSignal): Promise<Slot> {
  const prefix = `dian ${direction} ${origin} `;
  if (navigator.locks === undefined) {
    let b = budgets.get(prefix);
    if (b === undefined) budgets.set(prefix, (b = new Budget(lanes)));
    const release = await b.take(1, signal);
    return { release, wanted: () => Promise.resolve(false) };
  }
  signal.throwIfAborted();
  const others = new AbortController();
  return new Promise<Slot>((resolve, reject) => {
    let won = false;
    for (let i = 0; i < lanes; i++) {
      navigator.locks.request(prefix + i, { signal: AbortSignal.any([signal, others.signal]) }, () => {
        if (won || signal.aborted) return undefined;
        won = true;
        others.abort(); // those still waiting; a lock that is held does not mind
        return new Promise<void>((release) => resolve({ release, wanted: () => wanted(prefix) }));
      }).catch(() => {
        if (!won && signal.aborted) reject(signal.reason as Error);
      });
    }
  });
}

async function wanted(prefix: string): Promise<boolean> {
  const { pending = [] } = await navigator.locks.query();
  return pending.some((l) => l.name?.startsWith(prefix) === true);
}

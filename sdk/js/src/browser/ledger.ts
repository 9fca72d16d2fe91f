// What is known of received files, in IndexedDB: it survives reloads, crashes and other tabs.
import type { Entry, Ledger } from "../platform.js";
import { Code, DianError } from "../codes.js";

const stores = { entries: "entries", meta: "meta" } as const;

export class DbLedger implements Ledger {
  readonly #db: IDBDatabase;

  private constructor(db: IDBDatabase) {
    this.#db = db;
  }

  /** Opens the database of a place. Error: DianError 1402. */
  static open(place: string): Promise<DbLedger> {
    return new Promise((resolve, reject) => {
      const fail = (e: unknown) => reject(new DianError("connect", Code.fileWrite, { detail: "IndexedDB", cause: e }));
      const request = indexedDB.open(`dian-${place}`, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore(stores.entries, { keyPath: "key" });
        request.result.createObjectStore(stores.meta);
      };
      request.onsuccess = () => resolve(new DbLedger(request.result));
      request.onerror = () => fail(request.error);
      request.onblocked = () => fail(undefined);
    });
  }

  #run<T>(store: keyof typeof stores, mode: IDBTransactionMode, ask: (s: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const fail = (e: unknown) => {
        const name = e instanceof DOMException ? e.name : "";
        reject(new DianError("receive", name === "QuotaExceededError" ? Code.noSpace : Code.fileWrite, { detail: "IndexedDB", cause: e }));
      };
      try {
        const t = this.#db.transaction(store, mode, { durability: "strict" });
        const request = ask(t.objectStore(store));
        t.oncomplete = () => resolve(request.result);
        t.onabort = () => fail(t.error);
        t.onerror = () => fail(t.error);
      } catch (e) {
        fail(e);
      }
    });
  }

  all(): Promise<Entry[]> {
    return this.#run("entries", "readonly", (s) => s.getAll() as IDBRequest<Entry[]>);
  }

  async put(e: Entry): Promise<void> {
    await this.#run("entries", "readwrite", (s) => s.put(e));
  }

  async delete(key: string): Promise<void> {
    await this.#run("entries", "readwrite", (s) => s.delete(key));
  }

  /** The id of this receiving place, made once. Two tabs that ask at once get the same. */
  async instance(): Promise<Uint8Array> {
    const fresh = crypto.getRandomValues(new Uint8Array(16));
    await this.#run("meta", "readwrite", (s) => {
      const had = s.getKey("instance");
      had.onsuccess = () => {
        if (had.result === undefined) s.put(fresh, "instance");
      };
      return had;
    });
    return this.#run("meta", "readonly", (s) => s.get("instance") as IDBRequest<Uint8Array>);
  }

  async close(): Promise<void> {
    this.#db.close(); // what was begun ends before
  }
}

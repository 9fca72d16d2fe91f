import type { FileSource, WebSocketLike } from "../api.js";
import { Code } from "../codes.js";
import { BlobSource } from "../core/blobsource.js";
import { toHex } from "../core/names.js";
import { head } from "../core/uplane.js";
import { SourceFault, type Platform, type Source } from "../platform.js";
import { download } from "./download.js";
import { slot } from "./slots.js";
import { patch } from "./uplane.js";
import { OpfsVault } from "./vault.js";

/** A page in a browser. */
export const browserPlatform: Platform = {
  name: "dian-js/browser",
  parallel: 2,
  webSocket: (given: WebSocketLike | undefined) => Promise.resolve(given ?? WebSocket),

  async source(from: FileSource): Promise<Source> {
    if (from instanceof Blob) return new BlobSource(from);
    if (from instanceof ReadableStream) return spool(from);
    throw new SourceFault(Code.badParameter, "no File, Blob or stream");
  },

  patch,
  head,
  openVault: (place: string) => OpfsVault.open(place),
  download,
  slot,

  onWake(fn: () => void): () => void {
    const shown = () => {
      if (document.visibilityState === "visible") fn();
    };
    addEventListener("online", fn);
    addEventListener("pageshow", fn);
    document.addEventListener("visibilitychange", shown);
    document.addEventListener("resume", fn); // after a freeze
    return () => {
      removeEventListener("online", fn);
      removeEventListener("pageshow", fn);
      document.removeEventListener("visibilitychange", shown);
      document.removeEventListener("resume", fn);
    };
  },

  stayAwake,
};

/** Writes a stream to a temporary file in OPFS, or lets the browser keep it as a Blob. */
async function spool(stream: ReadableStream<Uint8Array>): Promise<Source> {
  try {
    if (typeof navigator.storage?.getDirectory !== "function") return new BlobSource(await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).blob());
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle("dian-spool", { create: true });
    const name = toHex(crypto.getRandomValues(new Uint8Array(16)));
    const handle = await folder.getFileHandle(name, { create: true });
    const done = () => folder.removeEntry(name).catch(() => {});
    try {
      await stream.pipeTo((await handle.createWritable()) as WritableStream<Uint8Array>);
      const file = await handle.getFile();
      return new BlobSource(file.slice(0, file.size), done);
    } catch (e) {
      await done();
      throw e;
    }
  } catch (e) {
    throw new SourceFault(Code.fileRead, "the stream has failed", e);
  }
}

let awakeFor = 0; // who wants the screen to stay on
let sentinel: Promise<WakeLockSentinel | undefined> | undefined;

/** Keeps the screen on while somebody wants it. The browser takes the lock away from a hidden page. */
function stayAwake(): () => void {
  const ask = () => {
    if (awakeFor > 0 && document.visibilityState === "visible") {
      sentinel = navigator.wakeLock?.request("screen").catch(() => undefined);
    }
  };
  if (awakeFor++ === 0) ask();
  document.addEventListener("visibilitychange", ask);
  let released = false;
  return () => {
    if (released) return;
    released = true;
    document.removeEventListener("visibilitychange", ask);
    if (--awakeFor > 0) return;
    void sentinel?.then((s) => s?.release());
    sentinel = undefined;
  };
}

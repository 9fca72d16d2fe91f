import { homedir } from "node:os";
import { join } from "node:path";
import type { FileSource, WebSocketLike } from "../api.js";
import { Code, DianError } from "../codes.js";
import { BlobSource } from "../core/blobsource.js";
import { head } from "../core/uplane.js";
import { SourceFault, type Platform, type Slot, type Source, type Vault } from "../platform.js";
import { PathSource, spool } from "./source.js";
import { patch } from "./uplane.js";
import { FolderVault } from "./vault.js";

const defaultDirs = 16; // default receive folders of one user on one machine

/** Node, 20 or later. */
export const nodePlatform: Platform = {
  name: "dian-js/node",
  parallel: 4,

  async webSocket(given: WebSocketLike | undefined): Promise<WebSocketLike> {
    if (given !== undefined) return given;
    if (typeof globalThis.WebSocket === "function") return globalThis.WebSocket;
    try {
      return (await import("ws")).WebSocket as unknown as WebSocketLike;
    } catch (e) {
      throw new DianError("connect", Code.badParameter, { detail: "no WebSocket: install ws, or give options.WebSocket", cause: e });
    }
  },

  async source(from: FileSource): Promise<Source> {
    if (typeof from === "string") return PathSource.create(from);
    if (from instanceof Blob) return new BlobSource(from);
    if (from instanceof ReadableStream) return spool(from);
    throw new SourceFault(Code.badParameter, "no path, Blob or stream");
  },

  patch,
  head,

  async openVault(place: string, dir: string | undefined): Promise<Vault> {
    if (dir !== undefined) return FolderVault.open(dir);
    const cache = process.env["XDG_CACHE_HOME"] ?? join(homedir(), process.platform === "darwin" ? "Library/Caches" : ".cache");
    // A login that is about to kick an older one of this machine finds its folder in
    // use, and is another place.
    for (let i = 1; ; i++) {
      try {
        return await FolderVault.open(join(cache, "dian-js", i === 1 ? place : `${place}-${i}`));
      } catch (e) {
        if (i === defaultDirs || !(e instanceof DianError) || !e.detail.includes("in use")) throw e;
      }
    }
  },

  download: undefined,

  async slot(): Promise<Slot> {
    return { release() {}, wanted: () => Promise.resolve(false) };
  },

  onWake: () => () => {},
  stayAwake: () => () => {},
};

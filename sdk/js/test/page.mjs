// The page of the browser tests: the SDK, and a log of what it told.
import * as sdk from "/dist/index.js";

const state = { log: [], tasks: {}, offers: {}, client: undefined };
/** A handle, as a person would choose one in the browser's dialog. */
const chosen = async () => (await navigator.storage.getDirectory()).getFileHandle("chosen.bin", { create: true });
/** The hash of a Blob, without having all of it in memory. */
async function sumOf(blob) {
  const { createSHA256 } = await import("/node_modules/hash-wasm/dist/index.esm.js");
  const h = (await createSHA256()).init();
  for (let at = 0; at < blob.size; at += 4 << 20) h.update(new Uint8Array(await blob.slice(at, at + (4 << 20)).arrayBuffer()));
  return h.digest("hex");
}
const plain = (e) => (e === undefined ? undefined : { code: e.code, origin: e.origin, detail: e.detail });

Object.assign(window, {
  sdk, state,
  async login(server, token, accept = "accept", options = {}) {
    const on = {};
    for (const event of ["cmdData", "bufferData", "fileData", "cancelSend", "receiveFailed", "lineOff", "reconnecting", "reconnected", "receiveProgress", "cancelSendResult"]) {
      on[event] = (e) => state.log.push({ event, ...e, error: plain(e.error), code: e.code, text: event === "cmdData" ? e.text() : undefined,
        sum: event === "bufferData" ? e.data.reduce((a, b) => (a * 31 + b) % 1_000_003, 7) : undefined, length: e.data?.length, data: undefined, meta: undefined, cause: undefined });
    }
    state.client = await sdk.connect(server, { token, on, ...options,
      acceptFile(offer) {
        state.log.push({ event: "offer", sendId: offer.sendId, name: offer.name, safeName: offer.safeName, size: offer.size, received: offer.received });
        state.offers[offer.sendId] = offer;
        if (accept === "accept") offer.accept();
        else if (accept === "refuse") offer.refuse(4711, "not today");
        else if (accept === "download") offer.acceptDownload();
        else if (accept === "to") chosen().then((handle) => offer.acceptTo(handle));
      },
    });
    return state.client.user;
  },
  async sendFile(target, options) {
    const file = document.getElementById("file").files[0];
    const task = state.client.sendFile(target, file, options);
    state.tasks[task.id] = task;
    return task.id;
  },
  async result(id) {
    const r = await state.tasks[id].result;
    return { code: r.code, receipt: r.receipt, size: r.size, error: plain(r.error) };
  },
  progress: (id) => state.tasks[id].progress.sent,
  async digestOf(sendId) {
    return sumOf(await (await state.client.files()).find((x) => x.sendId === sendId).blob());
  },
  /** What is in the handle that was chosen. */
  async inChosen() {
    const file = await (await chosen()).getFile();
    return { size: file.size, sum: await sumOf(file) };
  },
  /** Counts the screen locks that are asked for and not given back, in place of the browser's. */
  countLocks() {
    state.locks = { asked: 0, held: 0 };
    navigator.wakeLock.request = async () => {
      let held = true;
      state.locks.asked++;
      state.locks.held++;
      return { async release() {
        if (held) state.locks.held--;
        held = false;
      } };
    };
  },
  /** How much of a transfer is written down, in whichever place of this origin. */
  async journal(sendId) {
    let offset = 0;
    for (const { name } of await indexedDB.databases()) {
      const db = await new Promise((resolve) => Object.assign(indexedDB.open(name), { onsuccess: (e) => resolve(e.target.result) }));
      const all = await new Promise((resolve) => Object.assign(db.transaction("entries").objectStore("entries").getAll(), { onsuccess: (e) => resolve(e.target.result) }));
      db.close();
      for (const e of all) if (e.sendId === sendId && e.state === "partial") offset = Math.max(offset, e.offset);
    }
    return offset;
  },
  seen: (event, sendId) => state.log.filter((e) => e.event === event && (sendId === undefined || e.sendId === sendId)),
});
document.title = "ready";

// An up-lane by XMLHttpRequest: the browser reads the Blob from its disk as the connection
// takes it, and tells how much that was. fetch tells nothing, and streams need HTTP/2.
import { patchHeaders, upEnd } from "../core/uplane.js";
import type { Source, UpEnd, UpRequest } from "../platform.js";

export function patch(source: Source, r: UpRequest): Promise<UpEnd> {
  const body = source.blob as Blob;
  return new Promise((resolve, reject) => {
    const x = new XMLHttpRequest();
    const abort = () => x.abort();
    const settle = (end: UpEnd) => {
      r.signal.removeEventListener("abort", abort);
      resolve(end);
    };
    // A file that has changed looks like a broken connection: reading it tells.
    const broken = () => void source.check().then(() => settle({ end: "broken" }), reject);
    x.open("PATCH", r.url);
    for (const [name, value] of Object.entries(patchHeaders(r.token, r.offset))) x.setRequestHeader(name, value);
    x.upload.onprogress = (e) => {
      if (e.loaded < r.length) r.wrote(r.offset + e.loaded);
    };
    x.upload.onload = () => r.wrote(r.offset + r.length);
    x.onload = () => {
      const header = (name: string) => x.getResponseHeader(name);
      void upEnd(x.status, header, () => Promise.resolve(x.responseText)).then(settle);
    };
    x.onerror = x.ontimeout = broken;
    x.onabort = () => settle({ end: "broken" });
    if (r.signal.aborted) {
      settle({ end: "broken" });
      return;
    }
    r.signal.addEventListener("abort", abort, { once: true });
    x.send(body.slice(r.offset, r.offset + r.length));
  });
}

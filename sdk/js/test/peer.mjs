// A client in a process of its own, for tests that kill it. It prints one JSON line per event.
import { connect } from "../dist/index.node.js";

const [how, server, token, dir, ...rest] = process.argv.slice(2);
const say = (o) => console.log(JSON.stringify(o));

if (how === "receive") {
  const client = await connect(server, {
    token, receiveDir: dir,
    acceptFile(offer) {
      say({ event: "offer", received: offer.received });
      offer.accept();
    },
    on: {
      fileData: (f) => say({ event: "file", sendId: f.sendId, path: f.path, size: f.size }),
      receiveProgress: (p) => say({ event: "progress", received: p.received }),
    },
  });
  say({ event: "ready", kept: (await client.files()).length });
} else {
  const [target, path, sendId] = rest;
  const client = await connect(server, { token, sendOnly: true });
  const task = client.sendFile(target, path, { sendId });
  task.onProgress((p) => say({ event: "progress", sent: p.sent }));
  const r = await task.result;
  say({ event: "result", code: r.code, receipt: r.receipt });
  await client.close();
}

// What the tests share: a real relay, tokens, the CLI, content that can be told again.
import { spawn, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const here = dirname(fileURLToPath(import.meta.url));
export const vectors = join(here, "../../../testdata/vectors");
export const dian = process.env.DIAN ?? "/nonexistent/set-DIAN";

const ends = new WeakMap();

/** Calls fn when the test is over: what was made last ends first, and all of it ends. */
export function after(t, fn) {
  let list = ends.get(t);
  if (list === undefined) {
    ends.set(t, (list = []));
    t.after(async () => {
      const faults = [];
      for (const end of list.reverse()) {
        try {
          await end();
        } catch (e) {
          faults.push(e);
        }
      }
      if (faults.length > 0) throw faults[0];
    });
  }
  list.push(fn);
}

/** A folder that is gone when the test is over. */
export async function folder(t) {
  const dir = await mkdtemp(join(tmpdir(), "dian-js-"));
  after(t, () => rm(dir, { recursive: true, force: true }));
  return dir;
}

export function token(user, ...flags) {
  return execFileSync(dian, ["token", "--dev", "--user", user, "--see", "*", ...flags], { encoding: "utf8" }).trim();
}

/** Starts a process and gathers what it prints; `line` waits for a line that fits. */
export function run(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  const lines = [];
  let waiting = [];
  let rest = "";
  let errors = "";
  child.stderr.on("data", (d) => (errors += d));
  child.stdout.on("data", (d) => {
    rest += d;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const p of parts) lines.push(p);
    waiting = waiting.filter((w) => !w());
  });
  const ended = new Promise((resolve) => child.on("close", (code) => {
    resolve(code);
    for (const w of waiting) w(true);
  }));
  return {
    child, lines, ended, errors: () => errors,
    line(fits) {
      return new Promise((resolve, reject) => {
        const look = (over) => {
          const found = lines.find(fits);
          if (found !== undefined) resolve(found);
          else if (over) reject(new Error(`${command} ended: ${errors}`));
          return found !== undefined;
        };
        if (!look(child.exitCode !== null)) waiting.push(look);
      });
    },
    async stop(signal = "SIGTERM") {
      if (child.exitCode === null) child.kill(signal);
      return ended;
    },
  };
}

/** A relay of `dian serve --dev` that can be killed and started again at the same address. */
export async function relay(t, config = "") {
  const dir = await folder(t);
  const file = join(dir, "dian.yaml");
  await writeFile(file, config);
  const r = { url: "", process: undefined };
  let listen = "127.0.0.1:0";
  r.start = async () => {
    const at = join(dir, "address");
    await rm(at, { force: true });
    r.process = run(dian, ["serve", "--dev", "--config", file, "--listen", listen, "--listen-file", at, "--log-level", "warn"]);
    for (let address = ""; address === ""; ) {
      address = (await readFile(at, "utf8").catch(() => "")).trim();
      if (address !== "") listen = address;
      else if (r.process.child.exitCode !== null) throw new Error(`dian serve ended: ${r.process.errors()}`);
      else await new Promise((resolve) => setTimeout(resolve, 10));
    }
    r.url = `http://${listen}`;
  };
  r.kill = () => r.process.stop("SIGKILL");
  await r.start();
  after(t, () => r.process.stop("SIGKILL"));
  return r;
}

/** Writes a file of so many bytes that look random, the same for the same seed. */
export async function content(path, size, seed = 1) {
  const h = await open(path, "w");
  const block = new Uint8Array(1 << 20);
  let x = seed >>> 0 || 1;
  const words = new Uint32Array(block.buffer);
  for (let i = 0; i < words.length; i++) {
    x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0;
    words[i] = x;
  }
  for (let at = 0, n = 0; at < size; at += block.length, n++) {
    words[0] = n; // no two blocks are the same
    await h.write(block, 0, Math.min(block.length, size - at), at);
  }
  await h.close();
  return path;
}

export async function sha256(path) {
  const h = createHash("sha256");
  for await (const p of createReadStream(path)) h.update(p);
  return h.digest("hex");
}

/** Waits until something is so; the test runner's own time limit ends it. */
export async function until(fn, what = "") {
  for (;;) {
    const v = await fn();
    if (v) return v;
    await new Promise((resolve) => setTimeout(resolve, 20));
    void what;
  }
}

/** Gathers a client's events of one kind; `next` waits for the next that fits. */
export function gather(client, event) {
  const list = [];
  let waiting = [];
  client.on(event, (e) => {
    list.push(e);
    waiting = waiting.filter((w) => !w(e));
  });
  return {
    list,
    next: (fits = () => true) => {
      const had = list.find(fits);
      if (had !== undefined) return Promise.resolve(had);
      return new Promise((resolve) => waiting.push((e) => (fits(e) ? (resolve(e), true) : false)));
    },
  };
}

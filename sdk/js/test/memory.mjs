// Measures what a tab holds while 2 GiB pass, each way. Not a test: it prints numbers.
//   DIAN=/path/to/dian node test/memory.mjs [MiB]
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { browser, open, pages } from "./browser.mjs";
import { content, dian, folder, relay, run, sha256, token } from "./lib.mjs";

const mib = Number(process.argv[2] ?? 2048);
const ends = [];
const t = { after: (fn) => ends.unshift(fn) };
const rss = async (pid) => Number(/RssAnon:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024;

try {
  const origin = await pages(t);
  const r = await relay(t, `origins: ["${origin}"]\n`);
  const dir = await folder(t);
  const path = await content(join(dir, "big.bin"), mib * 2 ** 20);
  const sum = await sha256(path);
  const context = await browser(t);
  const page = await open(context, origin);
  const cdp = await context.newCDPSession(page);
  const info = async () => (await (await context.browser()?.newBrowserCDPSession() ?? cdp).send("SystemInfo.getProcessInfo").catch(() => ({ processInfo: [] }))).processInfo;
  let pids = (await info()).filter((p) => p.type === "renderer").map((p) => p.id);
  if (pids.length === 0) {
    const { execSync } = await import("node:child_process");
    pids = execSync("pgrep -f -- '--type=renderer'").toString().trim().split("\n").map(Number).filter((p) => p > 0);
  }
  const measure = async (what, fn) => {
    const from = Math.max(...(await Promise.all(pids.map((p) => rss(p).catch(() => 0)))));
    let most = 0;
    let over = false;
    const sampling = (async () => {
      while (!over) {
        most = Math.max(most, ...(await Promise.all(pids.map((p) => rss(p).catch(() => 0)))));
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    })();
    const begin = Date.now();
    await fn();
    over = true;
    await sampling;
    console.log(`${what}: ${mib} MiB in ${((Date.now() - begin) / 1000).toFixed(1)} s, the tab's own memory ${from.toFixed(0)} MiB before, ${most.toFixed(0)} MiB at most`);
  };
  await page.evaluate(([u, k]) => login(u, k), [r.url, token("alice")]);
  const into = join(dir, "into");
  const listen = run(dian, ["listen", "--user", "gopher", "--server", r.url, "--json", "--dir", into]);
  t.after(() => listen.stop());
  await page.evaluate(() => state.client.sendCmd("gopher", "x", { waitForPeer: 20_000 }).result);
  await page.setInputFiles("#file", path);
  await measure("sending", async () => {
    const result = await page.evaluate(async () => window.result(await sendFile("gopher")));
    if (result.code !== 0) throw new Error(JSON.stringify(result));
  });
  if ((await sha256(join(into, "big.bin"))) !== sum) throw new Error("another hash");
  await rm(into, { recursive: true });
  await measure("receiving", async () => {
    const code = await run(dian, ["send", "--user", "dave", "--server", r.url, "alice", path]).ended;
    if (code !== 0) throw new Error(`dian send: ${code}`);
  });
  const [file] = await page.evaluate(() => seen("fileData"));
  if ((await page.evaluate((i) => digestOf(i), file.sendId)) !== sum) throw new Error("another hash");
  console.log("both hashes are right");
} finally {
  for (const fn of ends) await fn();
}

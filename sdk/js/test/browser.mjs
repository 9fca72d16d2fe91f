// A browser with pages that use the SDK as it is built, without a bundler.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { join, normalize } from "node:path";
import { chromium } from "playwright-core";
import { after, folder, here } from "./lib.mjs";

const bare = {
  "hash-wasm": "/node_modules/hash-wasm/dist/index.esm.js",
  "@bufbuild/protobuf/codegenv2": "/node_modules/@bufbuild/protobuf/dist/esm/codegenv2/index.js",
  "@bufbuild/protobuf": "/node_modules/@bufbuild/protobuf/dist/esm/index.js",
};
const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript" };

/** Serves page, SDK and its two dependencies from one origin. */
export async function pages(t) {
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, "http://x").pathname);
    if (path === "/empty.html") return void response.writeHead(200, { "Content-Type": types[".html"] }).end("<title>empty</title>");
    const file = path === "/" ? join(here, "page.html") : path === "/page.mjs" ? join(here, "page.mjs") : join(here, "..", path);
    try {
      let text = await readFile(file, "utf8");
      if (path.startsWith("/dist/")) text = text.replace(/(from |import\()"([@a-z][^"]*)"/g, (all, how, name) => (bare[name] ? `${how}"${bare[name]}"` : all));
      response.writeHead(200, { "Content-Type": types[file.slice(file.lastIndexOf("."))] ?? "application/octet-stream" }).end(text);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(t, () => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

export async function browser(t, options = {}) {
  const dir = await folder(t);
  const context = await chromium.launchPersistentContext(dir, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, acceptDownloads: true, ...options,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--js-flags=--expose-gc"],
  });
  after(t, () => context.close());
  return context;
}

/** Opens a page whose SDK is loaded; what it prints as an error fails the test. */
export async function open(context, origin, faults = []) {
  const page = await context.newPage();
  page.on("pageerror", (e) => faults.push(String(e)));
  await page.goto(origin);
  await page.waitForFunction(() => document.title === "ready");
  return page;
}

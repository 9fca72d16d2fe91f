// What your own web server does: it serves the page, and gives a logged-in user a token.
//   DIAN_SECRET=… node serve.mjs [port] [relay]
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const [port = "8080", relay = "http://127.0.0.1:7700"] = process.argv.slice(2);
const secret = process.env.DIAN_SECRET;
if (secret === undefined) throw new Error("DIAN_SECRET is not set: the HS256 secret of the app, see README.md");

// token: your backend makes it, after its own login.
function token(user) {
  const part = (o) => Buffer.from(JSON.stringify(o)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, aud: process.env.DIAN_APP ?? "example", iat: now, exp: now + 3600 })}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

// The receiving worker is a file of its own, beside the bundle.
const bundle = (entry) => build({ entryPoints: [entry], bundle: true, format: "esm", target: "es2022", write: false, absWorkingDir: here })
  .then((r) => r.outputFiles[0].text);
const sdk = fileURLToPath(new URL(".", import.meta.resolve("@dian-im/sdk")));
const files = {
  "/": ["text/html; charset=utf-8", await readFile(`${here}index.html`)],
  "/app.js": ["text/javascript", await bundle("app.js")],
  "/worker.js": ["text/javascript", await bundle(`${sdk}browser/worker.js`)],
};

const server = createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const answer = (type, body) => response.writeHead(200, { "Content-Type": type, "Cache-Control": "no-store" }).end(body);
  if (url.pathname === "/relay") answer("text/plain", relay);
  // An example believes everybody; yours takes the user from its own session.
  else if (url.pathname === "/token") answer("text/plain", token(url.searchParams.get("user") ?? ""));
  else if (files[url.pathname] !== undefined) answer(...files[url.pathname]);
  else response.writeHead(404).end();
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));

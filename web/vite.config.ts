// The same sources give the same bytes on every machine: `make web-check` depends on it.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  base: "./", // the relay may be behind a path
  resolve: {
    alias: { "@dian-im/sdk": here("../sdk/js/src/index.ts") },
    // The SDK's sources lie outside of this folder; what they need is here.
    dedupe: ["@bufbuild/protobuf", "hash-wasm"],
  },
  build: {
    outDir: here("../internal/page/dist"),
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0, // the policy allows no data: URLs
    reportCompressedSize: false,
  },
  worker: { format: "es" },
});

// Are the generated messages those of client.proto? Generates them anew, elsewhere, and compares.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FILE = "seriatim/v1/client_pb.ts";
const folder = mkdtempSync(join(tmpdir(), "seriatim-generated-"));
try {
  execFileSync("npx", ["--no-install", "buf", "generate", "--output", folder], { stdio: "inherit" });
  const [fresh, committed] = [join(folder, "src/gen"), "src/gen"].map((root) => readFileSync(join(root, FILE), "utf8"));
  if (fresh !== committed) {
    console.error(`${FILE} is not what client.proto says: npm run generate`);
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

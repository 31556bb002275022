// Compiles and runs all tests. Those on a real cluster need SERIATIM_BIN, the folder of the program `seriatim`.

import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";

execFileSync("npx", ["--no-install", "tsc", "-p", "tsconfig.test.json"], { stdio: "inherit" });
const files = readdirSync("build/test")
  .filter((name) => name.endsWith(".test.js"))
  .map((name) => `build/test/${name}`);
const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=spec", "--test-concurrency=4", ...process.argv.slice(2), ...files], { stdio: "inherit" });
process.exitCode = status ?? 1;

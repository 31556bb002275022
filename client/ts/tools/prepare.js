// Builds the package where it is installed from its folder: npm does not fetch what a build needs there.

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const cwd = dirname(dirname(fileURLToPath(import.meta.url)));
const npm = (...args) => execFileSync("npm", args, { cwd, stdio: ["ignore", "ignore", "inherit"], shell: process.platform === "win32" });

if (!existsSync(`${cwd}/node_modules/.bin/tsc`)) npm("ci", "--ignore-scripts");
npm("run", "build");

// Every case on a real cluster: in Node over a WebSocket, in a browser over WebTransport and over a WebSocket.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { ConnectError } from "../src/index.js";
import { connect, nodeWebSocket } from "../src/node.js";
import { Browser, chromium } from "./browser.js";
import { CASES, run } from "./cases.js";
import { BIN, Cluster } from "./cluster.js";
import { failure, type World } from "./world.js";

let cluster: Cluster;
let devices: string;
before(async () => {
  // Gateways that ask for client certificates, which browsers and most devices have none of.
  devices = mkdtempSync(join(tmpdir(), "seriatim-devices-"));
  raftctl("cert", "init-ca", devices);
  cluster = await Cluster.start("--gateways", "2", "--client-ca", join(devices, "ca.pem"));
});
after(async () => {
  await cluster?.stop();
  rmSync(devices, { recursive: true, force: true });
});

function raftctl(...args: string[]): void {
  execFileSync(join(BIN ?? "", "raftctl"), args, { stdio: ["ignore", "ignore", "inherit"] });
}

function world(prefix: string, transport: World["transport"]): World {
  return {
    prefix,
    transport,
    gateways: cluster.gateways,
    token: async (user, options) => cluster.token(user, options),
    forge: async (user) => cluster.token(user, {}, true),
    kill: (node) => cluster.kill(node),
    start: (node) => cluster.start(node),
  };
}

describe("Node over a WebSocket", () => {
  for (const name of Object.keys(CASES)) {
    it(name, () => run(name, world("n", "websocket"), { webSocket: nodeWebSocket({ ca: cluster.ca }) }));
  }

  it("a client certificate says who comes, without a token", async () => {
    const out = join(devices, "alice");
    raftctl("cert", "issue", devices, "--tenant", "7", "--user", "n-alice", "--out", out);
    const [cert, key] = [readFileSync(`${out}.pem`), readFileSync(`${out}-key.pem`)];
    const options = { addresses: cluster.gateways, device: "phone", ca: cluster.ca };
    const client = await connect({ ...options, cert, key });
    assert.deepEqual([client.identity?.tenant, client.identity?.user], [7, "n-alice"]);
    client.close();
    const both = await failure(ConnectError, connect({ ...options, cert, key, token: cluster.token("n-bob") }));
    assert.equal(both.refusal?.name, "AUTH_FAILED", both.message);
    const neither = await failure(ConnectError, connect(options));
    assert.equal(neither.refusal?.name, "AUTH_FAILED", neither.message);
  });

  it("C-073 a gateway of another CA, or with another name, is refused", async () => {
    const options = { addresses: cluster.gateways, token: cluster.token("alice"), device: "phone" };
    const stranger = await failure(ConnectError, connect(options));
    assert.equal(stranger.reason, "handshake", stranger.message);
    const misnamed = await failure(ConnectError, connect({ ...options, ca: cluster.ca, serverName: "elsewhere.example" }));
    assert.equal(misnamed.reason, "handshake", misnamed.message);
  });
});

const executable = chromium();
const skip = executable === undefined ? "no Chromium here: Debian's package `chromium`, or SERIATIM_CHROMIUM" : false;
describe("a browser", { skip }, () => {
  let browser: Browser;
  before(async () => {
    browser = await Browser.open(executable ?? "");
  });
  after(() => browser.close());
  for (const transport of ["webtransport", "websocket"] as const) {
    describe(`over ${transport}`, () => {
      for (const name of Object.keys(CASES)) it(name, () => browser.run(name, world(transport === "webtransport" ? "wt" : "ws", transport)));
    });
  }
});

it("the example of the README runs as it is", async () => {
  const readme = readFileSync("README.md", "utf8");
  const example = readme.split("```ts\n")[1]?.split("```")[0] ?? assert.fail("no example");
  assert(example.trim().split("\n").length <= 15, "at most 15 lines");
  // Compiled here, where the types are; run where the package is installed from its folder.
  const folder = process.env["SERIATIM_CONSUMER"] ?? "build";
  writeFileSync("build/example.ts", example);
  const strict = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node", "--skipLibCheck", "--ignoreConfig", "--rootDir", "."];
  execFileSync("node_modules/.bin/tsc", [...strict, "--outDir", folder, "build/example.ts"], { stdio: "inherit" });
  const ca = cluster.about.ca_certificate;
  const env = { ...process.env, GATEWAY: cluster.gateways[0], TOKEN: cluster.token("readme"), CA: ca };
  const said = await new Promise<string>((resolve, reject) =>
    execFile(process.execPath, [`${folder}/build/example.js`], { env }, (error, stdout, stderr) => (error === null ? resolve(stdout) : reject(new Error(stderr)))),
  );
  assert.match(said, /^in the conversation at 1n\n\d+n readme hello\n$/);
});

// Cluster: a playground of real processes in a folder of its own.

import { spawn, type ChildProcess } from "node:child_process";
import { createPrivateKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { PATIENCE_MS, check, type TokenOptions } from "./world.js";

/** Folder of the binaries, or `undefined`: there are none to test against. */
export const BIN = process.env["SERIATIM_BIN"];

interface About {
  readonly nodes: readonly { name: string; role: string; address: string }[];
  readonly ca_certificate: string;
  readonly token_private_key: string;
}

export class Cluster {
  private constructor(
    private readonly folder: string,
    private readonly child: ChildProcess,
    readonly about: About,
    readonly ca: string,
    private readonly key: KeyObject,
  ) {}

  static async start(...args: string[]): Promise<Cluster> {
    check(BIN !== undefined, "SERIATIM_BIN is not set: the folder of the program `seriatim`");
    const folder = await mkdtemp(join(tmpdir(), "seriatim-ts-"));
    const child = spawn(join(BIN, "seriatim"), ["playground", "--exit-with-parent", "--data", folder, ...args], { stdio: ["pipe", "pipe", "ignore"] });
    try {
      const ready = await new Promise<string>((resolve, reject) => {
        child.once("error", reject);
        child.once("exit", (code) => reject(new Error(`the playground ended with ${code}`)));
        createInterface(child.stdout).once("line", resolve);
      });
      check(ready.includes('"ready":true'), `the playground is ready: ${ready}`);
      const about = JSON.parse(await readFile(join(folder, "playground.json"), "utf8")) as About;
      const key = signingKey(await readFile(about.token_private_key, "utf8"));
      return new Cluster(folder, child, about, await readFile(about.ca_certificate, "utf8"), key);
    } catch (error) {
      child.stdin.end();
      throw error;
    }
  }

  get gateways(): string[] {
    return this.about.nodes.filter(({ role }) => role === "gateway").map(({ address }) => address);
  }

  /** A signed token; `forged`: by somebody else. */
  token(user: string, { seconds = 3600, scopes, tenant = 1 }: TokenOptions = {}, forged = false): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const exp = Math.floor(Date.now() / 1000) + seconds;
    const signed = `${part({ alg: "EdDSA", typ: "JWT" })}.${part({ aud: "seriatim", sub: user, tenant, exp, ...(scopes && { scopes }) })}`;
    const key = forged ? generateKeyPairSync("ed25519").privateKey : this.key;
    return `${signed}.${sign(null, Buffer.from(signed), key).toString("base64url")}`;
  }

  /** SIGKILL; it is gone when this returns. */
  kill(node: string): Promise<void> {
    return this.#ask({ do: "kill", node });
  }

  /** Starts it again; it is ready when this returns. */
  start(node: string): Promise<void> {
    return this.#ask({ do: "start", node });
  }

  /** Its end of stdin ends the playground, and with it all its children. */
  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.stdin?.end();
    const late = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE_MS);
    await ended;
    clearTimeout(late);
    await rm(this.folder, { recursive: true, force: true });
  }

  async #ask(request: object): Promise<void> {
    const socket = connect(join(this.folder, "control.sock"));
    socket.write(`${JSON.stringify(request)}\n`);
    const line = await new Promise<string>((resolve, reject) => {
      socket.once("error", reject);
      createInterface(socket).once("line", resolve);
    });
    socket.destroy();
    const answer = JSON.parse(line) as { ok: boolean; error?: string };
    check(answer.ok, `${JSON.stringify(request)}: ${answer.error}`);
  }
}

/** Version 2 of PKCS#8 has the public key too, which not every OpenSSL reads: the seed alone, in version 1. */
function signingKey(pem: string): KeyObject {
  const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
  const seed = der.indexOf(Buffer.from("04220420", "hex")) + 4;
  check(seed >= 4, "the key is an Ed25519 key in PKCS#8");
  const head = Buffer.from("302e020100300506032b657004220420", "hex");
  return createPrivateKey({ key: Buffer.concat([head, der.subarray(seed, seed + 32)]), format: "der", type: "pkcs8" });
}

// Browser: headless Chromium with a page that has this SDK and the cases in it.

import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium as playwright, type Browser as Chromium, type Page } from "playwright-core";

import type { TokenOptions, World } from "./world.js";

/** The browser's program, if there is one. */
export function chromium(): string | undefined {
  const named = process.env["SERIATIM_CHROMIUM"];
  if (named !== undefined) return named;
  return (process.env["PATH"] ?? "").split(delimiter).map((folder) => join(folder, "chromium")).find((path) => existsSync(path));
}

/** The page's script: nothing of Node may be in it. */
export async function bundle(entry: string): Promise<string> {
  const path = fileURLToPath(new URL(entry, import.meta.url));
  const { outputFiles } = await build({ entryPoints: [path], bundle: true, write: false, format: "iife", platform: "browser", target: "es2022" });
  return outputFiles[0]?.text ?? "";
}

export class Browser {
  #world: World | undefined;
  private constructor(
    private readonly server: Server,
    private readonly chromium: Chromium,
    private readonly page: Page,
  ) {}

  static async open(executablePath: string): Promise<Browser> {
    const script = await bundle("./page.js");
    const html = `<!doctype html><title>device</title><script>${script.replaceAll("</script", "<\\/script")}</script>`;
    const server = createServer((_, response) => response.setHeader("content-type", "text/html; charset=utf-8").end(html));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    // For `wss://` the browser is told to take the development CA's certificate; WebTransport takes the published
    // hashes, and no notice of this.
    const chromium = await playwright.launch({ executablePath, args: ["--no-sandbox", "--ignore-certificate-errors"] });
    const page = await chromium.newPage();
    const browser = new Browser(server, chromium, page);
    await page.exposeFunction("worldToken", (user: string, options: TokenOptions) => browser.#world?.token(user, options));
    await page.exposeFunction("worldForge", (user: string) => browser.#world?.forge(user));
    await page.exposeFunction("worldKill", (node: string) => browser.#world?.kill(node));
    await page.exposeFunction("worldStart", (node: string) => browser.#world?.start(node));
    // The gateway's own host, so that the page's origin may connect.
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    return browser;
  }

  async run(name: string, world: World): Promise<void> {
    this.#world = world;
    const { prefix, gateways, transport } = world;
    const error = await this.page.evaluate(({ name, told }) => (globalThis as unknown as Told).runCase(name, told), { name, told: { prefix, gateways, transport } });
    if (error !== "") throw new Error(error);
  }

  async close(): Promise<void> {
    await this.chromium.close();
    this.server.close();
  }
}

/** What the page has. */
export interface Told {
  runCase(name: string, told: Pick<World, "prefix" | "gateways" | "transport">): Promise<string>;
}

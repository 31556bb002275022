// The page's script: runs cases in the browser, with the world outside for what a page cannot do.

import type { Told } from "./browser.js";
import { run } from "./cases.js";
import type { World } from "./world.js";

interface Outside {
  worldToken: World["token"];
  worldForge: World["forge"];
  worldKill: World["kill"];
  worldStart: World["start"];
}

const outside = globalThis as unknown as Outside;

(globalThis as unknown as Told).runCase = async (name, told) => {
  const world: World = {
    ...told,
    token: (user, options) => outside.worldToken(user, options),
    forge: (user) => outside.worldForge(user),
    kill: (node) => outside.worldKill(node),
    start: (node) => outside.worldStart(node),
  };
  try {
    await run(name, world, {});
    return "";
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}\n${error.stack ?? ""}` : String(error);
  }
};

// Node: the file of the cursor.

import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { it } from "node:test";

import { FileCursorStore } from "../src/node.js";

it("C-072 a file keeps the cursor, is replaced as a whole, and is not guessed at", async () => {
  const folder = await mkdtemp(join(tmpdir(), "seriatim-cursor-"));
  try {
    const path = join(folder, "cursor");
    assert.equal(await new FileCursorStore(path).load(), undefined);
    for (const cursor of [7n, 2n ** 53n - 1n]) {
      await new FileCursorStore(path).save(cursor);
      assert.equal(await new FileCursorStore(path).load(), cursor);
    }
    // A crash while it was written leaves the old one.
    await writeFile(`${path}.new`, "9");
    assert.equal(await new FileCursorStore(path).load(), 2n ** 53n - 1n);
    await new FileCursorStore(path).save(8n);
    assert.deepEqual(await readdir(folder), ["cursor"]);
    await writeFile(path, "seven");
    await assert.rejects(new FileCursorStore(path).load(), RangeError);
    await assert.rejects(new FileCursorStore(join(folder, "missing", "cursor")).save(1n), { code: "ENOENT" });
    await assert.rejects(new FileCursorStore(folder).load(), { code: "EISDIR" });
  } finally {
    await rm(folder, { recursive: true });
  }
});

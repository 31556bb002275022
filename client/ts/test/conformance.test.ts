// The list of cases is docs/conformance.md's: each one that judges an SDK has a test here, and each number of a test a case.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { it } from "node:test";

import { CASES } from "./cases.js";

/** Cases that a page in a browser is not asked, and why: all others run there, over each way in. */
const NOT_IN_A_BROWSER: Readonly<Record<string, string>> = {
  "C-001": "bytes alone: the same code in Node",
  "C-002": "bytes alone: the same code in Node",
  "C-003": "bytes alone: the same code in Node",
  "C-004": "bytes alone: the same code in Node",
  "C-005": "bytes alone: the same code in Node",
  "C-006": "bytes alone: the same code in Node",
  "C-063": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-064": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-065": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-066": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-067": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-069": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-070": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-071": "pauses alone: the same code in Node",
  "C-073": "whom a page trusts is the browser's own decision",
  "C-074": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-103": "needs a gateway that follows a script: the same code over a connection that the test holds",
  "C-086": "needs a gateway that follows a script: the same code over a connection that the test holds",
};

const NUMBER = /C-\d{3}/g;
const numbersIn = (text: string): string[] => text.match(NUMBER) ?? [];

/** Numbers of the page, and whom they judge. */
function page(): Map<string, string> {
  const rows = readFileSync("../../docs/conformance.md", "utf8").matchAll(/^\| (C-\d{3}) \| (gateway|SDK|both) \|/gm);
  return new Map([...rows].map(([, number, judges]) => [number ?? "", judges ?? ""]));
}

/** Numbers in the names of tests, not those in comments. */
function tested(): Set<string> {
  const found = new Set<string>();
  for (const name of readdirSync("test").filter((name) => name.endsWith(".ts") && name !== "conformance.test.ts")) {
    const text = readFileSync(`test/${name}`, "utf8");
    for (const [, title] of text.matchAll(/^\s*(?:it\(\s*|)"(C-\d{3}[^"]*)"(?:,|: async)/gm)) numbersIn(title ?? "").forEach((number) => found.add(number));
  }
  return found;
}

const sorted = (numbers: Iterable<string>): string[] => [...numbers].sort();

it("every case that judges an SDK has a test, and every number of a test is such a case", () => {
  const judged = [...page()].filter(([, judges]) => judges !== "gateway").map(([number]) => number);
  assert(judged.length > 50, "the page has its rows");
  assert.deepEqual(sorted(tested()), sorted(judged));
});

it("a case runs in a browser, or says why not", () => {
  const run = new Set(Object.keys(CASES).flatMap(numbersIn));
  const judged = [...page()].filter(([, judges]) => judges !== "gateway").map(([number]) => number);
  assert.deepEqual(sorted([...run, ...Object.keys(NOT_IN_A_BROWSER)]), sorted(judged), "each in one of the two");
});

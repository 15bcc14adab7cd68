// One browser that does what a person does. Reads a command a line from stdin, {action, options}, and answers a
// line each on stdout, {result} or {error}.
import readline from "node:readline";
import * as app from "./app.mjs";
import * as canvas from "./canvas.mjs";
import * as figures from "./figures.mjs";
import * as help from "./help.mjs";
import * as issues from "./issues.mjs";
import * as library from "./library.mjs";
import { launch } from "./page.mjs";
import * as said from "./said.mjs";
import * as session from "./session.mjs";
import * as templates from "./templates.mjs";

const ACTIONS = { ...session, ...templates, ...issues, ...library, ...app, ...canvas, ...figures, ...help, ...said };

const browser = await launch();
const page = await session.newPage(browser);

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { action, options } = JSON.parse(line);
  let answer;
  try {
    if (!ACTIONS[action]) throw new Error(`no action ${action}`);
    answer = { result: (await ACTIONS[action](page, options)) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();

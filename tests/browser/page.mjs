// A page of the real frontend in headless Chromium, with settings that make it repeatable.
import { createRequire } from "node:module";

const require = createRequire(process.env.PLAYWRIGHT_FOLDER ? process.env.PLAYWRIGHT_FOLDER + "/" : import.meta.url);
const { chromium } = require("playwright-core");

const QUIET = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: QUIET });
}

// Waits until every node is known and the workflow that the frontend opens by itself is there: what is built before
// that gets mixed with it. Older ones open none.
export async function waitForFrontend(page, { older = false } = {}) {
  await page.waitForFunction(
    () => window.app?.extensionManager && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100,
    null, { timeout: 120000 },
  );
  if (!older) await page.waitForFunction(() => window.app.graph?.nodes.length > 0, null, { timeout: 60000 });
}

export async function openFrontend(url, { width = 1800, height = 1000 } = {}) {
  const browser = await launch();
  const page = await browser.newPage({ viewport: { width, height } });
  await page.goto(url);
  await waitForFrontend(page);
  return { browser, page };
}

// The page itself: opening, settling, settings, and everything it complained about.
import fs from "node:fs";
import path from "node:path";
import { waitForFrontend } from "./page.mjs";

const PATIENCE = 30000; // ms; a loaded two-core machine draws a few frames a second
const EXPECTED = [
  /404 .*(user\.css|comfy\.templates\.json|\/docs\/)/, // files that people may have, and the localised page asked for first
  /Content Security Policy/, // the host forbids calls to other sites
];

// A message on the screen that is not good news: in the host's pinned frontend, and in newer ones.
const TOAST = [
  ".p-toast-message:not(.p-toast-message-success, .p-toast-message-info)",
  "[data-testid=toast]:not([data-toast-kind=success], [data-toast-kind=info], [data-toast-kind=loading])",
].join();

const complaints = [];

export async function newPage(browser) {
  const page = await browser.newPage({ viewport: { width: 1600, height: 900 }, reducedMotion: "reduce" });
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => complaints.push(`page error: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    const text = `${message.text()} ${message.location().url}`;
    if (!EXPECTED.some((known) => known.test(text))) complaints.push(`console: ${text}`);
  });
  await page.addInitScript((TOAST) => {
    window.seenToasts = [];
    const note = (element) => {
      const toast = element.matches?.(TOAST) ? element : element.querySelector?.(TOAST);
      if (toast) window.seenToasts.push(toast.innerText.trim());
    };
    new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach(note)))
      .observe(document, { childList: true, subtree: true });
  }, TOAST);
  return page;
}

export async function open(page, { url, older = false }) {
  await page.goto("about:blank");
  await page.goto(url);
  await waitForFrontend(page, { older });
  await settle(page);
  complaints.length = 0;
}

// Waits until nothing is asked from the host any more and the answers have been drawn.
export async function settle(page) {
  await page.waitForLoadState("networkidle");
  await page.evaluate(() => new Promise((done) => requestIdleCallback(done, { timeout: 2000 })));
  await page.waitForTimeout(400);
}

export async function set(page, { name, value }) {
  await page.evaluate(([name, value]) => window.app.extensionManager.setting.set(name, value), [name, value]);
  await settle(page);
}

// An empty graph and no panel over it.
export async function reset(page) {
  const dialog = page.locator("[role=dialog]:visible");
  for (let tries = 0; tries < 3 && (await dialog.count()); tries++) await page.keyboard.press("Escape");
  await page.evaluate(async () => {
    const { toast } = window.app.extensionManager;
    (toast.dismissAll ?? toast.removeAll).call(toast);
    window.app.extensionManager.sidebarTab.activeSidebarTabId = null;
    const empty = { version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0 };
    await window.app.loadGraphData(empty, true, true, null);
    const { workflow } = window.app.extensionManager;
    for (const other of [...workflow.openWorkflows]) if (other !== workflow.activeWorkflow) await workflow.closeWorkflow(other);
    window.seenToasts.length = 0;
  });
  complaints.length = 0;
}

export async function heard(page) {
  return { complaints: [...complaints], toasts: await page.evaluate(() => window.seenToasts) };
}

export async function screenshot(page, { file }) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  await page.screenshot({ path: file });
}

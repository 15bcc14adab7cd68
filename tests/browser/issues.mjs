// What the frontend finds wrong with the open graph.
import { settle } from "./session.mjs";

// Each group of the panel behind the warning, {"missing-model": [line, ...], ...}; empty where no warning is shown.
// With `expected`, waits for a warning, which can take a while after a graph was opened; with `containing`, for words that
// the panel adds once the host has sent its log.
export async function listIssues(page, { expected = false, containing = "" }) {
  const overlay = page.getByTestId("error-overlay");
  if (expected) await overlay.waitFor().catch(() => {});
  if (!(await overlay.isVisible())) return {};
  await page.getByTestId("error-overlay-see-errors").click();
  const groups = page.locator("[data-testid^=error-group-]:not([data-testid=error-group-display-message])");
  await groups.filter({ hasText: containing }).first().waitFor();
  const found = await groups.evaluateAll((all) => all.map((group) => [
    group.dataset.testid.replace("error-group-", ""),
    group.innerText.split("\n").map((line) => line.trim()).filter(Boolean),
  ]));
  return Object.fromEntries(found);
}

export async function refreshModels(page) {
  await page.getByTestId("missing-model-header-refresh").click();
  await settle(page);
}

// Loads a graph as if dropped onto the page.
export async function load(page, { graph }) {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, null), graph);
  await settle(page);
}

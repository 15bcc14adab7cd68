// ComfyUI's app mode: a form instead of the graph.
import { settle } from "./session.mjs";

const field = (page, label) => page.getByTestId("app-mode-widget-item")
  .filter({ has: page.getByTestId("builder-widget-label").getByText(label, { exact: true }) });

// Presses the button beside "Graph"; returns what the form asks for.
export async function enterApp(page) {
  await page.getByRole("button", { name: "Enter app mode" }).first().click();
  await page.getByTestId("linear-run-button").first().waitFor();
  await skipTour(page);
  await settle(page);
  return page.getByTestId("builder-widget-label").allInnerTexts();
}

// Newer frontends offer a tour of apps, once.
async function skipTour(page) {
  const seen = await page.evaluate(() => window.app.extensionManager.setting.get("Comfy.OnboardingCoachmarks.Seen"));
  if (seen === undefined || seen.length) return;
  await page.getByRole("button", { name: "Skip", exact: true }).click();
}

export async function leaveApp(page) {
  if (!(await page.getByTestId("linear-run-button").first().isVisible())) return;
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.ToggleLinear"));
  await settle(page);
}

// Presses the folder beside a photograph's name, and picks a file of one's own in the dialog that opens.
export async function pickPhotograph(page, { label, file }) {
  const button = field(page, label).locator("label").filter({ has: page.locator("input[type=file]") });
  const [dialog] = await Promise.all([page.waitForEvent("filechooser"), button.click()]);
  await dialog.setFiles(file);
  await settle(page);
}

export async function writeInto(page, { label, text }) {
  await field(page, label).locator("textarea").fill(text);
}

// Presses the form's Run and waits for pictures beside it, `least` of them; returns their sizes, the large one's first.
export async function runApp(page, { least }) {
  const run = page.getByTestId("linear-run-button").first(), inner = run.getByRole("button", { name: "Run", exact: true });
  await ((await inner.count()) ? inner : run).click();
  const shown = await page.waitForFunction((least) => {
    const warning = document.querySelector("[data-testid=error-overlay]");
    if (warning) return { failed: warning.innerText };
    const panel = document.querySelector("[data-testid=linear-center-panel]");
    const pictures = [...panel.querySelectorAll("img")].filter((one) => one.naturalWidth && /\/view/.test(one.src));
    const sources = new Set(pictures.map((one) => one.src));
    if (sources.size < least) return false;
    return { sizes: pictures.map((one) => [one.naturalWidth, one.naturalHeight]), large: pictures[0].src };
  }, least, { timeout: 180000, polling: 200 });
  await settle(page);
  const outcome = await shown.jsonValue();
  if (outcome.failed) throw new Error(outcome.failed);
  return outcome;
}

// How many pictures lie under the slider of the node with a title, in Nodes 2.0.
export async function underSlider(page, { title }) {
  const id = await page.evaluate((title) => window.app.graph.nodes.find((one) => one.title === title).id, title);
  const pictures = page.locator(`[data-node-id="${id}"] img`);
  await pictures.nth(1).waitFor({ state: "attached" });
  return pictures.evaluateAll((all) => new Set(all.filter((one) => one.naturalWidth).map((one) => one.src)).size);
}

// All that can be read on the page.
export async function readPage(page) {
  return page.evaluate(() => document.body.innerText);
}

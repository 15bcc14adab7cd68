// ComfyUI's app mode: a form instead of the graph.
import { settle } from "./session.mjs";

const field = (page, label) => page.getByTestId("app-mode-widget-item")
  .filter({ has: page.getByTestId("builder-widget-label").getByText(label, { exact: true }) });

// Presses the button beside "Graph"; returns what the form asks for.
export async function enterApp(page) {
  await page.getByRole("button", { name: "Enter app mode" }).first().click();
  await page.getByTestId("linear-run-button").first().waitFor();
  await settle(page);
  return page.getByTestId("builder-widget-label").allInnerTexts();
}

export async function leaveApp(page) {
  if (!(await page.getByTestId("linear-run-button").first().isVisible())) return;
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.ToggleLinear"));
  await settle(page);
}

// Presses the picture under a label, and picks a file of one's own in the dialog that opens.
export async function pickPhotograph(page, { label, file }) {
  const dialog = page.waitForEvent("filechooser");
  await field(page, label).getByRole("button", { name: "Click to browse or drag an image" }).click();
  await (await dialog).setFiles(file);
  await settle(page);
}

export async function writeInto(page, { label, text }) {
  await field(page, label).locator("textarea").fill(text);
}

// Presses the form's Run and waits for pictures below it, `least` of them; returns their sizes and whether they lie
// under one slider.
export async function runApp(page, { least }) {
  await page.getByTestId("linear-run-button").first().click();
  const shown = await page.waitForFunction((least) => {
    const warning = document.querySelector("[data-testid=error-overlay]");
    if (warning) return { failed: warning.innerText };
    const panel = document.querySelector("[data-testid=linear-center-panel]");
    const pictures = [...panel.querySelectorAll("img")].filter((one) => one.naturalWidth && /\/view/.test(one.src));
    const sources = new Set(pictures.map((one) => one.src));
    if (sources.size < least) return false;
    return { sizes: pictures.map((one) => [one.naturalWidth, one.naturalHeight]), slider: Boolean(panel.querySelector("[data-testid=image-compare-viewport]")) };
  }, least, { timeout: 180000, polling: 200 });
  await settle(page);
  const outcome = await shown.jsonValue();
  if (outcome.failed) throw new Error(outcome.failed);
  return outcome;
}

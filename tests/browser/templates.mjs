// The template browser.
import { settle } from "./session.mjs";

async function openBrowser(page, folder) {
  await page.getByTestId("side-toolbar").getByRole("button", { name: /^Templates/ }).click();
  const content = page.getByTestId("template-workflows-content");
  await content.waitFor();
  const dialog = page.getByRole("dialog").filter({ has: content });
  await dialog.getByText(folder, { exact: true }).first().click();
  return dialog;
}

const cards = (dialog) => dialog.locator("[data-testid^=template-workflow-]");

// What the pack's shelf shows: each card's name and its thumbnail's width in pixels, 0 where it did not load.
export async function listTemplates(page, { folder, file }) {
  const dialog = await openBrowser(page, folder);
  await cards(dialog).first().waitFor();
  await settle(page);
  for (const card of await cards(dialog).all()) {
    await card.scrollIntoViewIfNeeded(); // pictures out of sight are not fetched
    await card.evaluate(async (card) => {
      for (let tries = 0; tries < 50 && !(card.querySelector("img")?.naturalWidth > 0); tries++) await new Promise((next) => setTimeout(next, 100));
    });
  }
  const shown = await cards(dialog).evaluateAll((all) => all.map((card) => ({
    name: card.dataset.testid.replace("template-workflow-", ""),
    thumbnail: card.querySelector("img")?.naturalWidth ?? 0,
  })));
  if (file) await page.screenshot({ path: file });
  await page.keyboard.press("Escape");
  return shown;
}

export async function openTemplate(page, { folder, name }) {
  const dialog = await openBrowser(page, folder);
  await page.getByTestId(`template-workflow-${name}`).click();
  await dialog.waitFor({ state: "hidden" });
  await page.waitForFunction((name) => window.app.extensionManager.workflow.activeWorkflow?.filename === name, name);
  await settle(page);
}

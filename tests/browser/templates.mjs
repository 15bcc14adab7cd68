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

// The width in pixels of a card's thumbnail, 0 where it does not load: pictures out of sight are not fetched.
async function thumbnailWidth(page, card) {
  await card.scrollIntoViewIfNeeded();
  const picture = await card.locator("img").first().elementHandle();
  const width = () => picture.evaluate((img) => img.naturalWidth);
  for (let tries = 0; tries < 100 && !(await width()); tries++) await page.waitForTimeout(100);
  return width();
}

// The shelf loads more cards as it is scrolled to its end; whether there are more than those known.
async function moreCards(page, dialog, known) {
  await cards(dialog).last().hover();
  await page.mouse.wheel(0, 5000);
  for (let tries = 0; tries < 20 && (await cards(dialog).count()) <= known; tries++) await page.waitForTimeout(100);
  return (await cards(dialog).count()) > known;
}

// What the pack's shelf shows: each card's name and the width of its thumbnail.
export async function listTemplates(page, { folder, file }) {
  const dialog = await openBrowser(page, folder);
  await cards(dialog).first().waitFor();
  await settle(page);
  const shown = [];
  do {
    for (const card of (await cards(dialog).all()).slice(shown.length)) {
      const name = (await card.getAttribute("data-testid")).replace("template-workflow-", "");
      shown.push({ name, thumbnail: await thumbnailWidth(page, card) });
    }
  } while (await moreCards(page, dialog, shown.length));
  if (file) {
    await cards(dialog).first().scrollIntoViewIfNeeded();
    await settle(page);
    await page.screenshot({ path: file });
  }
  await page.keyboard.press("Escape");
  return shown;
}

// Loading moves the card under the pointer: as a person does, look and click again where nothing opened.
async function clickCard(page, dialog, card) {
  for (const last of [false, false, true]) {
    await card.scrollIntoViewIfNeeded();
    await settle(page);
    await card.click();
    try {
      return await dialog.waitFor({ state: "hidden", timeout: last ? 30000 : 8000 });
    } catch (error) {
      if (last) throw error;
    }
  }
}

export async function openTemplate(page, { folder, name }) {
  const dialog = await openBrowser(page, folder);
  const card = page.getByTestId(`template-workflow-${name}`);
  await cards(dialog).first().waitFor();
  while (!(await card.count()) && (await moreCards(page, dialog, await cards(dialog).count())));
  await clickCard(page, dialog, card);
  await page.waitForFunction((name) => window.app.extensionManager.workflow.activeWorkflow?.filename === name, name);
  await settle(page);
}

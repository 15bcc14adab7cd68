// The help page beside a node.
import { placeNode } from "./canvas.mjs";
import { settle } from "./session.mjs";

// Opens the info panel of a fresh node; returns its text, its pictures' widths and what sticks out of the panel. Code
// blocks may: they scroll.
export async function openHelp(page, { type }) {
  const id = await placeNode(page, { type, x: 700, y: 300 });
  await page.evaluate((id) => window.app.canvas.selectNode(window.app.graph.getNodeById(id)), id);
  await page.getByTestId("info-button").first().click();
  const content = page.locator(".node-help-content").first();
  await content.locator("h1").first().waitFor();
  await settle(page);
  return content.evaluate((panel) => ({
    text: panel.innerText,
    headings: [...panel.querySelectorAll("h1, h2")].map((one) => one.innerText),
    pictures: [...panel.querySelectorAll("img")].map((one) => one.naturalWidth),
    overflow: [...panel.querySelectorAll("h1, h2, table, p, li, img, code")]
      .filter((one) => !one.closest("pre") && [...one.getClientRects()].some((box) => box.right > panel.getBoundingClientRect().right + 1))
      .map((one) => one.innerText.slice(0, 60)),
  }));
}

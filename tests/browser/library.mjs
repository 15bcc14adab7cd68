// Ways to a node: the library in the sidebar, and the search that a double click on the canvas opens.

const CANVAS = "#graph-canvas";
const types = (page) => page.evaluate(() => window.app.graph.nodes.map((node) => node.type));

const listed = (page, title) => page.getByRole("treeitem").filter({ has: page.getByText(title, { exact: true }) });

async function openLibrary(page) {
  const search = page.getByPlaceholder(/^Search( Nodes)?\.\.\.$/);
  if (!(await search.isVisible())) await page.getByTestId("side-toolbar").getByText("Nodes", { exact: true }).click();
  await search.waitFor();
  return search;
}

// Types a query into the library; clears the last one's answers first, which would lie where the new ones come.
async function look(page, title, query) {
  const search = await openLibrary(page);
  await search.fill("");
  await listed(page, title).waitFor({ state: "hidden" });
  await search.fill(query);
}

// The words among `queries` under which the library does not list the node called `title`.
export async function notFoundInLibrary(page, { title, queries }) {
  const missed = [];
  for (const query of queries) {
    await look(page, title, query);
    await listed(page, title).waitFor({ timeout: 5000 }).catch(() => missed.push(query));
  }
  return missed;
}

// Does what a person does whose gesture was lost on a busy machine: the same again.
async function untilItHappens(page, gesture, happened) {
  for (let tries = 0; tries < 4; tries++) {
    await gesture();
    if (await happened()) return;
  }
}

const appears = (locator) => locator.waitFor({ timeout: 3000 }).then(() => true, () => false);
const nodeAppears = (page) => page.waitForFunction(() => window.app.graph.nodes.length > 0, null, { timeout: 3000 })
  .then(() => true, () => false);

// Drags the node called `title` from the library's answer to `query` onto the empty canvas; returns the graph's node
// types.
export async function dragFromLibrary(page, { title, query, x, y }) {
  await page.evaluate(() => window.app.graph.clear());
  await look(page, title, query);
  const item = listed(page, title);
  await untilItHappens(page, async () => {
    await item.evaluate((row) => row.scrollIntoView({ block: "center" }));
    await page.waitForTimeout(200); // the list draws its rows anew after scrolling
    await item.dragTo(page.locator(CANVAS), { targetPosition: { x, y } });
  }, () => nodeAppears(page));
  return types(page);
}

// A node that was chosen in the search follows the mouse until a click.
async function putDown(page, position) {
  await page.waitForFunction(() => window.app.graph.nodes.length > 0);
  const follows = await page.evaluate(() => window.app.graph.nodes.some((node) => node.flags.ghost));
  if (follows) await page.locator(CANVAS).click({ position });
}

// Double-clicks the canvas, types `query`, and takes the answer called `title`; returns the graph's node types.
export async function addBySearch(page, { title, query, x, y }) {
  const search = page.getByPlaceholder("Add a node...");
  await untilItHappens(page, () => page.locator(CANVAS).dblclick({ position: { x, y } }), () => appears(search));
  await search.fill(query);
  await page.getByTestId("result-item").filter({ hasText: title }).first().click();
  await putDown(page, { x, y });
  return types(page);
}

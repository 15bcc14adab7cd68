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

// The words among `queries` under which the library does not list the node called `title`.
export async function notFoundInLibrary(page, { title, queries }) {
  const search = await openLibrary(page);
  const item = listed(page, title);
  const missed = [];
  for (const query of queries) {
    await search.fill("");
    await item.waitFor({ state: "hidden" });
    await search.fill(query);
    await item.waitFor({ timeout: 5000 }).catch(() => missed.push(query));
  }
  return missed;
}

// Drags the node called `title` from the library's answer to `query` onto the canvas; returns the graph's node types.
export async function dragFromLibrary(page, { title, query, x, y }) {
  await (await openLibrary(page)).fill(query);
  const item = listed(page, title);
  await item.dragTo(page.locator(CANVAS), { targetPosition: { x, y } });
  return types(page);
}

// Double-clicks the canvas, types `query`, and takes the answer called `title`; returns the graph's node types.
export async function addBySearch(page, { title, query, x, y }) {
  await page.locator(CANVAS).dblclick({ position: { x, y } });
  await page.getByPlaceholder("Add a node...").fill(query);
  await page.getByTestId("result-item").filter({ hasText: title }).first().click();
  return types(page);
}

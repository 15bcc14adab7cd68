// The texts under nodes.
import { settle } from "./session.mjs";

// What stands under each node of the graph, by node type: its text, its kind, whether it is drawn and whole.
export async function said(page) {
  await settle(page);
  return page.evaluate(() => Object.fromEntries(window.app.graph.nodes.flatMap((node) => {
    const element = node.widgets?.find((widget) => widget.name === "klein9b_said")?.element;
    if (!element) return [];
    const { value: text, dataset: { kind }, scrollHeight, clientHeight, clientWidth } = element;
    const drawn = element.checkVisibility({ visibilityProperty: true }) && clientWidth > 100;
    return [[node.subgraph ? "subgraph" : node.type, { text, kind, drawn, whole: scrollHeight <= clientHeight + 1 }]];
  })));
}

// Presses Run and waits until the host has nothing left to do.
export async function runToTheEnd(page) {
  await page.evaluate(() => {
    window.ended = null;
    const events = ["execution_success", "execution_error", "execution_interrupted"];
    for (const event of events) window.app.api.addEventListener(event, () => { window.ended = event; }, { once: true });
  });
  await page.getByTestId("queue-button").click();
  await page.waitForFunction(() => window.ended, null, { timeout: 120000 });
  await settle(page);
  return page.evaluate(() => window.ended);
}

// Brings the node of a type to the left upper corner, at the zoom of a person who reads.
export async function lookAt(page, { type }) {
  await page.evaluate((type) => {
    const { app } = window;
    const [node] = app.graph.nodes.filter((one) => one.type === type);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [200 - node.pos[0], 160 - node.pos[1]];
    app.canvas.setDirty(true, true);
  }, type);
  await settle(page);
}

// Presses Run where the host refuses the graph, and waits until the frontend says so.
export async function runRefused(page) {
  await page.getByTestId("queue-button").click();
  await page.getByTestId("error-overlay").waitFor();
  await settle(page);
}

// Reads the text under the node of a type with the mouse: what a triple click on it selects.
export async function selectUnder(page, { type }) {
  const box = await page.evaluate((type) => {
    const [node] = window.app.graph.nodes.filter((one) => one.type === type);
    const { x, y } = node.widgets.find((widget) => widget.name === "klein9b_said").element.getBoundingClientRect();
    return { x, y };
  }, type);
  await page.mouse.click(box.x + 40, box.y + 14, { clickCount: 3 });
  return page.evaluate(() => {
    const { value, selectionStart, selectionEnd } = document.activeElement;
    return value?.slice(selectionStart, selectionEnd) ?? "";
  });
}

export async function newTab(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.NewBlankWorkflow"));
  await settle(page);
}

// Opens the tab to the left of the open one.
export async function openTabBefore(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Workspace.PreviousOpenedWorkflow"));
  await settle(page);
}

// Puts every node of the graph into one subgraph.
export async function hold(page) {
  await page.evaluate(() => {
    const { graph } = window.app;
    graph.convertToSubgraph(new Set(graph.nodes));
  });
  await settle(page);
}

// What stands under the one node inside the graph's one subgraph.
export async function saidInside(page) {
  return page.evaluate(() => {
    const [inner] = window.app.graph.nodes[0].subgraph.nodes;
    return inner.widgets.find((widget) => widget.name === "klein9b_said")?.element.value ?? "";
  });
}

export async function setInside(page, { widget, value }) {
  await page.evaluate(({ widget, value }) => {
    const [inner] = window.app.graph.nodes[0].subgraph.nodes;
    inner.widgets.find((one) => one.name === widget).value = value;
  }, { widget, value });
}

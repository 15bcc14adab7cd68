// The graph on the canvas.
import { settle } from "./session.mjs";

export async function placeNode(page, { type, x, y }) {
  return page.evaluate(({ type, x, y }) => {
    const { app, LiteGraph } = window;
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [x, y];
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    return node.id;
  }, { type, x, y });
}

export async function nodes(page) {
  return page.evaluate(() => window.app.graph.nodes.map((node) => ({
    id: node.id,
    type: node.type,
    title: node.title,
    inputs: (node.inputs ?? []).map((input) => input.name),
    linked: (node.inputs ?? []).filter((input) => input.link != null).map((input) => input.name),
    outputs: (node.outputs ?? []).map((output) => output.localized_name ?? output.name),
    labels: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.label])),
    widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value])),
    unknown: node.has_errors === true || !window.LiteGraph.registered_node_types[node.type],
  })));
}

export async function apiFormat(page) {
  return (await page.evaluate(() => window.app.graphToPrompt())).output;
}

export async function fit(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.evaluate(still);
}

// Runs in the page: the view glides to where it goes, a frame at a time, and a busy machine draws few of them.
function still() {
  const { ds } = window.app.canvas;
  return new Promise((done) => {
    let view = "", since = 0, frames = 0;
    const look = (now) => {
      const seen = [ds.scale, ...ds.offset, window.innerWidth].join();
      if (seen !== view) [view, since, frames] = [seen, now, 0];
      if (++frames > 5 && now - since > 400) done();
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}

// Where a socket is on the screen: its dot in Nodes 2.0, else where the canvas paints it.
async function socketPosition(page, { id, output, input }) {
  const slot = await page.evaluate(([id, output, input]) => {
    const node = window.app.graph.getNodeById(id);
    const slots = output === undefined ? node.inputs : node.outputs;
    const index = slots.findIndex((one) => one.name === (output ?? input));
    if (index < 0) throw new Error(`node ${id} has no socket ${output ?? input}, only ${slots.map((one) => one.name)}`);
    const { canvas, ds } = window.app.canvas;
    const [x, y] = output === undefined ? node.getInputPos(index) : node.getOutputPos(index);
    const { left, top } = canvas.getBoundingClientRect();
    const key = `${id}-${output === undefined ? "in" : "out"}-${index}`;
    return { key, x: (x + ds.offset[0]) * ds.scale + left, y: (y + ds.offset[1]) * ds.scale + top };
  }, [id, output, input]);
  const dot = page.locator(`[data-slot-key="${slot.key}"]`).first();
  if (!(await dot.isVisible())) return slot;
  const box = await dot.boundingBox();
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
}

// Drags a link from an output to an input with the mouse.
export async function dragLink(page, { from, to }) {
  const start = await socketPosition(page, from), end = await socketPosition(page, to);
  await page.mouse.move(start.x, start.y);
  await page.mouse.down();
  await page.mouse.move((start.x + end.x) / 2, (start.y + end.y) / 2, { steps: 3 });
  await page.mouse.move(end.x, end.y, { steps: 3 });
  await page.mouse.up();
  await page.waitForTimeout(200);
}

// Gives a widget of the node with a title a value, as its own menu would.
export async function choose(page, { title, widget, value }) {
  await page.evaluate(({ title, widget, value }) => {
    const { app } = window;
    const [node] = app.graph.nodes.filter((one) => one.title === title);
    const chosen = node.widgets.find((one) => one.name === widget);
    chosen.value = value;
    chosen.callback?.(value, app.canvas, node);
  }, { title, widget, value });
  await settle(page);
}

// Presses a node's upload button and picks a file of one's own in the dialog that opens.
export async function upload(page, { title, file }) {
  const dialog = page.waitForEvent("filechooser");
  await page.evaluate((title) => {
    const [node] = window.app.graph.nodes.filter((one) => one.title === title);
    node.widgets.find((one) => one.name === "upload").callback();
  }, title);
  await (await dialog).setFiles(file);
  await settle(page);
}

// What the first note on the canvas shows, as a person reads it.
export async function readNote(page) {
  const note = page.locator(".comfy-markdown:visible").first();
  await note.waitFor();
  return note.innerText();
}

export async function press(page, { button }) {
  await page.getByRole("button", { name: button, exact: true }).first().click();
}

// Waits until the node with a title says something with `part` in it; returns the whole text.
export async function waitForText(page, { title, part }) {
  const said = await page.waitForFunction(({ title, part }) => {
    const [node] = window.app.graph.nodes.filter((one) => one.title === title);
    const text = node.widgets?.find((widget) => widget.name === "klein9b_said")?.value ?? "";
    return text.includes(part) && text;
  }, { title, part }, { polling: 100 });
  return said.jsonValue();
}

// Presses Run and waits for a picture on the node with a title. Returns the picture's size in pixels and all that
// each node said meanwhile, by type.
export async function run(page, { title }) {
  await page.evaluate(() => { window.said = {}; });
  await page.getByTestId("queue-button").click();
  const finished = await page.waitForFunction((title) => {
    const { nodes } = window.app.graph;
    for (const node of nodes) {
      const text = node.widgets?.find((widget) => widget.name === "klein9b_said")?.value;
      const said = (window.said[node.type] ??= []);
      if (text && said.at(-1) !== text) said.push(text);
    }
    const warning = document.querySelector("[data-testid=error-overlay]");
    if (warning) return { failed: warning.innerText };
    const [node] = nodes.filter((one) => one.title === title);
    const shown = node.imgs?.[0] ?? document.querySelector(`[data-node-id="${node.id}"] img`);
    return shown?.naturalWidth > 0 && { picture: [shown.naturalWidth, shown.naturalHeight], said: window.said };
  }, title, { timeout: 120000, polling: 100 });
  await settle(page);
  const outcome = await finished.jsonValue();
  if (outcome.failed) throw new Error(outcome.failed);
  return outcome;
}

// Rests the mouse on an input of the classic canvas and returns the tooltip that appears.
export async function tooltip(page, { id, input }) {
  const dot = await socketPosition(page, { id, input });
  await page.mouse.move(dot.x + 200, dot.y + 200);
  await page.mouse.move(dot.x + 4, dot.y, { steps: 3 });
  const shown = page.locator(".node-tooltip");
  await shown.waitFor();
  return shown.innerText();
}

// Every text that is drawn for the node with an id: on the classic canvas as it is painted, else in its element.
export async function writtenOn(page, { id }) {
  await settle(page);
  const element = page.locator(`[data-node-id="${id}"]`).first();
  if (await element.isVisible()) return (await element.innerText()).split("\n");
  return page.evaluate(() => new Promise((done) => {
    const { prototype } = CanvasRenderingContext2D;
    const { fillText } = prototype;
    const texts = [];
    prototype.fillText = function (text, ...rest) {
      texts.push(text);
      return fillText.call(this, text, ...rest);
    };
    window.app.canvas.setDirty(true, true);
    setTimeout(() => {
      prototype.fillText = fillText;
      done(texts);
    }, 500);
  }));
}

// Shows what is folded on a node with an id: by its button in Nodes 2.0, else as "Show Advanced" of its menu does.
export async function unfold(page, { id }) {
  const button = page.locator(`[data-node-id="${id}"]`).getByText("Show advanced inputs").first();
  if (await button.isVisible()) await button.click();
  else await page.evaluate((id) => window.app.graph.getNodeById(id).toggleAdvanced(), id);
  await settle(page);
}

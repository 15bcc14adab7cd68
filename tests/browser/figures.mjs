// What a person's eye meets in an open graph, in numbers.
import { fit } from "./canvas.mjs";
import { cutTexts, linksBehindNodes } from "./geometry.mjs";
import { settle } from "./session.mjs";

const SCREENS = [[1366, 768], [1920, 1080]]; // a laptop, and a desk's

// Opens a graph as the template browser does, and measures it in the drawing that is set.
export async function graphFigures(page, { graph, files }) {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, null, { openSource: "template" }), graph);
  await settle(page);
  const before = page.viewportSize();
  const zooms = {}, covered = {};
  for (const [width, height] of SCREENS) {
    await page.setViewportSize({ width, height });
    await page.waitForTimeout(150);
    await fit(page);
    zooms[width] = await page.evaluate(() => window.app.canvas.ds.scale);
    covered[width] = await page.evaluate(coveredNodes);
    if (files?.[width]) await page.screenshot({ path: files[width] });
  }
  await page.setViewportSize(before);
  return {
    zooms, covered,
    behind: await page.evaluate(linksBehindNodes),
    cut: await page.evaluate(cutTexts),
    ...(await page.evaluate(sizes)),
  };
}

// Runs in the page: the titles of nodes under a bar of the frontend.
function coveredNodes() {
  const { app } = window, { ds, canvas } = app.canvas;
  const { left, top } = canvas.getBoundingClientRect();
  const bars = [...document.querySelectorAll("[data-testid=side-toolbar], .side-tool-bar-container, .actionbar-container, .workflow-tabs-container")]
    .map((bar) => bar.getBoundingClientRect()).filter((bar) => bar.width && bar.height);
  return app.graph.nodes.filter((node) => {
    const [x, y, width, height] = node.getBounding().map((n, i) => (i < 2 ? (n + ds.offset[i]) * ds.scale : n * ds.scale));
    return bars.some((bar) => x + left < bar.right && x + left + width > bar.left && y + top < bar.bottom && y + top + height > bar.top);
  }).map((node) => node.title);
}

// Runs in the page: how wide and tall the graph is; nodes that lie over another; and how much of each group, from its
// lowest node downwards and between columns, is empty.
function sizes() {
  const { graph } = window.app;
  const boxes = graph.nodes.map((node) => [node, ...node.getBounding()]);
  const right = (box) => box[1] + box[3], bottom = (box) => box[2] + box[4];
  const over = boxes.flatMap((one, i) => boxes.slice(i + 1)
    .filter((other) => one[1] < right(other) && other[1] < right(one) && one[2] < bottom(other) && other[2] < bottom(one))
    .map((other) => `${one[0].title} and ${other[0].title}`));
  const groups = graph.groups.map((group) => {
    const [x, y] = group.pos, [width, height] = group.size;
    const inside = boxes.filter((box) => box[1] >= x && right(box) <= x + width && box[2] >= y && bottom(box) <= y + height);
    const columns = [...new Set(inside.map((box) => box[1]))].map((left) => inside.filter((box) => box[1] === left));
    const least = Math.min(...columns.map((column) => Math.max(...column.map(bottom))));
    return { title: group.title, nodes: inside.length, empty: (y + height - least) / height };
  });
  return {
    width: Math.max(...boxes.map(right)) - Math.min(...boxes.map((box) => box[1])),
    height: Math.max(...boxes.map(bottom)) - Math.min(...boxes.map((box) => box[2])),
    over, groups,
  };
}

// Shows the note at twice its size, photographs it, and returns where each of its lines of text lies in the picture.
export async function noteLines(page, { file }) {
  const before = page.viewportSize();
  await page.setViewportSize({ width: 1400, height: 2600 });
  await page.evaluate(() => {
    const { app } = window, note = app.graph.nodes.find((node) => node.type === "MarkdownNote");
    app.canvas.ds.scale = 2;
    app.canvas.ds.offset = [80 - note.pos[0], 80 - note.pos[1]];
    app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(800);
  await page.screenshot({ path: file });
  const id = await page.evaluate(() => window.app.graph.nodes.find((node) => node.type === "MarkdownNote").id);
  const lines = await page.locator(`.comfy-markdown:visible, [data-node-id="${id}"]`).first().evaluate((note) => {
    const walker = document.createTreeWalker(note, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
      const range = document.createRange();
      range.selectNodeContents(walker.currentNode);
      for (const box of range.getClientRects()) {
        if (box.width > 8 && box.bottom < innerHeight) found.push({ text: walker.currentNode.textContent.trim(), tag: walker.currentNode.parentElement.tagName, box: [box.left, box.top, box.right, box.bottom] });
      }
    }
    return found.filter((line) => line.text);
  });
  await page.setViewportSize(before);
  return lines;
}

// Writes workflows/*.json, their API twins and the documents' pictures of them from the specs, all by the real frontend.
// Usage: node build_workflows.mjs URL OUTPUT_FOLDER PACK_FOLDER HOST_VERSION
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { linksBehindNodes } from "./geometry.mjs";
import { arrange, distantLinks, enclose, enter, fold, lead } from "./layout.mjs";
import { openFrontend } from "./page.mjs";
import { COLUMNS, WORKFLOWS } from "./workflow_specs.mjs";

const [url, output, pack, hostVersion] = process.argv.slice(2);

const BETWEEN = 60, ABOVE = 26; // pixels from column to column, and from node to title
const NOTE_COLOURS = { color: "#222b33", bgcolor: "#14181c" };

// Runs in the page: makes the nodes of a spec and their links; returns the nodes' ids.
async function build({ spec, hostVersion, noteColours }) {
  const { app, LiteGraph } = window;
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0 }, true, true, null);
  const made = {};
  for (const one of spec.nodes) {
    const node = LiteGraph.createNode(one.type);
    if (!node) throw new Error(`no node type ${one.type}`);
    app.graph.add(node);
    made[one.id] = node;
    node.setSize([(one.inside ? spec.folded : spec).columns[one.column], node.size[1]]);
    node.pos = [one.inside ? 0 : -4000, 0];
    if (one.title) node.title = one.title;
    if (one.type === "MarkdownNote") Object.assign(node, noteColours);
    const own = one.type.startsWith("Klein9B") || one.type.startsWith("Segmind");
    if (!own) node.properties.cnr_id = "comfy-core";
    if (!own) node.properties.ver = hostVersion;
    if (one.models) node.properties.models = one.models;
    for (const [name, value] of Object.entries(one.widgets ?? {})) {
      const widget = name === "" ? node.widgets[0] : node.widgets.find((w) => w.name === name);
      if (!widget) throw new Error(`${one.type} has no widget ${name}, only ${node.widgets.map((w) => w.name)}`);
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
    }
  }
  for (const one of spec.nodes) {
    for (const [input, [from, output]] of Object.entries(one.from ?? {})) {
      const source = made[from], target = made[one.id];
      const slot = source.outputs.findIndex((o) => o.name === output);
      const index = target.inputs.findIndex((i) => i.name === input);
      if (slot < 0) throw new Error(`${from} has no output ${output}, only ${source.outputs.map((o) => o.name)}`);
      if (index < 0) throw new Error(`${one.type} has no input ${input}, only ${target.inputs.map((i) => i.name)}`);
      source.connect(slot, target, index);
      await new Promise((done) => setTimeout(done, 20));
    }
  }
  for (const one of spec.nodes) {
    for (const [name, label] of Object.entries(one.app ?? {})) {
      const input = made[one.id].inputs.find((i) => i.widget?.name === name);
      if (!input) throw new Error(`${one.type} has no widget ${name} to ask for in the app`);
      input.label = made[one.id].widgets.find((w) => w.name === name).label = label;
    }
  }
  // A node that shows a picture grows when it is drawn with that.
  app.canvas.ds.scale = 0.2;
  app.canvas.ds.offset = [100, 100];
  const pictured = spec.nodes.filter((one) => one.placeholder).map((one) => made[one.id]);
  const waits = () => pictured.some((node) => !node.imgs?.[0]?.naturalWidth);
  for (let tries = 0; tries < 600 && waits(); tries++) await new Promise((done) => setTimeout(done, 50));
  if (waits()) throw new Error(`a photograph of ${spec.name} did not come`);
  app.canvas.draw(true, true);
  return Object.fromEntries(Object.entries(made).map(([id, node]) => [id, node.id]));
}

// Both drawings give a node its least size: the larger one counts, so that nothing overlaps in either.
async function tallest(page) {
  const vue = (on) => page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), on);
  await vue(true);
  await page.waitForTimeout(700);
  await vue(false);
  await page.waitForTimeout(200);
}

const place = (page, spec, ids) => page.evaluate(arrange, { spec, ids, between: BETWEEN, above: ABOVE });

async function leadAll(page, spec, ids) {
  const own = spec.nodes.map((one) => ids[one.id]);
  let taken = await page.evaluate(lead, { spec, ids, links: await page.evaluate(distantLinks, own), taken: [] });
  for (let round = 0; round < 4; round++) {
    const behind = await page.evaluate(linksBehindNodes, own);
    if (!behind.length) break;
    if (round === 3) throw new Error(`${spec.name}: ${behind.map((one) => `${one.link} behind ${one.node}`).join(", ")}`);
    const links = [...new Set(behind.map((one) => one.id))];
    taken = await page.evaluate(lead, { spec, ids, links, taken });
  }
  return taken;
}

async function layOut(page, spec, ids) {
  await tallest(page);
  await place(page, spec, ids);
  const taken = await leadAll(page, spec, ids);
  const top = Math.min(-30, ...taken.map((lane) => lane.y ?? 0)) - 52;
  await page.evaluate(enclose, { spec, ids, top });
}

// Lays out what is folded into one node, folds it, and returns the spec of what is left, with that node in it.
async function layOutInside(page, spec, ids) {
  const { node, columns } = spec.folded;
  const inside = { ...spec, columns, nodes: spec.nodes.filter((one) => one.inside) };
  await tallest(page);
  await place(page, inside, ids);
  ids[node.id] = await page.evaluate(fold, { spec, ids });
  await page.evaluate(enter, { id: ids[node.id] });
  await leadAll(page, inside, ids);
  await page.evaluate(enter, {});
  const outside = spec.nodes.filter((one) => !one.inside);
  return { ...spec, nodes: outside.flatMap((one) => (one.id === "plan" ? [node, one] : [one])) };
}

// Runs in the page: replaces what only the thumbnail shows, and returns both formats.
async function save({ spec, ids }) {
  const { app } = window;
  spec.nodes.forEach((one) => {
    const node = app.graph.getNodeById(ids[one.id]);
    for (const [name, value] of Object.entries(one.placeholder ?? {})) node.widgets.find((w) => w.name === name).value = value;
  });
  return { ui: app.graph.serialize(), api: (await app.graphToPrompt()).output };
}

// Runs in the page: fits the groups with these titles, or the whole graph, between the menus and returns where they lie.
function frame({ titles }) {
  const { app } = window;
  const groups = app.graph.groups.filter((group) => !titles || titles.includes(group.title)).map((g) => [...g.pos, ...g.size]);
  const boxes = titles ? groups : [...groups, ...app.graph.nodes.map((node) => node.getBounding())];
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  const width = Math.max(...boxes.map((b) => b[0] + b[2])) - left, height = Math.max(...boxes.map((b) => b[1] + b[3])) - top;
  const room = { x: 80, y: 110, width: innerWidth - 110, height: innerHeight - 190 };
  const scale = Math.min(room.width / width, room.height / height);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [(room.x - canvas.left) / scale - left, (room.y - canvas.top) / scale - top];
  app.canvas.setDirty(true, true);
  return { x: room.x - 10, y: room.y - 10, width: width * scale + 20, height: height * scale + 20 };
}

async function photograph(page, file, what) {
  const clip = await page.evaluate(frame, what);
  await page.waitForTimeout(2000); // the canvas draws its pictures and notes a little later
  await page.screenshot({ path: file, type: "jpeg", quality: 85, clip });
}

const KEPT = ["id", "type", "pos", "size", "flags", "order", "mode", "inputs", "outputs", "title", "properties", "widgets_values", "color", "bgcolor"];

const VIEW = { scale: 0.6, offset: [150, 220] }; // clear of the bars at the top and the side

// The same workflow keeps its id over rebuilds.
function idOf(name) {
  const hash = crypto.createHash("sha256").update(name).digest("hex");
  return [hash.slice(0, 8), hash.slice(8, 12), `4${hash.slice(13, 16)}`, `8${hash.slice(17, 20)}`, hash.slice(20, 32)].join("-");
}

// What ComfyUI's app mode shows of a graph: the widgets that a person sets, and the pictures.
function appOf(spec, ids) {
  return {
    inputs: spec.nodes.flatMap((one) => Object.keys(one.app ?? {}).map((name) => [ids[one.id], name])),
    outputs: spec.nodes.filter((one) => one.shows).map((one) => ids[one.id]),
  };
}

function tidyNodes(nodes) {
  for (const node of nodes) {
    for (const key of Object.keys(node)) if (!KEPT.includes(key)) delete node[key];
    node.pos = Array.from(node.pos, Math.round);
    node.size = Array.from(node.size, Math.round);
  }
}

// Ids that the frontend draws by lot, replaced by some that last.
function settled(ui, name) {
  let text = JSON.stringify(ui);
  const subgraphs = ui.definitions?.subgraphs ?? [];
  const drawn = subgraphs.flatMap((one) => [one.id, ...one.inputs.map((slot) => slot.id), ...one.outputs.map((slot) => slot.id)]);
  drawn.forEach((id, i) => { text = text.replaceAll(id, idOf(`${name} ${i}`)); });
  return JSON.parse(text);
}

function tidy(ui, name, linearData) {
  tidyNodes(ui.nodes);
  for (const one of ui.definitions?.subgraphs ?? []) tidyNodes(one.nodes);
  const { reroutes, linkExtensions, frontendVersion } = ui.extra ?? {};
  return settled({ ...ui, id: idOf(name), extra: { ds: VIEW, reroutes, linkExtensions, linearMode: false, linearData, frontendVersion } }, name);
}

// The one node and what is in it, as the host offers it in the search.
function blueprintOf(ui, { node, search_aliases, category }, ids, title) {
  const one = structuredClone(ui.nodes.find((other) => String(other.id) === String(ids[node.id])));
  Object.assign(one, { pos: [0, 0], order: 0 });
  ui.definitions.subgraphs[0].category = category;
  for (const input of one.inputs) input.link = null;
  for (const output of one.outputs) output.links = [];
  const { frontendVersion } = ui.extra;
  const whole = { id: "", revision: 0, last_node_id: one.id, last_link_id: 0, nodes: [one], links: [], groups: [], definitions: ui.definitions, config: {}, extra: { BlueprintSearchAliases: search_aliases, frontendVersion }, version: 0.4 };
  return settled({ ...whole, id: idOf(title) }, title);
}

const write = (file, value) => fs.writeFileSync(file, JSON.stringify(value, null, 2) + "\n");

const { browser, page } = await openFrontend(url);
page.on("pageerror", (error) => { throw error; });
for (const folder of ["api", "../subgraphs"]) fs.mkdirSync(path.join(output, folder), { recursive: true });
for (const one of WORKFLOWS.filter((spec) => spec.name.includes(process.env.ONLY ?? ""))) {
  let spec = { columns: COLUMNS, ...one };
  const ids = await page.evaluate(build, { spec, hostVersion, noteColours: NOTE_COLOURS });
  if (spec.folded) spec = await layOutInside(page, spec, ids);
  await layOut(page, spec, ids);
  for (const [file, titles] of Object.entries(spec.pictures ?? {})) await photograph(page, path.join(pack, file), { titles });
  const { ui, api } = await page.evaluate(save, { spec, ids });
  const tidied = tidy(ui, spec.name, appOf(spec, ids));
  write(path.join(output, `${spec.name}.json`), tidied);
  write(path.join(output, "api", `${spec.name}.json`), api);
  if (spec.folded?.blueprint) write(path.join(output, "..", "subgraphs", `${spec.folded.title}.json`), blueprintOf(tidied, spec.folded, ids, spec.folded.title));
}
await browser.close();

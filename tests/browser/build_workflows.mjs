// Writes workflows/*.json, their API twins and the documents' pictures of them from the specs, all by the real frontend.
// Usage: node build_workflows.mjs URL OUTPUT_FOLDER PACK_FOLDER VERSION HOST_VERSION
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { openFrontend } from "./page.mjs";
import { WORKFLOWS } from "./workflow_specs.mjs";

const [url, output, pack, version, hostVersion] = process.argv.slice(2);

// Runs in the page: builds one graph from its spec and returns both formats.
async function build({ spec, version, hostVersion }) {
  const { app, LiteGraph } = window;
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0 }, true, true, null);
  const made = {};
  for (const one of spec.nodes) {
    const node = LiteGraph.createNode(one.type);
    if (!node) throw new Error(`no node type ${one.type}`);
    app.graph.add(node);
    made[one.id] = node;
    node.pos = [...one.pos];
    if (one.title) node.title = one.title;
    const own = one.type.startsWith("Klein9B") || one.type.startsWith("Segmind");
    node.properties.cnr_id = own ? "klein9b" : "comfy-core";
    node.properties.ver = own ? version : hostVersion;
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
  // A node that shows a picture grows when it is drawn with that.
  app.canvas.ds.scale = 0.2;
  app.canvas.ds.offset = [100, 100];
  const pictured = spec.nodes.filter((one) => one.placeholder).map((one) => made[one.id]);
  const waits = () => pictured.some((node) => !node.imgs?.[0]?.naturalWidth);
  for (let tries = 0; tries < 600 && waits(); tries++) await new Promise((done) => setTimeout(done, 50));
  if (waits()) throw new Error(`a photograph of ${spec.name} did not come`);
  app.canvas.draw(true, true);
  for (const one of spec.nodes) {
    const least = made[one.id].computeSize();
    made[one.id].setSize([Math.max(one.size[0], least[0]), Math.max(one.size[1], least[1])]);
  }
  for (const title of new Set(spec.nodes.map((one) => one.group).filter(Boolean))) {
    const inside = spec.nodes.filter((one) => one.group === title).map((one) => made[one.id]);
    const left = Math.min(...inside.map((n) => n.pos[0])) - 20, top = Math.min(...inside.map((n) => n.pos[1])) - 85;
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [left, top];
    group.size = [Math.max(...inside.map((n) => n.pos[0] + n.size[0])) + 20 - left, Math.max(...inside.map((n) => n.pos[1] + n.size[1])) + 20 - top];
    app.graph.add(group);
  }
}

// Runs in the page: replaces what only the thumbnail shows, and returns both formats.
async function save({ spec }) {
  const { app } = window;
  const nodes = app.graph.nodes;
  spec.nodes.forEach((one, i) => {
    for (const [name, value] of Object.entries(one.placeholder ?? {})) nodes[i].widgets.find((w) => w.name === name).value = value;
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

const KEPT = ["id", "type", "pos", "size", "flags", "order", "mode", "inputs", "outputs", "title", "properties", "widgets_values"];

// The same workflow keeps its id over rebuilds.
function idOf(name) {
  const hash = crypto.createHash("sha256").update(name).digest("hex");
  return [hash.slice(0, 8), hash.slice(8, 12), `4${hash.slice(13, 16)}`, `8${hash.slice(17, 20)}`, hash.slice(20, 32)].join("-");
}

function tidy(ui, name) {
  for (const node of ui.nodes) {
    for (const key of Object.keys(node)) if (!KEPT.includes(key)) delete node[key];
    node.pos = node.pos.map(Math.round);
    node.size = Array.from(node.size, Math.round);
  }
  return { ...ui, id: idOf(name), extra: { ds: { scale: 0.6, offset: [60, 120] }, frontendVersion: ui.extra?.frontendVersion } };
}

const { browser, page } = await openFrontend(url);
page.on("pageerror", (error) => { throw error; });
fs.mkdirSync(path.join(output, "api"), { recursive: true });
for (const spec of WORKFLOWS) {
  await page.evaluate(build, { spec, version, hostVersion });
  for (const [file, titles] of Object.entries(spec.pictures ?? {})) await photograph(page, path.join(pack, file), { titles });
  const { ui, api } = await page.evaluate(save, { spec });
  fs.writeFileSync(path.join(output, `${spec.name}.json`), JSON.stringify(tidy(ui, spec.name), null, 2) + "\n");
  fs.writeFileSync(path.join(output, "api", `${spec.name}.json`), JSON.stringify(api, null, 2) + "\n");
}
await browser.close();

// What a node says stays under it. The host's own text under a node is wiped when a run ends, a text output is drawn
// for two of the core's nodes alone, and an error's sentence stands in a side panel only.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const FOLDER = decodeURIComponent(new URL(".", import.meta.url).pathname.split("/").at(-2));
const OUTPUT = "klein9b"; // what nodes say, among their outputs
const WIDGET = "klein9b_said";
const TALLEST = 400; // px; what is longer scrolls
const WIDTHS = { SegmindJobs: 560 }; // px, for what is a list
const COLOURS = { said: "transparent", off: "#e0a030", error: "#e5484d" };

const ours = new Set(); // node types of this pack
const wrong = new Set(); // nodes under which an error stands
const waiting = new Set(); // nodes that run again: what they said last time is dim until they speak
const owners = new Map(); // the workflow that was shown when a prompt was queued; ids are each workflow's own
let running = null; // prompt

const WARNS = /^(OFF|CHECK):/;

function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

// Whether the host speaks of the workflow that is shown. It may be unknown after a reload: then it is believed.
const isShown = () => (owners.get(running) ?? shown()) === shown();

const shown = () => app.extensionManager?.workflow?.activeWorkflow;

function own(prompt) {
  owners.set(prompt, shown());
  if (owners.size > 100) owners.delete(owners.keys().next().value);
}

// The node and before it those that hold it, which are what a person sees.
function along(id) {
  const path = String(id).split(":");
  return path.map((_, i) => nodeOf(path.slice(0, i + 1).join(":"))).filter(Boolean);
}

// The name under which the frontend keeps a node's outputs, for each open workflow.
const locator = (node) => (node.graph.isRootGraph === false ? `${node.graph.id}:${node.id}` : `${node.id}`);

const kept = (node) => app.nodeOutputs?.[locator(node)]?.[OUTPUT]?.at(-1)?.at(-1) ?? "";

function keep(node, text) {
  const key = locator(node);
  app.nodeOutputs[key] = { ...app.nodeOutputs[key], [OUTPUT]: [[text]] };
}

const find = (node) => node.widgets?.find((widget) => widget.name === WIDGET);

function add(node) {
  const element = document.createElement("textarea"); // selecting, copying and scrolling work in it as anywhere
  element.readOnly = true;
  element.spellcheck = false;
  element.dataset.testid = WIDGET;
  element.style.cssText = `width: 100%; height: 100%; box-sizing: border-box; resize: none; border: 0; outline: 0;
    border-left: 4px solid; padding: 6px 8px; border-radius: 4px; font: 12px/16px sans-serif; cursor: text;
    background: var(--comfy-input-bg); color: var(--input-text)`;
  for (const event of ["pointerdown", "pointermove"]) element.addEventListener(event, (one) => one.stopPropagation());
  const options = { serialize: false, hideOnZoom: false, getValue: () => element.value, setValue: () => {} };
  options.getMinHeight = () => height(element, node.size[0]);
  const widget = node.addDOMWidget(WIDGET, "klein9b_text", element, options);
  widget.serialize = false;
  return widget;
}

const ruler = document.createElement("div");
ruler.style.cssText = `position: fixed; visibility: hidden; box-sizing: border-box; padding: 6px 12px;
  font: 12px/16px sans-serif; white-space: pre-wrap; overflow-wrap: anywhere`;

function height(element, width) {
  if (!ruler.isConnected) document.body.append(ruler);
  ruler.style.width = `${width - 40}px`; // as narrow as the frontends' margins leave it
  ruler.textContent = element.value;
  return Math.min(ruler.offsetHeight, TALLEST) + 4;
}

function write(node, text, kind) {
  const widget = find(node) ?? add(node);
  if (!node.widgets.includes(widget)) return widget.onRemove?.(); // older frontends add none to a subgraph
  const { element } = widget;
  element.value = text;
  element.dataset.kind = kind;
  element.style.borderLeftColor = COLOURS[kind];
  element.style.opacity = 1;
  fit(node);
}

function fit(node) {
  const { element } = find(node);
  element.style.minHeight = `${height(element, node.size[0])}px`; // Nodes 2.0 goes by this, the canvas by its twin
  const [width, tall] = node.computeSize();
  if (node.size[1] < tall) node.setSize([Math.max(node.size[0], width), tall]);
  app.canvas?.setDirty(true, true);
}

function wipe(node) {
  const widget = find(node);
  if (!widget) return;
  node.removeWidget(widget);
  app.canvas?.setDirty(true, true);
}

// Of all that is said inside a folded node, what must not be missed.
function warnings(graph) {
  return graph.nodes.flatMap((node) => {
    if (node.subgraph) return warnings(node.subgraph);
    const text = ours.has(node.comfyClass) ? kept(node) : "";
    return WARNS.test(text) ? [`${text.split("\n\n")[0]} (${node.title})`] : [];
  });
}

// What the node said last, or nothing; an error stays.
function show(node) {
  if (wrong.has(node)) return;
  const text = node.subgraph ? warnings(node.subgraph).join("\n") : kept(node);
  if (!text) return wipe(node);
  write(node, text, WARNS.test(text) ? "off" : "said");
}

function say({ detail }) {
  const nodes = along(detail.node);
  if (isShown()) nodes.forEach((node) => wrong.delete(node));
  take(nodes, detail.text);
}

// What the host kept of a node that need not run, too.
function hear({ detail }) {
  take(along(detail.node), detail.output?.[OUTPUT]?.at(-1)?.at(-1) ?? "");
}

function take(nodes, text) {
  const node = nodes.at(-1);
  if (!isShown()) return;
  if (!ours.has(node?.comfyClass) || wrong.has(node)) return;
  waiting.delete(node);
  keep(node, text);
  nodes.forEach(show);
}

function blame(node, sentence) {
  wrong.add(node);
  write(node, sentence, "error");
}

function forgive() {
  const forgiven = [...wrong].filter((node) => node.graph);
  wrong.clear();
  forgiven.forEach(show);
}

function begin(id) {
  const node = id != null && isShown() && nodeOf(id);
  if (!node || !ours.has(node.comfyClass) || !find(node)) return;
  waiting.add(node);
  find(node).element.style.opacity = 0.5;
}

// Whoever ran again and said nothing has nothing to say.
function end() {
  const silent = [...waiting].filter((node) => node.graph);
  waiting.clear();
  for (const node of silent) {
    keep(node, "");
    wipe(node);
  }
  for (const node of app.graph.nodes.filter(find)) {
    if (node.subgraph) show(node);
    if (find(node)) fit(node); // beside pictures that came after
  }
}

// Under the node, and under each that holds it.
function fail({ detail }) {
  end();
  if (!isShown()) return;
  const nodes = along(detail.node_id);
  const inside = (line) => line.includes(`/${FOLDER}/`) || line.includes(`\\${FOLDER}\\`);
  if (!ours.has(nodes.at(-1)?.comfyClass) && !detail.traceback?.some(inside)) return;
  for (const node of nodes) blame(node, detail.exception_message.trim());
}

// The host blames every input that a check looked at: those that its sentence does not name are innocent.
function refuse(refused) {
  for (const [id, one] of Object.entries(refused ?? {})) {
    if (!ours.has(one.class_type)) continue;
    const named = ({ type, details, extra_info }) =>
      type !== "custom_validation_failed" || sentence(details).match(new RegExp(`\\b${extra_info?.input_name}\\b`));
    if (one.errors.some(named)) one.errors = one.errors.filter(named);
    const told = one.errors.filter((error) => error.type === "custom_validation_failed");
    const node = nodeOf(id);
    if (node && told.length) blame(node, [...new Set(told.map((error) => sentence(error.details)))].join("\n"));
  }
}

// "input - sentence", as the host writes it.
const sentence = (details) => details.slice(details.indexOf(" - ") + 3);

function hearRefusals() {
  const queuePrompt = api.queuePrompt;
  api.queuePrompt = async function (...order) {
    forgive();
    try {
      const answer = await queuePrompt.apply(this, order);
      own(answer.prompt_id);
      refuse(answer.node_errors);
      return answer;
    } catch (error) {
      refuse(error.response?.node_errors);
      throw error;
    }
  };
}

app.registerExtension({
  name: "Klein9B.Said",
  beforeRegisterNodeDef(nodeType, definition) {
    if (definition.python_module === `custom_nodes.${FOLDER}`) ours.add(definition.name);
  },
  nodeCreated(node) {
    const wide = WIDTHS[node.comfyClass];
    if (wide) node.setSize([Math.max(node.size[0], wide), node.size[1]]);
  },
  setup() {
    api.addEventListener("klein9b.said", say);
    api.addEventListener("executed", hear);
    api.addEventListener("execution_start", ({ detail }) => { running = detail.prompt_id; });
    api.addEventListener("executing", ({ detail }) => begin(detail));
    api.addEventListener("execution_success", end);
    api.addEventListener("execution_interrupted", end);
    api.addEventListener("execution_error", fail);
    hearRefusals();
  },
  // Another workflow is shown: its nodes are new, what they said is not.
  onNodeOutputsUpdated() {
    for (const node of app.graph?.nodes ?? []) if (ours.has(node.comfyClass) || node.subgraph) show(node);
  },
});

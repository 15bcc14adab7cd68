// The price of a picture stands on Segmind Remote before Run. ComfyUI's frontend draws price_badge on partner nodes
// alone: those want a Comfy account before they run and count in its credits. This one is paid to Segmind, in dollars.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "SegmindRemote";
let price = "";

// The expression is a JSON text: {"type": "text", "text": ...}.
function read(definition) {
  try {
    price = JSON.parse(definition.price_badge.expr).text;
  } catch {
    price = "";
  }
}

const badge = () => new window.LGraphBadge({ text: price });

async function refresh() {
  const answer = await api.fetchApi(`/object_info/${NODE}`);
  if (answer.ok) read((await answer.json())[NODE]);
  app.canvas?.setDirty(true, true);
}

app.registerExtension({
  name: "Klein9B.Price",
  beforeRegisterNodeDef(nodeType, definition) {
    if (definition.name === NODE) read(definition);
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) node.badges.push(badge);
  },
  setup() {
    api.addEventListener("execution_success", refresh);
  },
});

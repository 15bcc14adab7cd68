// Advanced widgets are folded in the classic canvas as in Nodes 2.0, and unfolded there by "Show Advanced" in the node's
// menu. The canvas asks the widget whether it is one, and the frontend tells that to the widget's options alone.
import { app } from "../../scripts/app.js";

const NODE = "SegmindRemote";

app.registerExtension({
  name: "Klein9B.Fold",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    for (const widget of node.widgets ?? []) {
      if (widget.options?.advanced) widget.advanced = true;
    }
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});

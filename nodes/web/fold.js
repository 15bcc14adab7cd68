// Advanced widgets are folded in the classic canvas as in Nodes 2.0, and unfolded there by "Show Advanced" in the node's
// menu. The canvas asks the widget whether it is one, which the frontend tells to the widget's options alone; and it
// keeps the place of one that it does not draw, which is given up here.
import { app } from "../../scripts/app.js";

const NODE = "SegmindRemote";

app.registerExtension({
  name: "Klein9B.Fold",
  nodeCreated(node) {
    const laidOut = node.getLayoutWidgets;
    if (node.comfyClass !== NODE || !laidOut) return;
    for (const widget of node.widgets ?? []) {
      if (widget.options?.advanced) widget.advanced = true;
    }
    node.getLayoutWidgets = function () {
      return laidOut.call(this).filter((widget) => !widget.options?.advanced || this.showAdvanced);
    };
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});

// Runs in the page: where the canvas really draws things. Each function stands alone, since the page gets its text.

// The links that pass behind a node which they do not join, as {link, node}, from the curves that the canvas draws;
// with `ids`, among these nodes alone.
export function linksBehindNodes(ids) {
  const { app, LiteGraph } = window;
  const curves = new WeakMap();
  const { moveTo, lineTo, bezierCurveTo } = Path2D.prototype;
  const heard = { moveTo, lineTo, bezierCurveTo };
  for (const [name, original] of Object.entries(heard)) {
    Path2D.prototype[name] = function (...numbers) {
      curves.set(this, [...(curves.get(this) ?? []), numbers]);
      return original.apply(this, numbers);
    };
  }
  const ds = app.canvas.ds, { scale } = ds, offset = [...ds.offset];
  ds.scale = 0.2; // what is out of sight is not drawn
  ds.offset[0] = ds.offset[1] = 500;
  app.canvas.draw(true, true);
  Object.assign(Path2D.prototype, heard);
  ds.scale = scale;
  [ds.offset[0], ds.offset[1]] = offset;
  app.canvas.setDirty(true, true);

  const points = (path) => {
    const found = [];
    let at = [0, 0];
    for (const numbers of curves.get(path) ?? []) {
      const [ax, ay, bx, by, x, y] = numbers.length === 6 ? numbers : [...at, ...numbers, ...numbers];
      for (let i = 0; numbers.length > 2 && i <= 100; i++) {
        const t = i / 100, u = 1 - t;
        const mix = (p, q, r, s) => u * u * u * p + 3 * u * u * t * q + 3 * u * t * t * r + t * t * t * s;
        found.push([mix(at[0], ax, bx, x), mix(at[1], ay, by, y)]);
      }
      at = numbers.slice(-2);
    }
    return found;
  };
  const graph = app.canvas.graph;
  const among = (node) => !ids || ids.includes(node.id);
  const boxes = graph.nodes.filter(among).map((node) => {
    const [x, y, width, height] = node.getBounding();
    return { node, x, y, right: x + width, bottom: y + height };
  });
  const behind = [];
  for (const link of graph.links.values()) {
    const from = graph.getNodeById(link.origin_id), to = graph.getNodeById(link.target_id);
    if (!from || !to || !among(from) || !among(to)) continue; // the first two are a subgraph's own
    const reroutes = link.constructor.getReroutes(graph, link);
    const drawn = [link, ...reroutes].flatMap((one) => points(one.path));
    if (!drawn.length) throw new Error(`the link from ${from.title} to ${to.title} was not drawn`);
    for (const { node, x, y, right, bottom } of boxes) {
      if (node === from || node === to) continue;
      if (drawn.some(([px, py]) => px > x && px < right && py > y && py < bottom)) {
        behind.push({ id: link.id, link: `${from.title}.${from.outputs[link.origin_slot].name} -> ${to.title}.${to.inputs[link.target_slot].name}`, node: node.title });
      }
    }
  }
  return behind;
}

// Every text on the classic canvas that the frontend had to cut short.
export function cutTexts() {
  const { prototype } = CanvasRenderingContext2D;
  const { fillText } = prototype;
  const texts = new Set();
  prototype.fillText = function (text, ...rest) {
    if (/\u2026|\.\.\.$/.test(text)) texts.add(text);
    return fillText.call(this, text, ...rest);
  };
  const ds = window.app.canvas.ds, { scale } = ds, offset = [...ds.offset];
  ds.scale = 0.4;
  ds.offset[0] = ds.offset[1] = 200;
  window.app.canvas.draw(true, true);
  prototype.fillText = fillText;
  ds.scale = scale;
  [ds.offset[0], ds.offset[1]] = offset;
  window.app.canvas.draw(true, true);
  return [...texts];
}

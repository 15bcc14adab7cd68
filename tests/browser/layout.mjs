// Where the nodes of a shipped workflow stand and how its links get there. Runs in the page.

// Stacks each column from the sizes that the frontend gives the nodes, then leads every link that would pass behind a
// node it does not join through the free space between the nodes, by the frontend's own reroutes.
export function arrange({ spec, ids, between, above }) {
  const { graph } = window.app.canvas;
  const node = (one) => graph.getNodeById(ids[one.id]);
  const TITLE = 30;
  let x = 0;
  const columns = spec.columns.map((width, index) => {
    const inside = spec.nodes.filter((one) => one.column === index);
    for (const one of inside) {
      const { size } = node(one), least = node(one).computeSize();
      node(one).setSize([width, Math.max(one.height ?? 0, least[1], size[1])]);
    }
    const left = x;
    x += width + between;
    const height = inside.reduce((sum, one) => sum + node(one).size[1], 0) + (inside.length - 1) * (TITLE + above);
    return { left, right: left + width, inside, height, groups: inside.map((one) => one.group) };
  });
  for (const column of columns) {
    // Columns of one group end together, with their nodes as far apart as that takes.
    const beside = columns.filter((other) => other.groups[0] && other.groups[0] === column.groups[0]);
    const spare = Math.max(column.height, ...beside.map((other) => other.height)) - column.height;
    const step = TITLE + above + Math.min(spare / Math.max(column.inside.length - 1, 1), 220);
    let y = 0;
    for (const one of column.inside) {
      node(one).pos = [column.left, y];
      y += Math.round(node(one).size[1] + step);
    }
  }
}

// Leads the links with these ids around the nodes: past each column between through its nearest gap, up and down in the
// gutters. `taken` keeps the lanes apart.
export function lead({ spec, ids, links, taken }) {
  const { graph } = window.app.canvas;
  const TITLE = 30, CLEAR = 8, LANE = 10, FAR = 150;
  const columnOf = Object.fromEntries(spec.nodes.map((one) => [ids[one.id], one.column]));
  const column = (index) => {
    const inside = spec.nodes.filter((one) => one.column === index).map((one) => graph.getNodeById(ids[one.id]));
    const walls = inside.map((node) => [node.pos[1] - TITLE - CLEAR, node.pos[1] + node.size[1] + CLEAR]);
    return { index, walls, left: inside[0].pos[0], right: inside[0].pos[0] + inside[0].size[0] };
  };
  const aside = (gutter) => 16 + (taken.filter((lane) => lane.gutter === gutter).length % 4) * 9;
  const free = ({ index, walls }, y) => walls.every(([top, bottom]) => y < top || y > bottom)
    && taken.every((lane) => lane.column !== index || Math.abs(lane.y - y) >= LANE);
  const gap = (passed, from, to) => {
    let best;
    for (let y = -240; y < 3000; y += 2) {
      const way = Math.abs(y - from) + Math.abs(y - to);
      if (free(passed, y) && (!best || way < best.way)) best = { y, way };
    }
    taken.push({ column: passed.index, y: best.y });
    return best.y;
  };
  for (const id of links) {
    const link = graph.links.get(id);
    const from = graph.getNodeById(link.origin_id), to = graph.getNodeById(link.target_id);
    const first = columnOf[from.id], last = columnOf[to.id];
    const start = from.getOutputPos(link.origin_slot)[1], end = to.getInputPos(link.target_slot)[1];
    const points = [];
    let y = start;
    const turn = (gutter, x, next) => {
      taken.push({ gutter });
      if (Math.abs(next - y) > FAR || points.length) points.push([x, y]);
      points.push([x, next]);
      y = next;
    };
    if (first === last) {
      const own = column(first), above = to.pos[1] - TITLE - 10;
      turn(first + 1, own.right + aside(first + 1), above);
      turn(first, own.left - aside(first), end);
    }
    for (let index = first + 1; index < last; index++) {
      const passed = column(index);
      turn(index, passed.left - aside(index), gap(passed, y, end));
      points.push([passed.right + 16, y]);
    }
    if (last === first + 1 || (last > first && Math.abs(end - y) > FAR)) turn(last, to.pos[0] - aside(last), end);
    for (const point of points) graph.createReroute(point, link);
  }
  return taken;
}

// Links that go so far down beside a column that their curve would bulge behind it.
export function distantLinks(ids) {
  const { graph } = window.app.canvas;
  return [...graph.links.values()].filter((link) => {
    if (!ids.includes(link.origin_id) || !ids.includes(link.target_id)) return false;
    const from = graph.getNodeById(link.origin_id), to = graph.getNodeById(link.target_id);
    const [start, end] = [from.getOutputPos(link.origin_slot), to.getInputPos(link.target_slot)];
    return end[0] - start[0] > 0 && end[0] - start[0] < 100 && Math.abs(end[1] - start[1]) > 500;
  }).map((link) => link.id);
}

// A box around the nodes of each group, all from the same height on.
export function enclose({ spec, ids, top }) {
  const { LiteGraph } = window, { graph } = window.app.canvas;
  for (const title of new Set(spec.nodes.map((one) => one.group).filter(Boolean))) {
    const inside = spec.nodes.filter((one) => one.group === title).map((one) => graph.getNodeById(ids[one.id]));
    const left = Math.min(...inside.map((n) => n.pos[0])) - 18;
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [left, top];
    group.size = [Math.max(...inside.map((n) => n.pos[0] + n.size[0])) + 18 - left, Math.max(...inside.map((n) => n.pos[1] + n.size[1])) + 18 - top];
    graph.add(group);
  }
}

// Folds the nodes that are `inside` into one, with a socket for each of `images` and a widget for each of `asks`, and
// returns its id.
export async function fold({ spec, ids }) {
  const { app } = window;
  const { title, images, on, asks } = spec.folded;
  const within = spec.nodes.filter((one) => one.inside).map((one) => app.graph.getNodeById(ids[one.id]));
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(within));
  subgraph.name = node.title = title;
  const connect = async (name, input, owner) => {
    const made = subgraph.addInput(name, String(input.type));
    subgraph.inputNode.slots.find((slot) => slot.id === made.id).connect(input, owner);
    await new Promise((done) => setTimeout(done, 50));
    return made;
  };
  const inner = (id) => subgraph.getNodeById(ids[id]);
  for (let i = 1; i <= images; i++) {
    const name = `images.image_${i}`, input = inner(on).inputs.find((one) => one.name === name);
    const made = subgraph.inputs.find((one) => one.name === name) ?? (await connect(name, input, inner(on)));
    subgraph.renameInput(made, `image ${i}`);
  }
  for (const [id, name, label] of asks) {
    const input = inner(id).inputs.find((one) => one.widget?.name === name);
    if (!input) throw new Error(`${id} has no widget ${name}, only ${inner(id).inputs.map((one) => one.name)}`);
    subgraph.renameInput(await connect(name, input, inner(id)), label);
  }
  subgraph.description = spec.folded.description;
  subgraph.category = spec.folded.category;
  return node.id;
}

// Shows what is inside the node with this id, or the whole graph again.
export function enter({ id }) {
  const { app } = window;
  app.canvas.setGraph(id === undefined ? app.graph : app.graph.getNodeById(id).subgraph);
}

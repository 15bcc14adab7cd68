// What each shipped workflow is made of. The frontend itself turns a spec into the file people open.
const HUB = "https://huggingface.co";
const FP8_QWEN = "qwen_3_8b_fp8mixed.safetensors";
const FP4_QWEN = "qwen_3_8b_fp4mixed.safetensors";
const FULL_QWEN = "qwen_3_8b.safetensors";
const FULL_VAE = "flux2-vae.safetensors";
const SMALL_VAE = "full_encoder_small_decoder.safetensors";

const BFL = (repository, name) => ["diffusion_models", `black-forest-labs/${repository}`, `${HUB}/black-forest-labs/${repository}/resolve/main/${name}`];
const COMFY = (repository, folder, name) => [folder, `Comfy-Org/${repository}`, `${HUB}/Comfy-Org/${repository}/resolve/main/split_files/${folder}/${name}`];

// Each file: its folder, its repository, its address.
const FILES = {
  "flux-2-klein-9b.safetensors": BFL("FLUX.2-klein-9B", "flux-2-klein-9b.safetensors"),
  "flux-2-klein-9b-fp8.safetensors": BFL("FLUX.2-klein-9b-fp8", "flux-2-klein-9b-fp8.safetensors"),
  "flux-2-klein-9b-nvfp4.safetensors": BFL("FLUX.2-klein-9b-nvfp4", "flux-2-klein-9b-nvfp4.safetensors"),
  "flux-2-klein-base-9b-fp8.safetensors": BFL("FLUX.2-klein-base-9b-fp8", "flux-2-klein-base-9b-fp8.safetensors"),
  "flux-2-klein-9b-kv-fp8.safetensors": BFL("FLUX.2-klein-9b-kv-fp8", "flux-2-klein-9b-kv-fp8.safetensors"),
  [FP8_QWEN]: COMFY("flux2-klein-9B", "text_encoders", FP8_QWEN),
  [FP4_QWEN]: COMFY("flux2-klein-9B", "text_encoders", FP4_QWEN),
  [FULL_QWEN]: COMFY("flux2-klein-9B", "text_encoders", FULL_QWEN),
  [FULL_VAE]: COMFY("flux2-dev", "vae", FULL_VAE),
  [SMALL_VAE]: ["vae", "black-forest-labs/FLUX.2-small-decoder", `${HUB}/black-forest-labs/FLUX.2-small-decoder/resolve/main/${SMALL_VAE}`],
};

// What a card with so many GB runs with everything in VRAM, as Klein 9B Plan finds it.
const CARDS = {
  8: { diffusion_model: "flux-2-klein-9b-nvfp4.safetensors", text_encoder: FP4_QWEN, vae: SMALL_VAE },
  12: { diffusion_model: "flux-2-klein-9b-fp8.safetensors", text_encoder: FP4_QWEN, vae: SMALL_VAE },
  16: { diffusion_model: "flux-2-klein-9b-fp8.safetensors", text_encoder: FP8_QWEN, vae: FULL_VAE },
  24: { diffusion_model: "flux-2-klein-9b.safetensors", text_encoder: FP8_QWEN, vae: FULL_VAE },
};

// The plan's own words for each card and workflow, by file name; build_workflows.py asks the pack for them.
const PLANS = JSON.parse(process.env.PLANS ?? "{}");

function model(name) {
  const [directory, , url] = FILES[name];
  return { name, url, directory };
}

function sizes(names) {
  return names.map((name) => {
    const [folder, repository] = FILES[name];
    return `| ${folder}/${name} | [${repository}](${HUB}/${repository}) |`;
  }).join("\n");
}

function filesNote(files, offered) {
  const gated = FILES[files.diffusion_model][1];
  return `## Files

| in ComfyUI/models | from |
|---|---|
${sizes(Object.values(files))}

${offered} The diffusion model is gated: sign in at [${gated}](${HUB}/${gated}) and accept the FLUX Non-Commercial License first.`;
}

// What each graph is besides; its slider is drawn by Nodes 2.0 alone.
const APP = "*Enter app mode*, the button beside *Graph* at the top left, turns this into a form with one Run button.";
const COMPARED = " *Compare* shows both pictures there, and in Nodes 2.0 under a slider; the classic canvas shows the new one only.";

function note(name, lines, files, { cached, compared } = {}) {
  const kept = cached ? "\n\nThe reference cache goes to RAM where VRAM is short." : "";
  return `${lines}

${APP}${compared ? COMPARED : ""}

${filesNote(files, "*View details* on ComfyUI's warning offers each missing file.")}

## Memory

${PLANS[name]}${kept}

*Klein 9B Plan* says the same for your own card and files.`;
}

// What encodes the prompt.
const TEXT_ENCODE = (prompt, negative) => ({
  type: "Klein9BTextEncode", widgets: { prompt, negative_prompt: negative }, app: { prompt: "What to make", ...(negative && { negative_prompt: "What to keep out" }) },
});
const CAST = (prompt) => ({ type: "Klein9BCast", title: "Prompt with places", widgets: { prompt }, app: { prompt: "What to make, with places" } });

function encoded(words) {
  const positive = ["prompt", "positive"];
  return words === CAST ? { positive } : { positive, negative: ["prompt", "negative"] };
}

// Where a node stands: its group is a step, its column one of five, and within it the nodes follow each other
// downwards as they are listed. layout.mjs finds the places from the sizes that the frontend gives them.
const CHOOSE = { group: "1  Choose", column: 1 };
const WRITE = { group: "2  Write", column: 2 };
const RUN = { group: "3  Run", column: 3 };
const RESULT = { group: "3  Run", column: 4 };

// The area is asked for where the shape is a ratio.
function sizeOf(aspect_ratio, megapixels) {
  return aspect_ratio === "match_input_image" ? { aspect_ratio } : { aspect_ratio, "aspect_ratio.megapixels": megapixels };
}

// What joins the photographs to the prompt and gives the latent.
const REFERENCES = (photographs, widgets) => ({
  type: "Klein9BReferences", title: photographs.length ? undefined : "Size of the picture", widgets,
  app: widgets.aspect_ratio === "match_input_image" ? {} : { aspect_ratio: "Shape", "aspect_ratio.megapixels": "Megapixels" },
  from: Object.fromEntries(photographs.map((_, i) => [`images.image_${i + 1}`, [`image_${i + 1}`, "IMAGE"]])),
});
const INPAINT = (widgets) => ({ type: "Klein9BInpaint", height: 400, widgets, from: { image: ["image_1", "IMAGE"], mask: ["image_1", "MASK"] } });
const OUTPAINT = (widgets) => ({ type: "Klein9BInpaint", height: 400, widgets, app: { left: "Pixels more at the left", top: "Pixels more at the top", right: "Pixels more at the right", bottom: "Pixels more at the bottom" }, from: { image: ["image_1", "IMAGE"] } });

// What acts on the conditioning, and the outputs of it that the guider takes.
const STRENGTH = (image, strength) => ({
  node: { type: "Klein9BReferenceStrength", widgets: { image, strength, start: 0, end: 1 }, app: { strength: `How strongly image ${image} counts` } },
  gives: { positive: ["set", "positive"], negative: ["set", "negative"] },
});
const NEGATED = (negative_strength) => ({
  node: { type: "Klein9BNegative", height: 110, widgets: { negative_strength }, app: { negative_strength: "How strongly that is kept out" } },
  gives: { positive: ["set", "positive"] },
});

const PLACEHOLDER = "example.png"; // ships with ComfyUI; the person chooses their own
const SEEN = 300; // the height of a picture that is looked at beside others

function noteNode(text, height) {
  return { id: "note", type: "MarkdownNote", title: "Read me", column: 0, height, widgets: { "": text } };
}

// The plan for one's own card, below the shortest column.
function planNode(files, photographs, lora, widgets) {
  const place = photographs.length < 2 && !lora ? CHOOSE : { column: photographs.length > 2 ? 0 : 2 };
  return { id: "plan", type: "Klein9BPlan", ...place, height: 420, widgets: { ...files, references: photographs.length, ...widgets } };
}

function loadNode(files) {
  return { id: "load", type: "Klein9BLoader", ...CHOOSE, height: 240, widgets: { ...files, variant: "auto" }, models: Object.values(files).map(model) };
}

function photographNodes(photographs) {
  const two = photographs.length > 2; // beside each other
  return photographs.map((file, i) => ({
    id: `image_${i + 1}`, type: "LoadImage", title: `Image ${i + 1}`, ...(two && i > 1 ? WRITE : CHOOSE), height: 300, widgets: { image: file }, placeholder: { image: PLACEHOLDER },
    app: { image: photographs.length > 1 ? `Photograph ${i + 1}` : "Photograph" },
  }));
}

// The picture, and where it was edited the photograph under a slider with it; the app shows the first of the two.
function pictureNodes(picture, original, { title = "Picture", prefix = "Klein9B", id = "save" } = {}) {
  const save = { id, type: "SaveImage", title, ...RESULT, height: original ? SEEN : 480, shows: !original, widgets: { filename_prefix: prefix }, from: { images: picture } };
  if (!original) return [save];
  return [save, { id: "compare", type: "ImageCompare", title: "Compare", ...RESULT, height: 300, shows: true, from: { image_a: [id, "images"], image_b: original } }];
}

// One graph, left to right: files, photographs and their plan, words, sampling, picture. `words` encodes the prompt,
// `set` is what acts on the conditioning behind the references, `inpaint` paints the photograph instead, `reported` is
// how Klein 9B Edit Report makes the last picture.
function local({ name, subject, files, photographs, prompt, negative = "", words = TEXT_ENCODE, set, inpaint, steps, cfg, sampler, aspect_ratio, megapixels, cached, accelerated, lora, reported, compares = true, pictures }) {
  const edits = photographs.length > 0;
  const restores = inpaint || (edits && aspect_ratio === "match_input_image");
  const sameSize = compares && restores && !inpaint?.widgets.left;
  const nodes = [
    noteNode(note(name, subject, files, { cached, compared: sameSize }), 600),
    loadNode(files),
  ];
  let before = "load"; // what the guider gets
  const between = (id, type, place, height, widgets = {}, app = {}) => {
    nodes.push({ id, type, ...place, height, widgets, app, from: { model: [before, "model"] } });
    before = id;
  };
  if (lora) between("lora", "Klein9BLora", CHOOSE, 150, { lora, strength: 1 }, { lora: "LoRA file", strength: "Strength of the LoRA" });
  const joined = inpaint ?? REFERENCES(photographs, { fit: "crop", ...sizeOf(aspect_ratio, megapixels) });
  let conditioned = { positive: ["references", "positive"], negative: ["references", "negative"] };
  nodes.push(
    ...photographNodes(photographs),
    { id: "prompt", title: "Prompt", ...WRITE, height: 230, from: { clip: ["load", "clip"] }, ...words(prompt, negative) },
    { id: "references", ...WRITE, ...joined, from: { ...encoded(words), vae: ["load", "vae"], ...joined.from } },
  );
  if (set) {
    nodes.push({ id: "set", ...RUN, from: conditioned, ...set.node });
    conditioned = { ...conditioned, ...set.gives };
  }
  if (cached) between("cache", "Klein9BReferenceCache", RUN, 240);
  if (accelerated) between("accelerate", "Klein9BAccelerate", RUN, 230);
  nodes.push(
    { id: "guider", type: "CFGGuider", ...RUN, widgets: { cfg }, from: { model: [before, "model"], ...conditioned } },
    { id: "sigmas", type: "Klein9BScheduler", ...RUN, widgets: { steps, denoise: 1, shift: "flux2" }, from: { latent: ["references", "latent"] } },
    { id: "sampler", type: "Klein9BSampler", ...RUN, widgets: sampler },
    { id: "noise", type: "RandomNoise", title: "Seed", ...RUN, widgets: { noise_seed: 42, control_after_generate: "randomize" }, app: { noise_seed: "Seed" } },
    { id: "sample", type: "SamplerCustomAdvanced", title: "Sample", ...RESULT, from: { noise: ["noise", "NOISE"], guider: ["guider", "GUIDER"], sampler: ["sampler", "sampler"], sigmas: ["sigmas", "sigmas"], latent_image: ["references", "latent"] } },
    { id: "decode", type: "VAEDecode", ...RESULT, from: { samples: ["sample", "output"], vae: ["load", "vae"] } },
  );
  if (restores) nodes.push({ id: "restore", type: "Klein9BRestore", ...RESULT, from: { image: ["decode", "IMAGE"], frame: ["references", "frame"] } });
  if (reported) {
    nodes.push(
      { id: "report", type: "Klein9BEditReport", ...RESULT, height: 240, widgets: reported, from: { original: ["image_1", "IMAGE"], edit: ["restore", "image"] } },
      { id: "told", type: "PreviewAny", title: "Report", ...RESULT, height: 100, shows: true, from: { source: ["report", "report"] } },
    );
  }
  nodes.push(planNode(files, photographs, lora, { cfg, reference_cache: cached ? "model dtype" : "off" }));
  const last = reported ? ["report", "image"] : restores ? ["restore", "image"] : ["decode", "IMAGE"];
  nodes.push(...pictureNodes(last, sameSize && ["image_1", "IMAGE"]));
  return { name, nodes, pictures };
}

// One photograph after the other out of a folder, each picture into another: the one-image edit with both ends replaced.
function ofFolder(options) {
  const one = local({ ...options, photographs: ["image_1.png"], compares: false });
  const ends = {
    image_1: { id: "folder", type: "Klein9BFolder", ...CHOOSE, height: 200, widgets: { folder: "photographs", first: 1, most: 20 }, app: { folder: "Folder in ComfyUI/input", first: "Begin with photograph", most: "How many" }, from: { model: ["load", "model"] } },
    references: { from: { ...encoded(TEXT_ENCODE), vae: ["load", "vae"], "images.image_1": ["folder", "image"] } },
    guider: { from: { model: ["folder", "model"], positive: ["references", "positive"], negative: ["references", "negative"] } },
    save: { type: "Klein9BSaveFolder", title: "Pictures", height: 480, shows: true, app: { folder: "Folder in ComfyUI/output" }, widgets: { folder: "edited" }, from: { image: ["restore", "image"], name: ["folder", "name"] } },
  };
  return { ...one, nodes: one.nodes.map((node) => (node.id === "image_1" ? ends.image_1 : { ...node, ...ends[node.id] })) };
}

// A photograph scaled up, encoded, joined to the prompt as image 1 at that size, and painted anew in tiles.
function large({ name, subject, files, photographs, prompt, megapixels, steps }) {
  const one = local({ ...DISTILLED, ...SIZE, name, subject, files, photographs, prompt, steps });
  const replaced = {
    references: { id: "references", type: "ReferenceLatent", title: "Image 1, at its new size", ...WRITE, from: { conditioning: ["prompt", "positive"], latent: ["encode", "LATENT"] } },
    guider: { id: "guider", type: "BasicGuider", ...RUN, from: { model: ["tiles", "model"], conditioning: ["references", "CONDITIONING"] } },
    decode: { id: "decode", type: "VAEDecodeTiled", ...RESULT, widgets: { tile_size: 512, overlap: 64 }, from: { samples: ["sample", "output"], vae: ["load", "vae"] } },
  };
  const further = {
    image_1: [{ id: "scale", type: "ImageScaleToTotalPixels", title: "How large it becomes", ...CHOOSE, widgets: { upscale_method: "lanczos", megapixels, resolution_steps: 16 }, app: { megapixels: "Megapixels of the new picture" }, from: { image: ["image_1", "IMAGE"] } }],
    references: [
      { id: "encode", type: "VAEEncodeTiled", ...WRITE, widgets: { tile_size: 512, overlap: 64 }, from: { pixels: ["scale", "IMAGE"], vae: ["load", "vae"] } },
      { id: "tiles", type: "Klein9BTiles", ...WRITE, height: 220, widgets: { tile_size: 1024, overlap: 128 }, from: { model: ["load", "model"], latent: ["encode", "LATENT"] } },
    ],
  };
  const latents = { sigmas: "latent", sample: "latent_image" };
  const tiled = (node) => (latents[node.id] ? { ...node, from: { ...node.from, [latents[node.id]]: ["tiles", "latent"] } } : node);
  const titled = (node) => (node.id === "plan" ? { ...node, title: "Klein 9B Plan (for one tile)" } : node);
  const nodes = one.nodes.flatMap((node) => [replaced[node.id] ?? titled(tiled(node)), ...(further[node.id] ?? [])]);
  return { ...one, nodes };
}

// ComfyUI's warning knows a file by its name without a folder, so that here it has no address to offer.
const LINKS = (files) => `ComfyUI's warning names what is missing; these are the files: ${Object.values(files).map((file) => `[${file}](${FILES[file][2]})`).join(", ")}.`;

// Files made of files: no picture.
function int8({ name, subject, files }) {
  const make = (slot, title) => {
    const file = files[slot];
    const [folder] = FILES[file];
    return [
      { id: slot, type: "Klein9BQuantize", title: `Klein 9B Quantize (${title})`, ...CHOOSE, height: 260, widgets: { file: `${folder}/${file}`, name: "" }, app: { file: `File of the ${title}` } },
      { id: `${slot}_report`, type: "PreviewAny", title: `Report (${title})`, group: "2  Run", column: 2, height: 260, shows: true, from: { source: [slot, "report"] } },
    ];
  };
  const nodes = [noteNode(`${subject}\n\n${filesNote(files, LINKS(files))}`, 760), ...make("diffusion_model", "model"), ...make("text_encoder", "text encoder")];
  return { name, nodes, columns: [460, 460, 460] };
}

// The hosted model. Nothing to download; what to read first is the price, the privacy and where the key goes.
function remoteNote(lines, uploads) {
  return `${lines}

## Price

Each picture costs about $0.04 on your Segmind account. The same inputs are paid for once: run again after a timeout, a cancel or a restart and the job is picked up. Cancel frees the graph, not the bill: Segmind has no cancel.

## Privacy

${uploads ? "**The images are uploaded to addresses that are public, unlisted and permanent.** " : ""}The prompt goes to Segmind and stays in its request history.

## Where the key goes

Into the variable SEGMIND_API_KEY before ComfyUI starts, or as the only line of *ComfyUI/user/__segmind/segmind.key*, which must be closed to others (on Linux and macOS: chmod 600). **Never into a widget.**`;
}

const NO_FILES = `

## Files

None: nothing to download.`;

function remoteNode({ widgets = {}, photographs = [], from = {}, place }) {
  const sockets = Object.fromEntries(photographs.map((_, i) => [`images.image_${i + 1}`, [`image_${i + 1}`, "IMAGE"]]));
  const app = from.prompt ? {} : { prompt: "What to make", aspect_ratio: "Shape", seed: "Seed", ...(widgets.count && { count: "How many pictures" }) };
  return { id: "remote", type: "SegmindRemote", ...place, widgets: { seed: 42, ...widgets }, app, from: { ...sockets, ...from } };
}

function remotePicture(original) {
  return [
    ...pictureNodes(["remote", "image"], original, { title: "Picture from Segmind", prefix: "Klein9B_remote", id: "remote_save" }),
    { id: "receipt", type: "PreviewAny", title: "Receipt", ...RESULT, height: 170, shows: true, from: { source: ["remote", "receipt"] } },
  ];
}

function remote({ name, subject, photographs, widgets }) {
  const edits = photographs.length > 0;
  const [write, run] = edits ? [WRITE, RESULT] : [{ group: "1  Write" }, { group: "2  Run" }];
  const place = { ...write, column: edits ? 2 : 1 };
  const column = place.column + 1;
  return {
    name,
    columns: edits ? [400, 400, 400, 460] : [400, 400, 460],
    nodes: [
      noteNode(remoteNote(`${subject}\n\n${APP}${edits ? COMPARED : ""}${NO_FILES}`, edits), 760),
      ...photographNodes(photographs),
      remoteNode({ widgets, photographs, place }),
      ...remotePicture(edits && ["image_1", "IMAGE"]).map((node) => ({ ...node, group: run.group, column })),
    ],
  };
}

// What was asked of Segmind, paid and kept: to look at, and to fetch again.
function jobs({ name, subject, widgets }) {
  return {
    name,
    columns: [400, 460, 460],
    nodes: [
      noteNode(`${subject}\n\n${APP}${NO_FILES}`, 560),
      { id: "jobs", type: "SegmindJobs", ...CHOOSE, widgets, app: { request_id: "request_id of a picture to fetch again", limit: "How many jobs to list" } },
      { id: "told", type: "PreviewAny", title: "Jobs", group: "2  Run", column: 2, height: 300, shows: true, from: { source: ["jobs", "jobs"] } },
      { id: "save", type: "PreviewImage", title: "Fetched again", group: "2  Run", column: 2, height: 300, shows: true, from: { images: ["jobs", "image"] } },
    ],
  };
}

// The same prompt, seed and images into both lanes: one text, one number, one set of photographs.
function bothLanes({ name, subject, files, photographs, prompt }) {
  const one = local({ ...DISTILLED, ...MATCH, name, subject, files, photographs, prompt, compares: false });
  const words = [
    { id: "number", type: "PrimitiveInt", title: "Seed, for both", ...WRITE, widgets: { value: 42 }, app: { value: "Seed" } },
    { id: "text", type: "PrimitiveStringMultiline", title: "Prompt, for both", ...WRITE, height: 200, widgets: { value: prompt }, app: { value: "What to make" } },
  ];
  const asked = { aspect_ratio: "match_input_image" };
  const from = { prompt: ["text", "STRING"], seed: ["number", "INT"] };
  return one.nodes.flatMap((node) => {
    if (node.id === "note") return { ...node, height: 900, widgets: { "": remoteNote(note(name, subject, files), true) } };
    if (node.id === "prompt") return [...words, { ...node, widgets: {}, app: {}, from: { ...node.from, prompt: ["text", "STRING"] } }];
    if (node.id === "noise") return [{ ...node, widgets: {}, app: {}, from: { noise_seed: ["number", "INT"] } }, remoteNode({ place: RUN, widgets: asked, photographs, from })];
    return node;
  });
}

function sideBySide(task) {
  const nodes = bothLanes(task).map((node) => (node.id === "save" ? { ...node, title: "Picture from your GPU", height: 360, shows: true } : node));
  return { name: task.name, nodes: [...nodes, ...remotePicture().map((node) => (node.id === "remote_save" ? { ...node, height: 360 } : node))] };
}

// Nothing but the switch hangs on Segmind Remote: a receipt's preview would run it whatever the lane.
function switched(task) {
  const nodes = bothLanes(task);
  const save = nodes.find((node) => node.id === "save");
  const lane = {
    id: "switch", type: "Klein9BSwitch", ...RESULT, height: 140, widgets: { lane: "local" }, app: { lane: "Where it runs" },
    from: { local: ["restore", "image"], remote: ["remote", "image"], fits: ["plan", "fits"] },
  };
  const saved = { ...save, height: 480, shows: true, from: { images: ["switch", "image"] } };
  return { name: task.name, nodes: [...nodes.filter((node) => node !== save), lane, saved] };
}

const EULER = { sampler: "euler" };
const DISTILLED = { steps: 4, cfg: 1, sampler: EULER };
const SIZE = { aspect_ratio: "1:1", megapixels: 1 };
const MATCH = { aspect_ratio: "match_input_image", megapixels: 1 };

const FOX = "A red fox standing in fresh snow at the edge of a birch forest, early morning light, its breath visible in the cold air, shallow depth of field, photograph";
const NEGATIVE = "low quality, blurry, less details";
const CFG_INTERVAL = "*Klein 9B Accelerate* makes each step faster and changes nothing of the picture as it is set here. With cfg_until 0.6 the last 7 of 20 steps do without the negative prompt and cost half: the picture is then another one, approximately the same.";
const TWO_IMAGES = "Put the main subject of image 2 into image 1, in the foreground, at a natural size and in the same light. Keep everything else in image 1 unchanged.";

// One task on one card.
const TASKS = [
  {
    ...SIZE, task: "text to image", photographs: [], prompt: FOX,
    subject: "# Text to image, distilled\n\n4 steps at cfg 1. Write the prompt, choose shape and size, press Run.",
  },
  {
    ...MATCH, task: "edit one image", photographs: ["image_1.png"],
    prompt: "Replace the background of image 1 with a quiet coastal cliff at overcast sunset. Keep the figure in front, its pose and its colours unchanged.",
    subject: "# Edit one image\n\nChoose a photograph, say what to change, press Run; *example.png* is ComfyUI's own and stands there until you choose. The picture comes back at the photograph's own size and lies exactly over it; Klein itself works at up to 2024 by 2024 pixels, so a larger photograph loses detail.",
  },
  {
    ...MATCH, task: "edit two images", photographs: ["image_1.png", "image_2.png"], prompt: TWO_IMAGES,
    subject: "# Edit with two images\n\nChoose two photographs, write a sentence, press Run; *example.png* is ComfyUI's own and stands there until you choose. Image 1 is the photograph you edit, image 2 lends something: call them *image 1* and *image 2* in the sentence and give each a role. The picture comes back at image 1's own size; Klein itself works at up to 1024 by 1024 pixels, so a larger photograph loses detail.",
  },
];

const GRAPH = { "docs/graph.jpg": undefined, "nodes/web/docs/img/klein9b_references.jpg": ["1  Choose", "2  Write"] };

const ASIDES = {
  8: " nvfp4 is computed as it is on RTX 50 cards; older ones unpack each layer as it is used, which takes time and 0.3 GB. A GGUF file works too: open the folded node by the button at its corner and put *Unet Loader (GGUF)* and *CLIPLoader (GGUF)*, type flux2, of the ComfyUI-GGUF pack and *Load VAE* in the loader's place; every other node stays.",
};

// A task with all that a beginner need not see folded into one node, which the node search offers too.
function simple(one, { title, description, aliases, photographs, blueprint }) {
  const outside = new Set(["note", "plan", "save", "compare", ...photographs.map((_, i) => `image_${i + 1}`)]);
  const edits = photographs.length > 0;
  const [write, run] = edits ? [WRITE, { group: "3  Run", column: 3 }] : [{ group: "1  Write", column: 1 }, { group: "2  Run", column: 2 }];
  const place = { note: { column: 0 }, plan: { group: undefined, column: write.column }, save: run, compare: { ...run, height: 420 } };
  const node = { id: "klein", type: "folded", ...write, height: 370, app: { prompt: "What to make", ...(!edits && { aspect_ratio: "Shape", "aspect_ratio.megapixels": "Megapixels" }), noise_seed: "Seed" } };
  const size = edits ? [] : [["references", "aspect_ratio", "Shape"], ["references", "aspect_ratio.megapixels", "Megapixels"]];
  return {
    ...one,
    columns: edits ? [380, 300, 380, 400] : [400, 400, 440],
    nodes: one.nodes.map((other) => (outside.has(other.id) ? { ...other, ...place[other.id] } : { ...other, inside: true, group: undefined, column: other.column - 1 })),
    folded: {
      node, title, description, search_aliases: aliases, blueprint, category: "Klein 9B",
      columns: COLUMNS_INSIDE, images: edits ? 3 : 0, on: "references",
      asks: [["prompt", "prompt", "What to make"], ...size, ["noise", "noise_seed", "Seed"], ["load", "diffusion_model", "Model file"], ["load", "text_encoder", "Text encoder file"], ["load", "vae", "VAE file"]],
    },
  };
}

export const COLUMNS = [380, 400, 400, 290, 290]; // pixels, of a graph that says nothing else
const COLUMNS_INSIDE = COLUMNS.slice(1);
const EDIT_NODE = {
  title: "Klein 9B edit", aliases: ["klein edit", "flux 2 klein 9b edit", "edit photograph"],
  description: "Edits photographs with FLUX.2 [klein] 9B as the prompt says: files, up to three images, prompt and seed. The picture comes back at image 1's own size.",
};
const TEXT_NODE = {
  title: "Klein 9B text to image", aliases: ["klein text to image", "flux 2 klein 9b text to image"],
  description: "A new picture from a prompt with FLUX.2 [klein] 9B: files, prompt, shape, size and seed.",
};

function onCards({ task, subject, ...rest }) {
  return Object.entries(CARDS).map(([gb, files]) => {
    const pictures = task === "edit two images" && gb === "16" ? GRAPH : undefined;
    const one = local({ ...DISTILLED, ...rest, name: `Klein 9B ${task} ${gb} GB`, subject: `${subject}\n\nFor a card with ${gb} GB. The loader, the steps and the rest are inside the folded node: the button at its corner opens it.${ASIDES[gb] ?? ""}`, files, pictures });
    const blueprint = gb === "16" && task !== "edit one image";
    return simple(one, { ...(rest.photographs.length ? EDIT_NODE : TEXT_NODE), photographs: rest.photographs, blueprint });
  });
}

const FP8 = (name) => ({ ...CARDS[16], diffusion_model: name });

export const WORKFLOWS = [
  ...TASKS.flatMap(onCards),
  local({
    ...SIZE, name: "Klein 9B base text to image with res_2s", files: FP8("flux-2-klein-base-9b-fp8.safetensors"), photographs: [], steps: 20, cfg: 5, sampler: { sampler: "res_2s", "sampler.eta": 0, "sampler.final_step": "sigma_min" }, accelerated: true,
    subject: `# Text to image, base\n\n20 steps of res_2s at cfg 5: slower, more varied, and the negative prompt is read. res_2s calls the model twice a step and cfg doubles that; set the sampler to euler to halve the time.\n\n${CFG_INTERVAL}`,
    prompt: FOX,
    negative: NEGATIVE,
  }),
  local({
    ...MATCH, name: "Klein 9B base edit two images", files: FP8("flux-2-klein-base-9b-fp8.safetensors"), photographs: ["image_1.png", "image_2.png"], steps: 20, cfg: 5, sampler: EULER, accelerated: true,
    subject: `# Edit with two images, base\n\n20 steps at cfg 5: slower than the distilled model, and the negative prompt is read. Image 1 is the photograph you edit, image 2 lends something; the picture comes back at image 1's own size.\n\n${CFG_INTERVAL}`,
    prompt: TWO_IMAGES,
    negative: NEGATIVE,
  }),
  local({
    ...DISTILLED, name: "Klein 9B combine four images", files: CARDS[16], aspect_ratio: "4:3", megapixels: 1, photographs: ["image_1.png", "image_2.png", "image_3.png", "image_4.png"],
    subject: "# Combine four images\n\nA new picture in a shape of its own, from up to ten images; connect the last one and another socket appears. Every image costs time and memory.",
    prompt: "The main subjects of image 1, image 2, image 3 and image 4 together at a cafe table by a window. One photograph, one light.",
  }),
  local({
    ...DISTILLED, ...MATCH, name: "Klein 9B KV edit two images", files: FP8("flux-2-klein-9b-kv-fp8.safetensors"), cached: true, accelerated: true, photographs: ["image_1.png", "image_2.png"],
    subject: "# Edit with two images, references cached\n\nThe KV model computes its reference images once. *Klein 9B Reference Cache* keeps what was computed, so a new prompt or seed on the same images skips them altogether: the text under the node says what was saved. *Klein 9B Accelerate* makes what is left of each step faster.",
    prompt: TWO_IMAGES,
  }),
  local({
    ...DISTILLED, ...MATCH, name: "Klein 9B reference strength", files: CARDS[16], photographs: ["image_1.png", "image_2.png"], set: STRENGTH(2, 1.5),
    subject: "# How strongly an image counts\n\nThe two-image edit, with image 2 at strength 1.5: in attention every pixel of it counts one and a half times. At 1 the picture is the one without *Klein 9B Reference Strength*; at 0 it is as if image 2 were not connected.\n\n*start* and *end* let it count in a part of the steps, the two masks in a part of the new picture, or with a part of its own pixels. One node an image, one behind the other.",
    prompt: TWO_IMAGES,
  }),
  local({
    ...DISTILLED, ...MATCH, name: "Klein 9B edit with a LoRA", files: CARDS[16], photographs: ["image_1.png"], lora: "klein-9b-lora.safetensors",
    subject: "# An edit with a LoRA\n\nChoose your own file in *Klein 9B LoRA*, from models/loras; *klein-9b-lora.safetensors* stands for it. It has to be trained on Klein 9B: one for 4B, FLUX.1 or another model is named and refused. Whose names the file has does not matter.\n\nThe text under the node says how many layers were placed, and names what was not. Several nodes in a row add up; *strength* 0 is the picture without it.",
    prompt: "Repaint image 1 in the style of the LoRA. Keep the composition, the pose and the background.",
  }),
  ofFolder({
    ...DISTILLED, ...MATCH, name: "Klein 9B edit a folder", files: CARDS[16],
    subject: "# Edit a folder of photographs\n\nPut photographs of any sizes into a folder in *ComfyUI/input*, here *photographs*, say what to change in each, press Run. The pictures come back at their own sizes and under their own names in *ComfyUI/output/edited*; nothing that is there is ever replaced.\n\nThe text under *Klein 9B Folder* says which photograph is being edited, and names each file that could not be read. Every picture is the one that its photograph gives alone with the same seed. For a reference that all share connect *Load Image* to image 2.\n\nOne run takes *most* photographs and saves them at its end; for a large folder set *most* to 1, *first* to increment and the number of runs beside Run: each is then saved before the next.",
    prompt: "Replace the background of image 1 with a plain light grey studio wall. Keep the subject, its pose, its colours and the light on it unchanged.",
  }),
  local({
    ...DISTILLED, ...MATCH, name: "Klein 9B edit with a report", files: CARDS[16], photographs: ["image_1.png"], reported: { undo_movement: true, lock_colors: true, only_changes: true, threshold: 5, feather: 16 },
    subject: "# An edit, and what it did\n\nThe one-image edit. *Klein 9B Edit Report* says by how much the edit is shifted, zoomed and turned against the photograph, how far the colours drifted where nothing was to change, and how much changed.\n\nAs it is set here, the edit is put back in place, its colours are locked to the photograph's, and only what changed is laid over it: every other pixel of the picture is the photograph's own. Switch the three off to see the edit as Klein made it.\n\nWhere structure that was only painted again is taken for change, raise *threshold*. The mask of what changed is the node's second output.",
    prompt: "Give the figure in image 1 a green scarf. Keep everything else unchanged.",
  }),
  local({
    ...DISTILLED, ...SIZE, name: "Klein 9B negative prompt at cfg 1", files: CARDS[16], photographs: [], set: NEGATED(5),
    subject: "# A negative prompt at cfg 1\n\nThe distilled model runs at cfg 1, where a negative prompt is otherwise not read. *Klein 9B Negative* steers the picture away from it inside attention. A step costs 13 % more, with references less, instead of twice as much.\n\n*negative_strength* says how hard; at 1 the picture is the one without the node. Leave cfg at 1.",
    prompt: "A street cafe in an old town on a summer morning, wooden chairs and small round tables on the cobblestones, soft light, photograph",
    negative: "people, cars, parasols",
  }),
  local({
    ...DISTILLED, name: "Klein 9B cast two people", files: CARDS[16], aspect_ratio: "3:2", megapixels: 1, photographs: ["image_1.png", "image_5.png"], words: CAST,
    subject: "# Two people, each in a place of their own\n\nA line of the prompt that begins with a place and a colon is read by that part of the picture alone, and so is the image that it speaks of: here image 1 on the left, image 2 on the right. All other lines are read everywhere. The text under the node lists what it found.\n\nPlaces are *left*, *right*, *top*, *bottom*, their corners, *left third* and the like, or *mask 1* for one that you paint and connect. The help page of *Klein 9B Cast* has them all.",
    prompt: "Two people sit side by side on a park bench in autumn and talk. One photograph, soft evening light.\nleft: the person from image 1 in a red coat\nright: the person from image 2 in a green sweater",
  }),
  local({
    ...DISTILLED, name: "Klein 9B inpaint", files: CARDS[16], photographs: ["painted.png"], inpaint: INPAINT({ area: "around the mask", megapixels: 1, feather: 16, strength: 1 }),
    subject: "# Paint a part of a photograph anew\n\nChoose a photograph, right-click *Image 1*, *Open in MaskEditor*, paint over what is to change, save, and say in the prompt what should be there. Press Run.\n\nThe model sees the photograph without what is under the mask, so nothing of it shows through. A small mask is cut out with its surroundings and painted at the model's full size; *Klein 9B Restore* puts it back and leaves every pixel beyond the feather as it was.",
    prompt: "A grey cat that looks into the camera. The same light and the same lens as in the rest of image 1.",
  }),
  local({
    ...DISTILLED, name: "Klein 9B outpaint", files: CARDS[16], photographs: ["image_1.png"], inpaint: OUTPAINT({ area: "whole picture", megapixels: 1, feather: 16, strength: 1, left: 256, right: 256 }),
    subject: "# Make a photograph wider\n\nChoose a photograph, say on *Klein 9B Inpaint* by how many pixels it grows at each side, and in the prompt what the whole picture shows. Press Run.\n\nThe photograph itself stays, bit for bit, but for the feather along the sides that grow.",
    prompt: "Image 1 seen wider: its background goes on to the left and to the right as it is. One photograph, one light, one lens.",
  }),
  large({
    name: "Klein 9B large picture in tiles", files: CARDS[12], photographs: ["image_1.png"], megapixels: 16, steps: 4,
    subject: "# A photograph made large\n\nChoose a photograph, say in *How large it becomes* how many megapixels it gets (16 are 4096 by 4096), press Run. *Klein 9B Tiles* paints it tile by tile in every step: each tile sees its own part of image 1, neighbours overlap and are merged, so that no seam shows. The text under the node says how many tiles there are; every one of them takes the time of a picture of its size.\n\nThe memory is that of one tile, whatever the picture's size: 4096 by 4096 runs on a card of 12 GB with these files. *denoise* on *Klein 9B Scheduler* below 1 keeps more of the photograph as it is. Further references go into a *Klein 9B References* between *Image 1, at its new size* and the guider; every tile sees them whole.",
    prompt: "Image 1 as a sharp, detailed photograph: fine texture in skin, hair and cloth, no noise, no blur. Keep everything in image 1 where it is.",
  }),
  int8({
    name: "Klein 9B make int8 files", files: { diffusion_model: "flux-2-klein-9b.safetensors", text_encoder: FULL_QWEN },
    subject: "# Make int8 files\n\nWrites the model and its text encoder once more in 8-bit integers, which NVIDIA cards since the RTX 20 series multiply faster than bf16. Press Run once; it takes minutes on the processor and little RAM, and Cancel leaves nothing behind. To make one file only, select the other node and its report and press Ctrl+M.\n\nEach new file lies beside the old one, which stays: *models/diffusion_models/flux-2-klein-9b-int8.safetensors* and *models/text_encoders/qwen_3_8b_int8.safetensors*. They are in ComfyUI's own format: *Klein 9B Loader*, *Load Diffusion Model* and *Load CLIP* open them, also without this pack. Press R to see them in the lists.\n\n## Disk space\n\n| | in bf16 | in int8 |\n|---|---|---|\n| model | 18.2 GB | 9.4 GB |\n| text encoder | 16.4 GB | 9.4 GB |\n\nThe int8 text encoder is smaller than bf16, not faster, and not smaller than *qwen_3_8b_fp8mixed* (8.7 GB): make it only if you have the bf16 file anyway.\n\n## Licence\n\nAn int8 file of FLUX.2 [klein] 9B is a derivative of it and stays under the FLUX Non-Commercial License. Qwen3-8B is Apache-2.0.",
  }),
  remote({
    name: "Segmind remote edit two images", photographs: ["image_1.png", "image_2.png"],
    subject: "# Edit with two images, on Segmind\n\nThe two-image edit without a GPU of your own. Choose two photographs, call them *image 1* and *image 2* in the prompt, press Run.",
    widgets: { prompt: TWO_IMAGES, aspect_ratio: "match_input_image" },
  }),
  remote({
    name: "Segmind remote text to image four seeds", photographs: [],
    subject: "# Text to image, four seeds, on Segmind\n\nFour pictures at once, with seed 42 to 45: four jobs, about $0.16. If one fails the others are kept, and running again pays only for what is missing.",
    widgets: { prompt: FOX, count: 4 },
  }),
  jobs({
    name: "Segmind jobs", widgets: { request_id: "", limit: 20 },
    subject: "# What was sent to Segmind\n\nPress Run: the list shows each job of *Segmind Remote* on this machine, newest first, with its state, age, cost and prompt, and the balance of the account. It never pays for anything.\n\n## Fetch a picture again\n\nCopy a job's request_id from the list into *request_id* and press Run: its picture comes back, from this machine where it was kept, else from Segmind.\n\nThe key is read from where *Segmind Remote* reads it: the variable SEGMIND_API_KEY, or the only line of *ComfyUI/user/__segmind/segmind.key*. **Never type it into a widget.**",
  }),
  sideBySide({
    name: "Klein 9B local and remote side by side", files: CARDS[16], photographs: ["image_1.png", "image_2.png"],
    subject: "# Local and remote, side by side\n\nOne prompt, one seed and the same two photographs go to your GPU and to Segmind at the same time. The hosted model has its own settings (20 steps at cfg 5), so the pictures are kin, not twins.\n\nThe seed stays as it is, so running again costs nothing; type another for new pictures.",
    prompt: TWO_IMAGES,
  }),
  switched({
    name: "Klein 9B one switch, local or Segmind", files: CARDS[16], photographs: ["image_1.png", "image_2.png"],
    subject: "# One switch, local or Segmind\n\nOne prompt, one seed, the same two photographs, and a *lane* on *Klein 9B Switch*, at the right end. The lane that is not chosen does not run: it loads no weight and sends nothing.\n\n| lane | runs on | costs |\n|---|---|---|\n| local | your GPU | nothing, ever |\n| Segmind | Segmind Remote | what stands on that node, once |\n| local where it fits, else Segmind | your GPU; Segmind where *Klein 9B Plan* says that the job does not run at all | nothing, or the same |\n\nAn error on your GPU never becomes a job at Segmind. The plan goes by its own widgets: set its number of references and its size to what you make. Hang nothing else on *Segmind Remote*: a preview of its receipt would run it whatever the lane. *Segmind Jobs* lists what was paid.",
    prompt: TWO_IMAGES,
  }),
];

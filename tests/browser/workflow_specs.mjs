// What each shipped workflow is made of. The frontend itself turns a spec into the file people open.
const HUB = "https://huggingface.co";
const FP8_QWEN = "qwen_3_8b_fp8mixed.safetensors";
const FP4_QWEN = "qwen_3_8b_fp4mixed.safetensors";
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
    return `| \`${folder}/${name}\` | [${repository}](${HUB}/${repository}) |`;
  }).join("\n");
}

function note(name, lines, files, cached) {
  const gated = FILES[files.diffusion_model][1];
  const kept = cached ? "\n\nThe reference cache goes to RAM where VRAM is short." : "";
  return `${lines}

## Files

| in ComfyUI/models | from |
|---|---|
${sizes(Object.values(files))}

*View details* on ComfyUI's warning offers each missing file. The diffusion model is gated: sign in at [${gated}](${HUB}/${gated}) and accept the FLUX Non-Commercial License first.

## Memory

${PLANS[name]}${kept}

*Klein 9B Plan* below the loader says the same for your own card and files.`;
}

const PLACEHOLDER = "example.png"; // ships with ComfyUI; the person chooses their own
const STEP = 380;

// One graph, left to right: files and their plan, words and photographs, references, sampling, picture.
function local({ name, subject, files, photographs, prompt, negative = "", steps, cfg, sampler, aspect_ratio, megapixels, cached, pictures }) {
  const edits = photographs.length > 0;
  const restores = edits && aspect_ratio === "match_input_image";
  const nodes = [
    { id: "note", type: "MarkdownNote", title: "Read me", pos: [0, 0], size: [410, 860], widgets: { "": note(name, subject, files, cached) } },
    { id: "load", type: "Klein9BLoader", group: "Files", pos: [470, 0], size: [340, 280], widgets: { ...files, variant: "auto" }, models: Object.values(files).map(model) },
    {
      id: "plan", type: "Klein9BPlan", group: "Files", pos: [470, 350], size: [340, 620],
      widgets: { ...files, references: photographs.length, cfg, reference_cache: cached ? "model dtype" : "off" },
    },
    {
      id: "prompt", type: "Klein9BTextEncode", title: "Prompt", group: "Words and images", pos: [880, 330], size: [370, 310],
      widgets: { prompt, negative_prompt: negative }, from: { clip: ["load", "clip"] },
    },
  ];
  photographs.forEach((file, i) => {
    nodes.push({ id: `image_${i + 1}`, type: "LoadImage", title: `Image ${i + 1}`, group: "Words and images", pos: [880, 720 + i * STEP], size: [370, 280], widgets: { image: file }, placeholder: { image: PLACEHOLDER } });
  });
  const references = { positive: ["prompt", "positive"], negative: ["prompt", "negative"], vae: ["load", "vae"] };
  photographs.forEach((_, i) => { references[`images.image_${i + 1}`] = [`image_${i + 1}`, "IMAGE"]; });
  if (cached) nodes.push({ id: "cache", type: "Klein9BReferenceCache", group: "Sampling", pos: [1720, 0], size: [310, 240], from: { model: ["load", "model"] } });
  const column = cached ? 2090 : 1720; // where the guider and what feeds the sampler stand
  const saveAt = column + (restores ? 1320 : 1030);
  nodes.push(
    { id: "references", type: "Klein9BReferences", title: edits ? undefined : "Klein 9B References (size of the picture)", group: "Words and images", pos: [1300, 150], size: [350, 220], widgets: { fit: "bfl", aspect_ratio, megapixels }, from: references },
    { id: "guider", type: "CFGGuider", group: "Sampling", pos: [column, 0], size: [310, 100], widgets: { cfg }, from: { model: [cached ? "cache" : "load", "model"], positive: ["references", "positive"], negative: ["references", "negative"] } },
    { id: "sigmas", type: "Klein9BScheduler", group: "Sampling", pos: [column, 170], size: [310, 120], widgets: { steps, denoise: 1, shift: "flux2" }, from: { latent: ["references", "latent"] } },
    { id: "sampler", type: "Klein9BSampler", group: "Sampling", pos: [column, 360], size: [310, 110], widgets: sampler },
    { id: "noise", type: "RandomNoise", title: "Seed", group: "Sampling", pos: [column, 540], size: [310, 90], widgets: { noise_seed: 42, control_after_generate: "randomize" } },
    { id: "sample", type: "SamplerCustomAdvanced", group: "Sampling", pos: [column + 370, 0], size: [290, 130], from: { noise: ["noise", "NOISE"], guider: ["guider", "GUIDER"], sampler: ["sampler", "sampler"], sigmas: ["sigmas", "sigmas"], latent_image: ["references", "latent"] } },
    { id: "decode", type: "VAEDecode", group: "Picture", pos: [column + 730, 0], size: [230, 60], from: { samples: ["sample", "output"], vae: ["load", "vae"] } },
  );
  if (restores) nodes.push({ id: "restore", type: "Klein9BRestore", group: "Picture", pos: [column + 1020, 0], size: [240, 60], from: { image: ["decode", "IMAGE"], frame: ["references", "frame"] } });
  nodes.push({ id: "save", type: "SaveImage", title: "Picture", group: "Picture", pos: [saveAt, 0], size: [480, 560], widgets: { filename_prefix: "Klein9B" }, from: { images: restores ? ["restore", "image"] : ["decode", "IMAGE"] } });
  return { name, nodes, pictures, shown: cached ? ["Words and images", "Sampling"] : ["Words and images"] };
}

// The hosted model. Nothing to download; what to read first is the price, the privacy and where the key goes.
function remoteNote(lines, uploads) {
  return `${lines}

## Price

Each picture costs about $0.04 on your Segmind account. The same inputs are paid for once: run again after a timeout, a cancel or a restart and the job is picked up. Cancel frees the graph, not the bill: Segmind has no cancel.

## Privacy

${uploads ? "**The images are uploaded to addresses that are public, unlisted and permanent.** " : ""}The prompt goes to Segmind and stays in its request history.

## Where the key goes

Into the variable SEGMIND_API_KEY before ComfyUI starts, or as the only line of

\`\`\`
ComfyUI/user/__segmind/segmind.key
\`\`\`

which must be closed to others (on Linux and macOS: chmod 600). **Never into a widget.**`;
}

const NO_FILES = `

## Files

None: nothing to download.`;

const REMOTE_SIZE = [400, 840];

function remoteNode({ pos, widgets = {}, photographs = [], from = {}, group }) {
  const sockets = Object.fromEntries(photographs.map((_, i) => [`images.image_${i + 1}`, [`image_${i + 1}`, "IMAGE"]]));
  return { id: "remote", type: "SegmindRemote", group, pos, size: REMOTE_SIZE, widgets: { seed: 42, ...widgets }, from: { ...sockets, ...from } };
}

function remotePicture(x, y, group) {
  return [
    { id: "remote_save", type: "SaveImage", title: "Picture from Segmind", group, pos: [x, y], size: [480, 540], widgets: { filename_prefix: "Klein9B_remote" }, from: { images: ["remote", "image"] } },
    { id: "receipt", type: "PreviewAny", title: "Receipt", group, pos: [x, y + 640], size: [480, 200], from: { source: ["remote", "receipt"] } },
  ];
}

function photographNodes(photographs, x, y, group) {
  return photographs.map((file, i) => ({ id: `image_${i + 1}`, type: "LoadImage", title: `Image ${i + 1}`, group, pos: [x, y + i * STEP], size: [370, 280], widgets: { image: file }, placeholder: { image: PLACEHOLDER } }));
}

function remote({ name, subject, photographs, widgets }) {
  const x = photographs.length ? 920 : 490;
  return {
    name,
    shown: photographs.length ? ["Images", "Segmind"] : ["Segmind", "Picture"],
    nodes: [
      { id: "note", type: "MarkdownNote", title: "Read me", pos: [0, 0], size: [410, 600], widgets: { "": remoteNote(subject + NO_FILES, photographs.length > 0) } },
      ...photographNodes(photographs, 490, 0, "Images"),
      remoteNode({ pos: [x, 0], widgets, photographs, group: "Segmind" }),
      ...remotePicture(x + 470, 0, "Picture"),
    ],
  };
}

// The same prompt, seed and images into both lanes: one text, one number, one set of photographs.
function sideBySide({ name, subject, files, photographs, prompt }) {
  const one = local({ ...DISTILLED, ...MATCH, name, subject, files, photographs, prompt });
  const down = 780;
  const words = [
    { id: "text", type: "PrimitiveStringMultiline", title: "Prompt, for both", group: "For both", pos: [470, 1270], size: [340, 180], widgets: { value: prompt } },
    { id: "number", type: "PrimitiveInt", title: "Seed, for both", group: "For both", pos: [470, 1090], size: [340, 90], widgets: { value: 42 } },
  ];
  const wired = one.nodes.map((node) => {
    if (node.id === "note") return { ...node, size: [410, 1200], widgets: { "": remoteNote(note(name, subject, files), true) } };
    if (node.id === "prompt") return { ...node, widgets: {}, from: { ...node.from, prompt: ["text", "STRING"] } };
    if (node.id === "noise") return { ...node, widgets: {}, from: { noise_seed: ["number", "INT"] } };
    if (node.id === "save") return { ...node, title: "Picture from your GPU" };
    return node;
  });
  const asked = { aspect_ratio: "match_input_image" };
  const from = { prompt: ["text", "STRING"], seed: ["number", "INT"] };
  return { name, shown: ["Words and images", "Segmind"], nodes: [...wired, ...words, remoteNode({ pos: [1720, down], widgets: asked, photographs, from, group: "Segmind" }), ...remotePicture(2190, down, "Segmind")] };
}

const EULER = { sampler: "euler" };
const DISTILLED = { steps: 4, cfg: 1, sampler: EULER };
const SIZE = { aspect_ratio: "1:1", megapixels: 1 };
const MATCH = { aspect_ratio: "match_input_image", megapixels: 1 };

const FOX = "A red fox standing in fresh snow at the edge of a birch forest, early morning light, its breath visible in the cold air, shallow depth of field, photograph";
const TWO_IMAGES = "Put the cup from image 2 into the hands of the woman in image 1. Keep her face, her suit and the light unchanged.";

// One task on one card.
const TASKS = [
  {
    ...SIZE, task: "text to image", photographs: [], prompt: FOX,
    subject: "# Text to image, distilled\n\n4 steps at cfg 1. Write the prompt, choose shape and size on *Klein 9B References*, press Run.",
  },
  {
    ...MATCH, task: "edit one image", photographs: ["image_1.png"],
    prompt: "Replace the background of image 1 with a quiet coastal cliff at overcast sunset. Keep the person, pose and light on the face unchanged.",
    subject: "# Edit one image\n\nChoose a photograph, say what to change, press Run. The picture comes back at the photograph's own size and lies exactly over it; Klein itself works at up to 2024 by 2024 pixels, so a larger photograph loses detail.",
  },
  {
    ...MATCH, task: "edit two images", photographs: ["image_1.png", "image_2.png"], prompt: TWO_IMAGES,
    subject: "# Edit with two images\n\nImage 1 is the photograph you edit, image 2 lends something. Call them *image 1* and *image 2* in the prompt and give each a role. The picture comes back at image 1's own size; Klein itself works at up to 1024 by 1024 pixels, so a larger photograph loses detail.",
  },
];

const GRAPH = { ".github/graph.jpg": undefined, "nodes/web/docs/img/klein9b_references.jpg": ["Words and images"] };

const ASIDES = {
  8: " nvfp4 is computed as it is on RTX 50 cards; older ones unpack each layer as it is used, which takes time and 0.3 GB. A GGUF file works too: put *Unet Loader (GGUF)* and *CLIPLoader (GGUF)*, type flux2, of the ComfyUI-GGUF pack and *Load VAE* in the loader's place; every other node stays.",
};

function onCards({ task, subject, ...rest }) {
  return Object.entries(CARDS).map(([gb, files]) => {
    const pictures = task === "edit two images" && gb === "16" ? GRAPH : undefined;
    return local({ ...DISTILLED, ...rest, name: `Klein 9B ${task} ${gb} GB`, subject: `${subject}\n\nFor a card with ${gb} GB.${ASIDES[gb] ?? ""}`, files, pictures });
  });
}

const FP8 = (name) => ({ ...CARDS[16], diffusion_model: name });

export const WORKFLOWS = [
  ...TASKS.flatMap(onCards),
  local({
    ...SIZE, name: "Klein 9B base text to image with res_2s", files: FP8("flux-2-klein-base-9b-fp8.safetensors"), photographs: [], steps: 20, cfg: 5, sampler: { sampler: "res_2s", "sampler.eta": 0, "sampler.final_step": "sigma_min" },
    subject: "# Text to image, base\n\n20 steps of res_2s at cfg 5: slower, more varied, and the negative prompt is read. res_2s calls the model twice a step and cfg doubles that; set the sampler to euler to halve the time.",
    prompt: FOX,
    negative: "low quality, blurry, less details",
  }),
  local({
    ...DISTILLED, name: "Klein 9B combine four images", files: CARDS[16], aspect_ratio: "4:3", megapixels: 1, photographs: ["image_1.png", "image_2.png", "image_3.png", "image_4.png"],
    subject: "# Combine four images\n\nA new picture in a shape of its own, from up to ten images; connect the last one and another socket appears. Every image costs time and memory.",
    prompt: "The woman from image 1 sits at a cafe table with the cup from image 2, the cat from image 3 on her lap, the rocket from image 4 seen through the window. One photograph, one light.",
  }),
  local({
    ...DISTILLED, ...MATCH, name: "Klein 9B KV edit two images", files: FP8("flux-2-klein-9b-kv-fp8.safetensors"), cached: true, photographs: ["image_1.png", "image_2.png"],
    subject: "# Edit with two images, references cached\n\nThe KV model computes its reference images once. *Klein 9B Reference Cache* keeps what was computed, so a new prompt or seed on the same images skips them altogether: the text under the node says what was saved.",
    prompt: TWO_IMAGES,
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
  sideBySide({
    name: "Klein 9B local and remote side by side", files: CARDS[16], photographs: ["image_1.png", "image_2.png"],
    subject: "# Local and remote, side by side\n\nOne prompt, one seed and the same two photographs go to your GPU and to Segmind at the same time. The hosted model has its own settings (20 steps at cfg 5), so the pictures are kin, not twins.\n\nThe seed stays as it is, so running again costs nothing; type another for new pictures.",
    prompt: TWO_IMAGES,
  }),
];

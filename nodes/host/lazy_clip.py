"""A CLIP whose weights are read when something is really encoded: what sees only its kept encodings never opens it."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...klein.file_identity import FileIdentity, file_identity
from ...klein.prompt import LAST_LAYER
from ...klein.safetensors_header import read_header
from .loaded_klein import LoadedKlein

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

# The host's own way to build an encoder other than its file says. The norm after the last of 36 layers would be taken
# after the 27th, whose state Klein reads without one; the head serves to write text.
SHORT = {
    "qwen3_8b_model_config": {"num_hidden_layers": LAST_LAYER, "final_norm": False, "lm_head": False},
}


class EncoderFile:
    """One Qwen3-8B file, opened at most once for a CLIP and all its clones.

    Attributes:
        identity: of the file that `short` reads or has read; `whole` may find a later one in its place.

    Args:
        load: loads the file with the model options it is given.
        tokenizer: makes the tokenizer, which needs no weights.
        dynamic: whether the host will read the weights from the file as it needs them.
    """

    def __init__(
        self, path: str, load: Callable[[dict[str, Any]], CLIP], tokenizer: Callable[[], Any], dynamic: bool
    ) -> None:
        self.path, self.dynamic = path, dynamic
        self.identity: FileIdentity = file_identity(path)
        self._load = load
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._template: str | None = None
        self._lock = threading.RLock()
        self._short: CLIP | None = None
        self._whole: CLIP | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderFile:
        """Unopened: what was changed in the weights is copied with the CLIP that has them."""
        twin = EncoderFile(self.path, self._load, self._make_tokenizer, self.dynamic)
        twin._tokenizer, twin._template = copy.deepcopy(self._tokenizer, memo), self._template
        return twin

    @property
    def tokenizer(self) -> Any:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
                self._template = template_of(self._tokenizer)
            return self._tokenizer

    @property
    def changed_template(self) -> str | None:
        """What somebody wrote in the place of the tokenizer's chat template; to ask makes no tokenizer."""
        template = template_of(self._tokenizer)
        return None if template == self._template else template

    def made(self, tokenizer: Any) -> bool:
        return tokenizer is self._tokenizer

    def opened(self, patcher: Any, model: Any) -> bool:
        """Whether they are what `short` read; to ask opens nothing."""
        short = self._short
        return short is not None and model is short.cond_stage_model and patcher.model is short.patcher.model

    def short(self) -> CLIP:
        """With the layers Klein reads and nothing behind them.

        Raises:
            UnreadableFile: it is no longer what Klein 9B Loader found.
        """
        with self._lock:
            if self._short is None:
                self._short = self._whole or self._open(SHORT)
            return self._short

    def whole(self) -> CLIP:
        """With all its layers, as stock loads it. Raises as `short`."""
        with self._lock:
            if self._whole is None:
                self._whole = self._open({})
            return self._whole

    def _open(self, options: dict[str, Any]) -> CLIP:
        read_header(self.path)
        identity = file_identity(self.path)
        loaded = self._load(options)
        if self._short is None:
            self.identity = identity
        return loaded


class LazyClip:
    """Stands before the host's CLIP class; `lazy_clip` puts it there. Whatever asks for weights opens the file.

    Writing text and saving need the whole encoder and get it.
    """

    layer_idx: int | None
    use_clip_schedule: bool
    tokenizer_options: dict[str, Any]
    apply_hooks_to_conds: Any

    def __init__(self, file: EncoderFile, loaded: LoadedKlein) -> None:
        super().__init__(no_init=True)  # type: ignore[call-arg]
        self.file, self.loaded_klein = file, loaded
        self.layer_idx, self.use_clip_schedule = None, False
        self.tokenizer_options, self.apply_hooks_to_conds = {}, None
        self._tokenizer: Any = None
        self._patcher: ModelPatcher | None = None
        self._model: Any = None

    @property
    def is_open(self) -> bool:
        """Whether this CLIP, and not only a clone of it, has weights."""
        return self._patcher is not None

    @property
    def is_of_its_file(self) -> bool:
        """Whether nobody put another model or tokenizer in the place of the file's; to ask opens nothing."""
        own_tokenizer = self._tokenizer is None or self.file.made(self._tokenizer)
        unopened = self._patcher is None and self._model is None
        return own_tokenizer and (unopened or self.file.opened(self.patcher, self.cond_stage_model))

    @property
    def is_where_it_was_loaded(self) -> bool:
        """Whether nobody moved it to a device of another kind than the host loads it on."""
        return self._patcher is None or _kind(self._patcher) == _kind(self.file.short().patcher)

    @property
    def patcher(self) -> Any:
        """The host looks at it after every node, so until it is used it is a stand-in."""
        return self._patcher if self._patcher is not None else _Unopened(self)

    @patcher.setter
    def patcher(self, patcher: Any) -> None:
        self._patcher = patcher.opened() if isinstance(patcher, _Unopened) else patcher

    @property
    def cond_stage_model(self) -> Any:
        return self._model if self._model is not None else self.opened().model

    @cond_stage_model.setter
    def cond_stage_model(self, model: Any) -> None:
        self._model = model

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer if self._tokenizer is not None else self.file.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def opened(self) -> ModelPatcher:
        """Its patcher, with which nobody else shares patches."""
        if self._patcher is None:
            base = self.file.short()
            self._patcher = base.patcher.clone()
            self._model = base.cond_stage_model if self._model is None else self._model
        return self._patcher

    def clone(self, disable_dynamic: bool = False) -> LazyClip:
        """Unopened where this one is; both then open the same file once."""
        twin = type(self)(self.file, self.loaded_klein)
        twin.layer_idx, twin.use_clip_schedule = self.layer_idx, self.use_clip_schedule
        twin.tokenizer_options = self.tokenizer_options.copy()
        twin.apply_hooks_to_conds = self.apply_hooks_to_conds
        twin._tokenizer = self._tokenizer
        if self._patcher is not None or disable_dynamic:
            twin._patcher = self.opened().clone(disable_dynamic=disable_dynamic)
        twin._model = self._model
        return twin

    def is_dynamic(self) -> bool:
        """Whether the host reads its weights as it needs them; asked of every node's outputs when RAM is short."""
        return self._patcher.is_dynamic() if self._patcher is not None else self.file.dynamic

    def generate(self, *args: Any, **options: Any) -> Any:
        return self._all_layers().generate(*args, **options)

    def get_sd(self) -> dict[str, Any]:
        return self._all_layers().get_sd()

    def state_dict_for_saving(self) -> dict[str, Any]:
        return self._all_layers().state_dict_for_saving()

    def _all_layers(self) -> CLIP:
        """The whole encoder with this CLIP's patches and options."""
        whole = self.file.whole().clone()
        whole.tokenizer, whole.layer_idx = self.tokenizer, self.layer_idx
        if self._patcher is not None:
            whole.patcher.patches = {name: list(patches) for name, patches in self._patcher.patches.items()}
            whole.patcher.patches_uuid = self._patcher.patches_uuid
        return whole


def template_of(tokenizer: Any) -> str | None:
    """The chat template it puts a prompt into, where it has one."""
    return getattr(tokenizer, "llama_template", None)


def _kind(patcher: ModelPatcher) -> str:
    return str(torch.device(patcher.load_device).type)


class _Unopened:
    """In the place of a CLIP's patcher: to pass it on opens nothing, to use it does."""

    def __init__(self, clip: LazyClip) -> None:
        self.__dict__["opened"] = clip.opened

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.opened(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.opened(), name, value)


def lazy_clip(path: str, embeddings: list[str], loaded: LoadedKlein) -> LazyClip:
    """A CLIP to the host. What the host lacks is told here already.

    Args:
        embeddings: the host's folders of textual embeddings.
    """
    import comfy.memory_management
    import comfy.sd
    import comfy.text_encoders.flux

    load, kind = comfy.sd.load_clip, comfy.sd.CLIPType.FLUX2
    make_tokenizer = comfy.text_encoders.flux.KleinTokenizer8B

    def read(options: dict[str, Any]) -> CLIP:
        return load([path], embedding_directory=embeddings, clip_type=kind, model_options=options)

    dynamic = comfy.memory_management.aimdo_enabled
    file = EncoderFile(path, read, lambda: make_tokenizer(embedding_directory=embeddings), dynamic)
    return _before(comfy.sd.CLIP)(file, loaded)


@functools.cache
def _before(clip: type) -> type[LazyClip]:
    return type("KleinClip", (LazyClip, clip), {})

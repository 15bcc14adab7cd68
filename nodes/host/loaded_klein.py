"""What Klein 9B Loader decided about a MODEL, kept on it for later nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...klein.file_set import KleinFiles
from ...klein.variant import Variant

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

_ATTACHMENT = "klein9b"


@dataclass(frozen=True)
class LoadedKlein:
    """The files a model came from, and which Klein 9B it is."""

    files: KleinFiles
    variant: Variant

    @property
    def summary(self) -> str:
        """For the person in front of the node."""
        model = self.files.diffusion_model
        return (
            f"Klein 9B {self.variant.name} ({self.variant.source})\n"
            f"{model.double_blocks} + {model.single_blocks} blocks, width {model.hidden}, {model.weights}\n"
            f"text encoder {self.files.text_encoder.weights}, {self.files.vae.name}"
        )

    def keep_on(self, model: ModelPatcher) -> None:
        """Its clones have it too."""
        model.set_attachments(_ATTACHMENT, self)


def loaded_klein_of(clip: CLIP) -> LoadedKlein | None:
    """None for a CLIP that another loader made."""
    kept: Any = getattr(clip, "loaded_klein", None)
    return kept if isinstance(kept, LoadedKlein) else None


def loaded_klein(model: ModelPatcher) -> LoadedKlein | None:
    """None for a model that another loader made."""
    kept: Any = model.get_attachment(_ATTACHMENT)
    return kept if isinstance(kept, LoadedKlein) else None

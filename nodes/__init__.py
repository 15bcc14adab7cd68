"""The pack's nodes, in the order a graph meets them."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .accelerate import Klein9BAccelerate
from .cast import Klein9BCast
from .edit_report import Klein9BEditReport
from .folder import Klein9BFolder
from .host.errors import name_plainly
from .host.text import speaking
from .inpaint import Klein9BInpaint
from .loader import Klein9BLoader
from .lora import Klein9BLora
from .negative import Klein9BNegative
from .plan import Klein9BPlan
from .quantize import Klein9BQuantize
from .reference_cache import Klein9BReferenceCache
from .reference_strength import Klein9BReferenceStrength
from .references import Klein9BReferences
from .restore import Klein9BRestore
from .sampler import Klein9BSampler
from .save_folder import Klein9BSaveFolder
from .scheduler import Klein9BScheduler
from .segmind_jobs import SegmindJobs
from .segmind_remote import SegmindRemote
from .switch import Klein9BSwitch
from .text_encode import Klein9BTextEncode
from .tiles import Klein9BTiles

name_plainly(__name__.rpartition(".")[0])

NODES = [
    speaking(node)
    for node in (
        Klein9BPlan,
        Klein9BQuantize,
        Klein9BLoader,
        Klein9BLora,
        Klein9BTextEncode,
        Klein9BCast,
        Klein9BFolder,
        Klein9BReferences,
        Klein9BInpaint,
        Klein9BReferenceStrength,
        Klein9BNegative,
        Klein9BReferenceCache,
        Klein9BAccelerate,
        Klein9BTiles,
        Klein9BScheduler,
        Klein9BSampler,
        Klein9BRestore,
        Klein9BEditReport,
        Klein9BSaveFolder,
        SegmindRemote,
        SegmindJobs,
        Klein9BSwitch,
    )
]


class Klein9BExtension(ComfyExtension):
    """FLUX.2 [klein] 9B, on the user's own GPU and on Segmind's queue."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> Klein9BExtension:
    return Klein9BExtension()

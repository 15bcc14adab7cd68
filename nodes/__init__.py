"""The pack's nodes, in the order a graph meets them."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .loader import Klein9BLoader
from .plan import Klein9BPlan
from .reference_cache import Klein9BReferenceCache
from .references import Klein9BReferences
from .restore import Klein9BRestore
from .sampler import Klein9BSampler
from .scheduler import Klein9BScheduler
from .segmind_jobs import SegmindJobs
from .segmind_remote import SegmindRemote
from .text_encode import Klein9BTextEncode


class Klein9BExtension(ComfyExtension):
    """FLUX.2 [klein] 9B, on the user's own GPU and on Segmind's queue."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            Klein9BPlan,
            Klein9BLoader,
            Klein9BTextEncode,
            Klein9BReferences,
            Klein9BReferenceCache,
            Klein9BScheduler,
            Klein9BSampler,
            Klein9BRestore,
            SegmindRemote,
            SegmindJobs,
        ]


async def comfy_entrypoint() -> Klein9BExtension:
    return Klein9BExtension()

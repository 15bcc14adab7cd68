"""Every error that a node can end with is named without the folder it is from."""

import importlib
import pkgutil
import sys

import pytest

pytestmark = pytest.mark.host

CAUGHT = {  # within remote/, by those who make sentences of them
    "klein9b.remote.client.TooLargeError",
    "klein9b.remote.drive.GoneError",
    "klein9b.remote.network.NotPublic",
}


def below(error):
    return {one for sub in error.__subclasses__() for one in (sub, *below(sub))}


def test_every_error_of_the_pack_is_named_by_its_class_alone(comfy_host):
    import klein9b.nodes
    from klein9b.klein.file_set import WrongFile
    from klein9b.remote.errors import MissingKey, SegmindError

    for module in pkgutil.walk_packages(klein9b.__path__, "klein9b."):
        if module.name.split(".")[1] in ("klein", "nodes", "remote", "kernels") and ".triton" not in module.name:
            importlib.import_module(module.name)
    named = {f"{one.__module__}.{one.__qualname__}" for one in below(Exception) if _of_the_pack(one)}
    assert named <= CAUGHT
    assert WrongFile.__module__ == SegmindError.__module__ == "builtins"
    assert issubclass(MissingKey, SegmindError) and klein9b.nodes.NODES


def _of_the_pack(error):
    return sys.modules.get(error.__module__) is not None and error.__module__.startswith("klein9b.")


def test_the_host_then_prints_no_path(comfy_host):
    import execution

    from klein9b.klein.framing import UnusableImage

    assert execution.full_type_name(UnusableImage) == "UnusableImage"
    with pytest.raises(ValueError, match="a picture"):
        raise UnusableImage("a picture")

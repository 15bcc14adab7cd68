"""A host in which an inner name is another, as one pack sees it; the host itself, which would use the new one, runs on.

Who asks is read from the calling frame, so `import`, attributes and getattr of the pack all miss the name.
"""

import importlib
import sys
from types import ModuleType


def rename(dotted, pack):
    """Takes a name of a module or class from the modules of `pack`. Returns what gives it back."""
    *path, name = dotted.split(".")
    owner = _resolve(path)
    return (_rename_in_module if isinstance(owner, ModuleType) else _rename_in_class)(owner, name, pack)


def _resolve(path):
    for length in range(len(path), 0, -1):
        try:
            thing = importlib.import_module(".".join(path[:length]))
        except ModuleNotFoundError:
            continue
        for name in path[length:]:
            thing = getattr(thing, name)
        return thing
    raise ModuleNotFoundError(".".join(path))


def _asked_by(pack):
    return sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] == pack


def _rename_in_module(module, name, pack):
    getattr(module, name)
    kind = type(module)

    class Renamed(kind):
        def __getattribute__(self, asked):
            if asked == name and _asked_by(pack):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=module)
            return super().__getattribute__(asked)

    module.__class__ = Renamed
    return lambda: setattr(module, "__class__", kind)


def _rename_in_class(owner, name, pack):
    real = vars(owner)[name]

    class Renamed:
        def __get__(self, thing, kind=None):
            if _asked_by(pack):
                raise AttributeError(f"{owner.__name__!r} has no attribute {name!r}", name=name, obj=thing or owner)
            return real.__get__(thing, kind) if hasattr(type(real), "__get__") else real

    # An Enum keeps its members twice, and refuses to have them set but for type's own setter.
    members = getattr(owner, "_member_map_", {})
    member = members.pop(name, None)

    def give_back():
        type.__setattr__(owner, name, real)
        members.update({name: member} if member is not None else {})

    type.__setattr__(owner, name, Renamed())
    return give_back

"""A model behind our acceleration that counts and reports, and its pictures beside the host's."""

from dataclasses import fields, replace

from host.edits import edit, reference, relative

TOLERANCE = 1e-5


def eager():
    from klein9b.nodes.host.block_functions import eager_ops

    return eager_ops()


class Counted:
    """The eager ops, each call counted."""

    def __init__(self, **ops):
        self.calls = {}
        self.other = ops

    def __call__(self, like):
        ops = replace(eager(), **self.other)
        names = [one.name for one in fields(ops) if one.name not in ("int8", "fp8")]
        return replace(ops, **{name: self.counting(name, getattr(ops, name)) for name in names})

    def counting(self, name, op):
        def call(*args, **kwargs):
            self.calls[name] = self.calls.get(name, 0) + 1
            return op(*args, **kwargs)

        return call


class Accelerated:
    """A model behind an acceleration, and what that saw."""

    def __init__(self, model, **ops):
        from klein9b.nodes.host.acceleration import Acceleration, accelerated

        self.ops, self.reports = Counted(**ops), []
        self.model = accelerated(model, Acceleration(self.ops, "test", self.reports.append))

    @property
    def left(self):
        return self.reports[-1].left


def refs(count=2):
    return [reference(seed) for seed in range(count)]


def is_stock(model, ours, count=0, tolerance=TOLERANCE, **variation):
    got, wanted = (edit(one, refs(count), **variation) for one in (ours.model, model))
    assert relative(got, wanted) < tolerance
    return got

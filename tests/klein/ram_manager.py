"""Somebody who grants RAM and pins, and keeps count."""

from klein9b.klein.ram import Ram


class Manager:
    """Grants so many pins, and so many bytes of RAM beyond what is taken, or up to a capacity of what is pinned."""

    def __init__(self, pins=10**6, room=2**60):
        self.pins, self.room, self.capacity = pins, room, 2**61
        self.pinned = {}
        self.ram = Ram(self._pin, self._unpin, lambda: min(self.room, self.capacity - self.bytes))

    def _pin(self, tensor):
        if len(self.pinned) >= self.pins:
            return False
        self.pinned[tensor.data_ptr()] = tensor.nbytes
        return True

    def _unpin(self, tensor):
        assert self.pinned.pop(tensor.data_ptr()) == tensor.nbytes

    @property
    def bytes(self):
        return sum(self.pinned.values())

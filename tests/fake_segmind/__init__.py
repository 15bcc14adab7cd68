"""A faithful Segmind on loopback, for tests and for the demo. Needs the standard library and Pillow."""

from .faults import Delivery, Fault, flapping, reset_header
from .jobs import PRICE, Behaviour, Charge, Clock, Job, Shape, body_key
from .plan import ROLES, ROUTES
from .recorded import RecordedRequest
from .routes import INVALID_KEY, MISSING_KEY
from .server import FakeSegmind
from .service import ASPECT_RATIOS, MODERATED_WORD
from .settings import SLUG, Settings

__all__ = [
    "ASPECT_RATIOS",
    "INVALID_KEY",
    "MISSING_KEY",
    "MODERATED_WORD",
    "PRICE",
    "ROLES",
    "ROUTES",
    "SLUG",
    "Behaviour",
    "Charge",
    "Clock",
    "Delivery",
    "FakeSegmind",
    "Fault",
    "Job",
    "RecordedRequest",
    "Settings",
    "Shape",
    "body_key",
    "flapping",
    "reset_header",
]

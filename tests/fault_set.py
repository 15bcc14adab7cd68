"""What can go wrong on the way to Segmind and back, as lists of faults of the fake."""

from fake_segmind import Fault, flapping

WIRE = [
    Fault.reset_before_body(),
    Fault.reset_after_request(),
    Fault.close_after_request(),
    *(Fault.reset_at(k) for k in (1, 9, 40, 120)),
    *(Fault.close_at(k) for k in (1, 9, 40, 120)),
    Fault.close_after_reply(),
    Fault.stall_headers(),
    Fault.stall_body(),
    Fault.trickle(20),
    Fault.truncated_json(),
    Fault.truncated_json(keep=1),
    Fault.empty_body(),
    Fault.wrong_length(-20),
    Fault.wrong_length(20),
    Fault.chunked_garbage(),
    Fault.gzip_bomb(80),
    Fault.raw("garbage\r\n\r\n"),
    Fault.raw(b""),
]
GATEWAY = [
    *flapping(3),
    Fault.server_error(),
    Fault.error("busy", 503),
    Fault.html(408),
    Fault.error("too early", 425),
    Fault.rate_limited(0.1),
    Fault.rate_limited(0.1, reset="epoch_ms"),
    Fault.rate_limited(0.1, reset=None, retry_after="1"),
]
REDIRECTS = [*(Fault.redirect(status=status) for status in (301, 302, 307)), Fault.redirect_to_file()]
PARTIAL = [Fault.html(504, effect=True), Fault.server_error(effect=True), Fault.html(408, effect=True)]
SHAPES = [
    Fault.respond(200, []),
    Fault.respond(200, "QUEUED"),
    Fault.respond(200, {"request_id": "../../v1/get-user-credits"}),
    Fault.respond(200, {"request_id": 7}),
    Fault.respond(200, {"status": None}),
    Fault.respond(204, {}),
]


def name(fault):
    parts = (fault.delivery.cut, fault.delivery.reset, fault.effect)
    return "-".join([fault.name, *map(str, parts)])

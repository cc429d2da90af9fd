"""A stand-in for a nnInteractive server: it speaks the documented protocol, and its "network" is a threshold."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from scipy import ndimage


def grown(image, click, threshold):
    """What the stand-in's network says: what is bright and hangs together with the click."""
    parts, _ = ndimage.label(image[0] > threshold)
    return (parts == parts[tuple(click)]) & (parts > 0)


class StandIn(BaseHTTPRequestHandler):
    """The requests of SERVER_CLIENT.md that a click needs; one lease, no key."""

    def log_message(self, *arguments):
        pass

    def answer(self, body=b"", meta=None, status=200):
        self.send_response(status)
        if meta is not None:
            self.send_header("X-Meta", json.dumps(meta))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        known = {
            "supported_interactions": {"points": True}, "channel_mapping": {}, "num_interaction_channels": 7,
            "supports_initial_label": False, "supports_zero_shot_label_refinement": False,
            "preferred_scribble_thickness": 2, "interaction_decay": 0.9, "inference_session_version": 2,
        }  # fmt: skip
        self.answer(json.dumps(known).encode())

    def do_POST(self):
        from nnInteractive.inference.remote.serialization import pack_array, unpack_array

        state = self.server.state
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state["asked"].append(self.path)
        if self.path == "/claim":
            return self.answer(json.dumps({"lease_token": "t1"}).encode())
        if self.headers.get("X-Lease-Token") != "t1":
            return self.answer(b'{"detail": "no lease"}', status=410)
        if self.path == "/set_image":
            state["image"] = unpack_array(body)
            return self.answer(json.dumps({"original_image_shape": list(state["image"].shape)}).encode())
        if self.path == "/add_point_interaction":
            mask = grown(state["image"], json.loads(body)["coordinates"], state["threshold"])
            if not mask.any():
                return self.answer(meta={"ran_prediction": True, "bbox": None})
            box = [[int(part.min()), int(part.max()) + 1] for part in np.nonzero(mask)]
            piece = mask[tuple(slice(low, high) for low, high in box)].astype(np.uint8)
            return self.answer(pack_array(piece), {"ran_prediction": True, "bbox": box})
        return self.answer(b"{}")


@contextmanager
def serving(threshold):
    """(address, paths that were asked for) while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.state = {"asked": [], "threshold": threshold}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.state["asked"]
    finally:
        server.shutdown()
        server.server_close()

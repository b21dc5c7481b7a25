#!/usr/bin/python3
"""Describes several cameras with one model: a pipeline for each, started again whenever it ends.

    cameras.py [PROPERTY=VALUE…] NAME=URI…

for instance `cameras.py model=Qwen/Qwen3-VL-2B-Instruct gate=rtsp://gate/stream yard=rtsp://yard/stream`. What has `://`
in its value is a camera, anything else a property of every `qwenvl`. Prints a line of JSON for every window
(docs/messages.md); `stream-id` is the camera's NAME. Needs what describe.py needs.
"""

import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

# Seconds until a camera that has gone is tried again.
PAUSE = 5


class Camera:
    """A camera that is never given up."""

    def __init__(self, name, uri, properties):
        self.name, self.uri, self.properties = name, uri, properties

    def start(self):
        # A pipeline of its own, so that an error stops no other camera. A new one each time, because
        # parse_launch() links what comes out of uridecodebin once only.
        self.pipeline = Gst.parse_launch("uridecodebin name=video ! qwenvl name=q ! fakesink")
        self.pipeline.get_by_name("video").set_property("uri", self.uri)
        for key, value in [*self.properties, ("stream-id", self.name)]:
            Gst.util_set_object_arg(self.pipeline.get_by_name("q"), key, value)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::element", self.on_element)
        bus.connect("message::error", lambda _, message: self.again(message.parse_error()[0].message))
        bus.connect("message::eos", lambda *_: self.again("it has ended"))
        # If this fails, the bus knows why.
        self.pipeline.set_state(Gst.State.PLAYING)
        return GLib.SOURCE_REMOVE

    def on_element(self, _, message):
        structure = message.get_structure()
        if structure.has_name("qwenvl/description") or structure.has_name("qwenvl/dropped"):
            print(structure.get_string("json-message"), flush=True)

    def again(self, why):
        print(f"{self.name}: {why}; again in {PAUSE} s", file=sys.stderr)
        # After this no other message comes: of several errors the first counts.
        self.pipeline.get_bus().remove_signal_watch()
        # The engine stays loaded while another camera uses it.
        self.pipeline.set_state(Gst.State.NULL)
        GLib.timeout_add_seconds(PAUSE, self.start)


def main(arguments):
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return None
    pairs = [argument.partition("=")[::2] for argument in arguments]
    cameras = [pair for pair in pairs if "://" in pair[1]]
    if not cameras:
        return "usage: cameras.py [PROPERTY=VALUE…] NAME=URI…"
    # Ctrl+C ends the program although it waits inside GStreamer, and so does a reader that goes away.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Gst.init(None)
    properties = [pair for pair in pairs if "://" not in pair[1]]
    try:
        for name, uri in cameras:
            Camera(name, uri, properties).start()
    except GLib.Error as error:
        return f"Error: {error.message}"
    GLib.MainLoop().run()
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/python3
"""Prints a line of JSON for every window of a video that `qwenvl` describes: docs/messages.md says what is in it.

    json_lines.py FILE-or-URI [PROPERTY=VALUE…]

for instance `json_lines.py media/film.mp4 fps=1/1 prompt="Is the road empty?"`. Needs what describe.py needs.
"""

import json
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


def main(arguments):
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return None
    if not arguments:
        return "usage: json_lines.py FILE-or-URI [PROPERTY=VALUE…]"
    # Ctrl+C ends the program, and so does a reader that goes away, as in `json_lines.py FILE | head`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Gst.init(None)
    try:
        video = arguments[0] if "://" in arguments[0] else Gst.filename_to_uri(arguments[0])
        pipeline = Gst.parse_launch("uridecodebin name=video ! qwenvl name=describe ! fakesink")
    except GLib.Error as error:
        return f"Error: {error.message}"
    pipeline.get_by_name("video").set_property("uri", video)
    for argument in arguments[1:]:
        name, _, value = argument.partition("=")
        # From text, as gst-launch-1.0 does it: set_property() finds no Python type for the fraction `fps`.
        Gst.util_set_object_arg(pipeline.get_by_name("describe"), name, value)

    pipeline.set_state(Gst.State.PLAYING)
    error = watch(pipeline.get_bus())
    pipeline.set_state(Gst.State.NULL)
    return error


def watch(bus):
    """Reads the bus to the end of the stream or the first error, which it gives back."""
    wanted = Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.ELEMENT
    while True:
        message = bus.timed_pop_filtered(Gst.CLOCK_TIME_NONE, wanted)
        if message.type == Gst.MessageType.EOS:
            return None
        if message.type == Gst.MessageType.ERROR:
            return f"Error: {message.parse_error()[0].message}"
        structure = message.get_structure()
        if structure.has_name("qwenvl/description") or structure.has_name("qwenvl/dropped"):
            # Arrays (`frame-pts`, `grid`) cannot be read by get_value() here; in json-message they are lists.
            fields = json.loads(structure.get_string("json-message"))
            print(json.dumps(fields, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

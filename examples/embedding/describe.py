#!/usr/bin/python3
"""Prints what `qwenvl` says about a video, from its bus messages or, with --signal, from its signal.

The same program in Rust and C lies next to it. Needs python3-gi and gir1.2-gstreamer-1.0 (Debian, Ubuntu) and
finds the plugin by GST_PLUGIN_PATH:

    describe.py [--signal] FILE-or-URI [MODEL]
"""

import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


def main(arguments):
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return None
    by_signal = arguments[:1] == ["--signal"]
    arguments = arguments[by_signal:]
    if len(arguments) not in (1, 2):
        return "usage: describe.py [--signal] FILE-or-URI [MODEL]"
    # Ctrl+C ends the program although it waits inside GStreamer, and so does a reader that goes away.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Gst.init(None)
    try:
        video = arguments[0] if "://" in arguments[0] else Gst.filename_to_uri(arguments[0])
        pipeline = Gst.parse_launch("uridecodebin name=video ! qwenvl name=describe ! fakesink")
    except GLib.Error as error:
        return f"Error: {error.message}"
    qwenvl = pipeline.get_by_name("describe")
    pipeline.get_by_name("video").set_property("uri", video)
    qwenvl.set_property("model", arguments[1] if len(arguments) == 2 else "demo")
    if by_signal:
        # Comes in a thread of the element, which waits until this returns.
        qwenvl.connect("description", lambda _, description: show(description))

    # If this fails, the bus knows why.
    pipeline.set_state(Gst.State.PLAYING)
    error = watch(pipeline.get_bus(), not by_signal)
    pipeline.set_state(Gst.State.NULL)
    return error


def watch(bus, by_message):
    """Reads the bus to the end of the stream or the first error, which it gives back."""
    wanted = Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.ELEMENT
    while True:
        message = bus.timed_pop_filtered(Gst.CLOCK_TIME_NONE, wanted)
        if message.type == Gst.MessageType.EOS:
            return None
        if message.type == Gst.MessageType.ERROR:
            return f"Error: {message.parse_error()[0].message}"
        structure = message.get_structure()
        if by_message and structure.has_name("qwenvl/description"):
            show(structure)


def show(description):
    start, end = (description.get_uint64(f"{name}-running-time")[1] / 1e9 for name in ("start", "end"))
    print(f"{start:.1f} - {end:.1f} s: {description.get_string('text')}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

/* Prints what `qwenvl` says about a video, from its bus messages or, with --signal, from its signal.
 * The same program in Rust and Python lies next to it. Finds the plugin by GST_PLUGIN_PATH.
 *
 *     cc -Wall -Wextra -Werror describe.c -o describe $(pkg-config --cflags --libs gstreamer-1.0)
 *     ./describe [--signal] FILE-or-URI [MODEL]
 */

#include <gst/gst.h>
#include <string.h>

#define USAGE "usage: describe [--signal] FILE-or-URI [MODEL]\n"

static void
show (const GstStructure * description)
{
  guint64 start = 0, end = 0;

  gst_structure_get_uint64 (description, "start-running-time", &start);
  gst_structure_get_uint64 (description, "end-running-time", &end);
  g_print ("%.1f - %.1f s: %s\n", start / 1e9, end / 1e9,
      gst_structure_get_string (description, "text"));
}

/* Comes in a thread of the element, which waits until this returns. */
static void
on_description (GstElement * qwenvl, GstStructure * description, gpointer user_data)
{
  (void) qwenvl;
  (void) user_data;
  show (description);
}

/* Reads the bus to the end of the stream or the first error, which it gives back. */
static GError *
watch (GstBus * bus, gboolean by_message)
{
  GError *error = NULL;
  gboolean ended = FALSE;

  while (!ended) {
    GstMessage *message = gst_bus_timed_pop_filtered (bus, GST_CLOCK_TIME_NONE,
        GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_ELEMENT);

    if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR)
      gst_message_parse_error (message, &error, NULL);
    else if (by_message && gst_message_has_name (message, "qwenvl/description"))
      show (gst_message_get_structure (message));
    ended = GST_MESSAGE_TYPE (message) != GST_MESSAGE_ELEMENT;
    gst_message_unref (message);
  }
  return error;
}

static GError *
describe (GstElement * pipeline, const gchar * uri, const gchar * model, gboolean by_signal)
{
  GstElement *source = gst_bin_get_by_name (GST_BIN (pipeline), "video");
  GstElement *qwenvl = gst_bin_get_by_name (GST_BIN (pipeline), "describe");
  GstBus *bus = gst_element_get_bus (pipeline);
  GError *error;

  g_object_set (source, "uri", uri, NULL);
  g_object_set (qwenvl, "model", model, NULL);
  if (by_signal)
    g_signal_connect (qwenvl, "description", G_CALLBACK (on_description), NULL);

  /* If this fails, the bus knows why. */
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  error = watch (bus, !by_signal);
  gst_element_set_state (pipeline, GST_STATE_NULL);

  gst_object_unref (bus);
  gst_object_unref (qwenvl);
  gst_object_unref (source);
  return error;
}

int
main (int argc, char **argv)
{
  gboolean by_signal = argc > 1 && strcmp (argv[1], "--signal") == 0;
  char **arguments = argv + 1 + by_signal;
  int count = argc - 1 - by_signal;
  GstElement *pipeline = NULL;
  GError *error = NULL;
  gchar *uri;

  if (count == 1 && strcmp (arguments[0], "--help") == 0) {
    g_print ("%s", USAGE);
    return 0;
  }
  if (count != 1 && count != 2) {
    g_printerr ("%s", USAGE);
    return 1;
  }
  gst_init (NULL, NULL);
  uri = strstr (arguments[0], "://") ? g_strdup (arguments[0])
      : gst_filename_to_uri (arguments[0], &error);
  if (!error)
    pipeline = gst_parse_launch ("uridecodebin name=video ! qwenvl name=describe ! fakesink", &error);
  if (!error)
    error = describe (pipeline, uri, count == 2 ? arguments[1] : "demo", by_signal);

  g_clear_object (&pipeline);
  g_free (uri);
  if (error) {
    g_printerr ("Error: %s\n", error->message);
    g_error_free (error);
    return 1;
  }
  return 0;
}

#!/usr/bin/env bash
# Runs the programs of examples/embedding on the film: in Rust, Python and C, by message and by signal, all print
# what is true of its scenes. Each also ends well where there is nothing to describe. scripts/test has built the
# plugin and the example in Rust before.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
use_plugin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# By the command in the file's head, as a reader would.
command=$(sed -n 's/^ \* *\(cc .*\)$/\1/p' examples/embedding/describe.c)
cp examples/embedding/describe.c "$work/"
(cd "$work" && eval "$command")

# Debian's own, because its GObject bindings are a Debian package.
python=(/usr/bin/python3 examples/embedding/describe.py)

"${python[0]}" - >"$work/truth" <<'END'
import json

for scene in json.load(open("media/film.json")):
    print("{start:.1f} - {end:.1f} s: {describe}".format(**scene))
END

# check NAME COMMAND…: one of the programs.
check() {
    local name=$1 way
    shift
    for way in '' --signal; do
        G_DEBUG=fatal-criticals timeout 60 "$@" $way media/film.mp4 >"$work/said"
        diff "$work/truth" "$work/said"
        # The same by a URI and from a folder.
        G_DEBUG=fatal-criticals timeout 60 "$@" $way "file://$PWD/media/clips/clip00.mp4" "$PWD/models/demo" >"$work/said"
        [ "$(wc -l <"$work/said")" = 1 ]
        # An error in place of a description, once, and no crash.
        local status=0
        timeout 60 "$@" $way missing.mp4 >"$work/said" 2>"$work/error" || status=$?
        [ "$status" = 1 ]
        [ -z "$(<"$work/said")" ]
        [ "$(grep -c '^Error: ' "$work/error")" = 1 ]
        echo "$name${way:+ $way}: as it should be"
    done
}

check Rust "$BUILD/examples/describe"
check Python "${python[@]}"
check C "$work/describe"

# JSON from Python: a fraction is set, arrays are lists, and an independent validator accepts the messages.
/usr/bin/python3 examples/embedding/json_lines.py media/film.mp4 fps=1/1 >"$work/json"
/usr/bin/python3 examples/embedding/json_lines.py media/film.mp4 fps=1/1 kv-memory=1 >>"$work/json"
/usr/bin/python3 - "$work/json" <<'END'
import json
import sys

import jsonschema

schema = jsonschema.Draft202012Validator(json.load(open("docs/messages.schema.json")))
schema.check_schema(schema.schema)
scenes = json.load(open("media/film.json"))
messages = [json.loads(line) for line in open(sys.argv[1])]
assert len(messages) == 2 * len(scenes)
for message in messages:
    schema.validate(message)
described, dropped = messages[: len(scenes)], messages[len(scenes) :]
for message in described:
    seconds = [time // 10**9 for time in message["frame-pts"]]
    start = message["start-pts"] // 10**9
    assert seconds == [start, start + 1, start + 2, start + 3], seconds
    assert message["text"], message
assert all(message["reason"] == "error" for message in dropped)
END
echo 'JSON in Python: as it should be'

# A camera that ends is started again, and a missing one stops no other.
truth=$(jq -r '.[].describe' media/film.json)
# It ends at its 21st line, because head has ended.
timeout 60 examples/embedding/cameras.py prompt='Describe the traffic.' film="file://$PWD/media/film.mp4" \
    gone=file:///missing.mp4 2>"$work/error" | head -n 20 >"$work/json" || [ $? = 141 ]
diff <(jq -r '[."stream-id", .text] | join(": ")' "$work/json") <(sed 's/^/film: /' <<<"$truth"$'\n'"$truth")
grep -q '^film: it has ended; again' "$work/error"
grep -q '^gone: Resource not found' "$work/error"
echo 'Cameras in Python: as it should be'

for program in "$BUILD"/examples/{describe,readable,rtsp-server,soak,engine} "$work/describe" examples/embedding/*.py; do
    "$program" --help >"$work/help" </dev/null
    [ -s "$work/help" ] || { echo "$program --help says nothing" >&2; exit 1; }
done
# A reader that goes away ends them without a complaint.
for program in examples/embedding/describe.py examples/embedding/json_lines.py; do
    "$program" media/film.mp4 2>"$work/error" | head -n 1 >/dev/null || true
    [ ! -s "$work/error" ] || { cat "$work/error" >&2; exit 1; }
done
echo 'Help and closed pipes: as they should be'

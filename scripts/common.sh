# Sourced by the scripts before anything else: source "$(dirname "$0")/common.sh"

# A script that fails prints the line and the command, also if the command prints nothing (needs set -E).
explain_failures() {
    trap 'status=$?; echo "$0, line $LINENO: \"$BASH_COMMAND\" ended with $status" >&2' ERR
}
explain_failures

# show_help ARGUMENT…: with --help, prints the comment at the head of the script and ends it.
show_help() {
    case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
}

# die TEXT: prints what is wrong and what to do, and ends the script.
die() {
    echo "$0: $1" >&2
    exit 1
}

# Packages to build and run the plugin on Debian 12+ and Ubuntu 22.04+.
PACKAGES=(build-essential pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav
    gstreamer1.0-x fonts-dejavu-core)
# Further packages for its tests: the examples in Python, frames in GL memory, recipes of the cookbook.
TEST_PACKAGES=(python3-gi gir1.2-gstreamer-1.0 python3-jsonschema gstreamer1.0-gl jq curl mosquitto mosquitto-clients)

# Cargo puts its files here; tools and data of the scripts go to target/ in any case.
BUILD=${CARGO_TARGET_DIR:-target}/release

# Installs those of the given Debian packages that are missing.
install_packages() {
    local missing=() package root=()
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || root=(sudo)
    echo "Installing by apt: ${missing[*]}"
    "${root[@]}" apt-get update -qq </dev/null
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
}

need_rust() {
    command -v cargo >/dev/null || die 'no cargo: install Rust 1.92 or newer, for instance by https://rustup.rs'
}

# debian_mirror [FOLDER]: the Debian mirror in apt's lists (FOLDER: /etc/apt), whichever of their two formats they have.
debian_mirror() {
    local folder=${1:-/etc/apt} file lists=() mirror=
    for file in "$folder"/sources.list.d/debian.sources "$folder"/sources.list "$folder"/sources.list.d/*; do
        if [ -f "$file" ]; then lists+=("$file"); fi
    done
    if [ ${#lists[@]} -gt 0 ]; then
        mirror=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] *)?([^ ]+).*/\2/p' "${lists[@]}" |
            grep -m 1 -E '^https?://.*/debian/?$') || true
    fi
    echo "${mirror:-http://deb.debian.org/debian}"
}

# Puts the plugin alone into a folder, because GStreamer loads every library in a folder of plugins.
use_plugin() {
    mkdir -p target/gst
    install "$BUILD/libgstqwenvl.so" target/gst/
    export GST_PLUGIN_PATH=$PWD/target/gst
}

# Sourced by scripts/demo and scripts/test, in the repository's root.

# What building and running the plugin needs on Debian 12+ and Ubuntu 22.04+.
PACKAGES=(build-essential pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav
    gstreamer1.0-x fonts-dejavu-core)

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
    command -v cargo >/dev/null || {
        echo "No cargo: install Rust 1.92 or newer, for instance by https://rustup.rs" >&2
        exit 1
    }
}

# Puts the plugin alone into a folder: GStreamer would look at every library in Cargo's.
use_plugin() {
    mkdir -p target/gst
    install "$BUILD/libgstqwenvl.so" target/gst/
    export GST_PLUGIN_PATH=$PWD/target/gst
}

# The Rust toolchain: finds a way that works and writes it to build/toolchain.mk for the Makefile.
#
#   rustup  the active toolchain, with the prebuilt core and alloc of the target
#   debian  Debian's packages, which have no prebuilt core for it: cargo builds core and alloc from rust-src

TARGET=aarch64-unknown-none-softfloat
# What the crates in Cargo.lock ask for (dtoolkit, arm-pl011-uart).
RUST_OLDEST=1.88

setup_toolchain() {
    local ways=(rustup debian)
    # A choice made before is tried first, so that a second run does not rebuild the world with another compiler.
    if [ -n "${TOOLCHAIN:-}" ]; then
        ways=("$TOOLCHAIN")
    elif grep -q '^TOOLCHAIN_WAY := debian' "$BUILD/toolchain.mk" 2>/dev/null; then
        ways=(debian rustup)
    fi
    local way
    for way in "${ways[@]}"; do
        case $way in
        rustup | debian) "toolchain_$way" && return ;;
        *) say "TOOLCHAIN=$way: only rustup and debian are known" && exit 2 ;;
        esac
    done
    lacks "Rust $RUST_OLDEST or newer with the target $TARGET" \
        "rustup toolchain install stable && rustup target add $TARGET"
}

# write_toolchain LINE…: records the choice. The file is left alone where it says so already.
write_toolchain() {
    local objcopy new=$BUILD/toolchain.mk.new
    objcopy=$(find_objcopy) || objcopy=aarch64-linux-gnu-objcopy
    {
        echo "# Written by make setup; make setup TOOLCHAIN=rustup or TOOLCHAIN=debian chooses anew."
        printf '%s\n' "$@"
        echo "OBJCOPY := $objcopy"
    } >"$new"
    if cmp -s "$new" "$BUILD/toolchain.mk"; then
        rm "$new"
    else
        mv "$new" "$BUILD/toolchain.mk"
    fi
}

rust_version() {
    "$@" --version 2>/dev/null | sed -n 's/^[a-z]* \([0-9.]*\).*/\1/p'
}

toolchain_rustup() {
    have rustup || return 1
    local name version
    name=$(rustup show active-toolchain 2>/dev/null | sed 's/ .*//;1q')
    [ -n "$name" ] || return 1
    version=$(rust_version rustup run "$name" rustc)
    if ! version_at_least "$version" "$RUST_OLDEST"; then
        say "rustup's toolchain $name is Rust $version, older than $RUST_OLDEST"
        return 1
    fi
    if ! rustup target list --toolchain "$name" --installed | grep -qx "$TARGET"; then
        say "rustup target add $TARGET"
        timeout 300 rustup target add --toolchain "$name" "$TARGET" >/dev/null 2>&1 || {
            say "rustup could not add the target"
            return 1
        }
    fi
    local component
    for component in clippy rustfmt; do
        rustup run "$name" "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 ||
            timeout 300 rustup component add --toolchain "$name" "$component" >/dev/null 2>&1 ||
            lacks "$component" "rustup component add $component"
    done
    say "Rust $version of rustup ($name), with its prebuilt core for $TARGET"
    write_toolchain \
        "TOOLCHAIN_WAY := rustup" \
        "CARGO := $(dirname "$(command -v rustup)")/cargo" \
        "export RUSTUP_TOOLCHAIN := $name" \
        "BUILD_STD :=" \
        "IMAGE_ENV :="
}

# Debian has the compiler under two names: `rustc`, which is as old as the release, and `rustc-web`, which follows what
# web browsers need and is the newer one of the two. Where the machine's own sources have neither new enough, the
# release's security updates (Debian 12) or backports have.
toolchain_debian() {
    is_debian || return 1
    local version
    version=$(debian_rust_version)
    if ! version_at_least "$version" "$RUST_OLDEST" || [ -n "$(debian_rust_missing)" ]; then
        if ! can_be_root; then
            lacks "Rust $RUST_OLDEST or newer (on Debian 12, of its security updates)" \
                "sudo apt-get install --no-install-recommends $(debian_rust_packages -web) lld"
            return 0
        fi
        install_debian_rust || return 1
        version=$(debian_rust_version)
        version_at_least "$version" "$RUST_OLDEST" || return 1
    fi
    say "Rust $version of Debian, core for $TARGET built from its source"
    # Debian's directory goes first in PATH, so that cargo's subcommands (fmt, clippy) are those of this toolchain.
    write_toolchain \
        "TOOLCHAIN_WAY := debian" \
        "CARGO := /usr/bin/cargo" \
        "export RUSTC := /usr/bin/rustc" \
        "export RUSTDOC := /usr/bin/rustdoc" \
        "export PATH := /usr/bin:\$(PATH)" \
        "BUILD_STD := -Zbuild-std=core,alloc,compiler_builtins" \
        "IMAGE_ENV := RUSTC_BOOTSTRAP=1 CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER=ld.lld"
}

# The version of the compiler that is a Debian package; empty where there is none.
debian_rust_version() {
    if installed rustc-web || installed rustc; then
        rust_version /usr/bin/rustc
    fi
}

# Prints the parts of the installed toolchain that are not there.
debian_rust_missing() {
    local package suffix=
    installed rustc-web && suffix=-web
    for package in $(debian_rust_packages "$suffix") lld; do
        installed "$package" || echo "$package"
    done
}

install_debian_rust() {
    local suite suffix
    apt_update_once
    apt_install lld || return 1
    for suffix in -web ''; do
        if version_at_least "$(apt_candidate "rustc$suffix")" "$RUST_OLDEST"; then
            # shellcheck disable=SC2046  # a list of packages
            apt_install $(debian_rust_packages "$suffix")
            return
        fi
    done
    for suite in "$(debian_codename)-security" "$(debian_codename)-backports"; do
        for suffix in -web ''; do
            # shellcheck disable=SC2046  # a list of packages
            apt_install_from "$suite" "$RUST_OLDEST" $(debian_rust_packages "$suffix") && return
        done
    done
    return 1
}

debian_rust_packages() {
    if [ "$1" = -web ]; then
        echo rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web
    else
        echo rustc cargo rust-src rust-clippy rustfmt
    fi
}

# Fetches the crates that Cargo.lock names, and those that core is built with where it is built from source, so that
# later builds need no network.
fetch_crates() {
    local mk=$BUILD/toolchain.mk
    [ -f "$mk" ] || return 0
    local cargo build_std
    cargo=$(sed -n 's/^CARGO := //p' "$mk")
    read -ra build_std < <(sed -n 's/^BUILD_STD := *//p' "$mk"; echo)
    RUSTC_BOOTSTRAP=1 "$cargo" fetch --quiet ${CI:+--locked} "${build_std[@]}" --target "$TARGET" \
        --target "$(uname -m)-unknown-linux-gnu" ||
        lacks "the crates of Cargo.lock (cargo fetch failed, see above)" "cargo fetch"
}

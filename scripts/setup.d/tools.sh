# QEMU and the small tools.

QEMU=${QEMU:-qemu-system-aarch64}
# The oldest QEMU that runs Freehold, and the oldest that has every CPU model of the tests (neoverse-v1).
QEMU_OLDEST=7.2
QEMU_WANTED=8.1

qemu_version() {
    have "$QEMU" && "$QEMU" --version | sed -n '1s/.*version \([0-9.]*[0-9]\).*/\1/p'
}

setup_tools() {
    if is_debian; then
        apt_install make gcc libc6-dev ca-certificates cpio gzip device-tree-compiler binutils-aarch64-linux-gnu \
            debian-archive-keyring || true
    else
        have cc || lacks "a C linker, cc" "install gcc by your system's package manager"
        have cpio || lacks cpio "install cpio by your system's package manager"
        have dtc || lacks "dtc" "install device-tree-compiler (dtc) by your system's package manager"
        find_objcopy >/dev/null || lacks "objcopy for aarch64" \
            "install binutils-aarch64-linux-gnu or llvm by your system's package manager"
    fi
    setup_qemu
}

setup_qemu() {
    local version
    version=$(qemu_version || true)
    if ! version_at_least "$version" "$QEMU_WANTED" && is_debian && [ "$QEMU" = qemu-system-aarch64 ]; then
        install_qemu || true
        version=$(qemu_version || true)
    fi
    if ! version_at_least "$version" "$QEMU_OLDEST"; then
        lacks "QEMU $QEMU_OLDEST or newer for aarch64${version:+ (found $version)}" \
            "sudo apt-get install --no-install-recommends qemu-system-arm (or your system's package of it)"
    elif ! version_at_least "$version" "$QEMU_WANTED"; then
        say "QEMU $version runs Freehold; the tests with -cpu neoverse-v1 need $QEMU_WANTED"
    else
        say "QEMU $version"
    fi
}

install_qemu() {
    can_be_root || return 1
    apt_update_once
    if version_at_least "$(apt_candidate qemu-system-arm)" "$QEMU_WANTED"; then
        apt_install qemu-system-arm
    else
        # No package may stay at the older version of the other suite, so each is named.
        apt_install_from "$(debian_codename)-backports" "$QEMU_WANTED" qemu-system-arm qemu-system-common qemu-system-data ||
            apt_install qemu-system-arm
    fi
}

# Prints the name of an objcopy that understands AArch64.
find_objcopy() {
    local name
    for name in aarch64-linux-gnu-objcopy llvm-objcopy rust-objcopy; do
        if have "$name"; then
            echo "$name"
            return
        fi
    done
    if [ "$(uname -m)" = aarch64 ] && have objcopy; then
        echo objcopy
        return
    fi
    return 1
}

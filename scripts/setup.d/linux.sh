# Stock Linux, as host and as guest: Debian's arm64 kernels as unpacked `Image` files, and its static busybox, of which the
# Makefile makes the initrds. Beside each file in build/linux, FILE.version names the package that it is from.

setup_linux() {
    local linux=$BUILD/linux
    mkdir -p "$linux"
    if ! fetched "$linux/Image" && ! fetch_kernel "$linux/Image" '' trixie bookworm-backports bookworm; then
        lacks "an arm64 Linux kernel in $linux" \
            "make setup on a machine with Debian's apt; or make run HOST=linux KERNEL=path INITRD=path with your own"
    fi
    if ! fetched "$linux/busybox" && ! fetch_busybox "$linux/busybox" trixie bookworm; then
        lacks "an arm64 busybox in $linux" "make setup on a machine with Debian's apt"
    fi
    # A second kernel, as guest only. All else works without it.
    if ! fetched "$linux/Image-6.1" && ! fetch_kernel "$linux/Image-6.1" 6.1. bookworm-security bookworm; then
        say "there is no 6.1 kernel to be had from a Debian mirror: GUEST=linux-6.1 and the tests with it are left out"
    fi
    say "Linux: $(cat "$linux"/*.version 2>/dev/null | paste -sd ' ')"
}

fetched() {
    [ -s "$1" ] && [ -s "$1.version" ]
}

# fetch_kernel IMAGE VERSION SUITE…: Debian's kernel for virtual machines, from the first suite where its version begins
# with VERSION. A subshell, so that what it leaves behind goes when it ends.
fetch_kernel() (
    image=$1 version=$2
    shift 2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for suite in "$@"; do
        say "looking for Debian's arm64 kernel ${version:+$version* }in $suite"
        use_suite "$work/apt" "$suite" || continue
        # The package of that name is empty and depends on the newest kernel's.
        kernel=$(apt-cache "${private_apt_options[@]}" depends linux-image-cloud-arm64 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
        case $kernel in
        "linux-image-$version"*)
            download "$work" "$kernel" "$image" &&
                unpack_kernel "$work/unpacked/boot/"vmlinuz-* "$image.new" && mv "$image.new" "$image" && exit
            ;;
        esac
    done
    exit 1
)

# fetch_busybox FILE SUITE…: Debian's static busybox, from the first suite that has it.
fetch_busybox() (
    file=$1
    shift
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for suite in "$@"; do
        use_suite "$work/apt" "$suite" && download "$work" busybox-static "$file" &&
            install -m 755 "$(find "$work/unpacked" -type f -name busybox -perm -u+x | head -n 1)" "$file" && exit
    done
    exit 1
)

# use_suite DIRECTORY SUITE: a private apt for arm64, made anew.
use_suite() {
    is_debian || return 1
    rm -rf "$1"
    private_apt "$1" arm64 "$2"
}

# download WORK PACKAGE FILE: unpacks the package in WORK/unpacked, and writes its name and version to FILE.version.
download() {
    local work=$1 package=$2 file=$3
    rm -rf "$work"/*.deb "$work/unpacked"
    say "fetching $package"
    (cd "$work" && apt-get "${private_apt_options[@]}" download "$package") || return 1
    dpkg -x "$work"/*.deb "$work/unpacked" || return 1
    dpkg-deb -W --showformat '${Package} ${Version}\n' "$work"/*.deb >"$file.version"
}

# unpack_kernel FILE IMAGE: writes the raw arm64 `Image` that FILE is or carries.
unpack_kernel() {
    local file=$1 image=$2 kind
    kind=$(od -An -tx1 -N8 "$file" | tr -d ' \n')
    case $kind in
    1f8b*) gzip -dc "$file" >"$image" ;;
    4d5a00007a696d67) unpack_zboot "$file" "$image" ;;
    *) cp "$file" "$image" ;;
    esac
    if [ "$(od -An -tx1 -j56 -N4 "$image" | tr -d ' \n')" != 41524d64 ]; then
        say "$file is not an arm64 Image, nor one in a wrapper that is known (gzip, EFI zboot)"
        return 1
    fi
}

# unpack_zboot FILE IMAGE: Linux's EFI zboot wrapper (drivers/firmware/efi/libstub/zboot-header.S) has the payload's
# offset at byte 8, its size at 12 and the name of its compression at 24.
unpack_zboot() {
    local file=$1 image=$2 offset size compression
    offset=$(od -An -tu4 -j8 -N4 "$file" | tr -d ' ')
    size=$(od -An -tu4 -j12 -N4 "$file" | tr -d ' ')
    compression=$(tail -c +25 "$file" | head -c 8 | tr -d '\0')
    case $compression in
    gzip | xz | lzma | lz4) ;;
    zstd*) compression=zstd ;;
    *)
        say "$file: EFI zboot with the unknown compression $compression"
        return 1
        ;;
    esac
    have "$compression" || apt_install "$compression" || return 1
    # Linux appends the unpacked size to some payloads, which the unpackers report as trailing rubbish.
    tail -c "+$((offset + 1))" "$file" | head -c "$size" | "$compression" -dcq >"$image" || [ -s "$image" ]
}

# The stock Linux host: Debian's arm64 kernel as an unpacked `Image`, and an initrd made of its static busybox and
# scripts/linux-init. The versions that were found are written to build/linux/version.

setup_linux() {
    local linux=$BUILD/linux
    mkdir -p "$linux"
    if [ ! -s "$linux/Image" ] || [ ! -s "$linux/busybox" ]; then
        fetch_linux "$linux" || {
            lacks "an arm64 Linux kernel and busybox in $linux" \
                "make setup on a machine with Debian's apt; or make run HOST=linux KERNEL=path INITRD=path with your own"
            return
        }
    fi
    say "Linux host: $(paste -sd ' ' "$linux/version")"
    have cpio || return 0
    if [ ! -s "$linux/initrd.cpio.gz" ] || [ scripts/linux-init -nt "$linux/initrd.cpio.gz" ] ||
        [ "$linux/busybox" -nt "$linux/initrd.cpio.gz" ]; then
        scripts/make-linux-initrd "$linux/busybox" "$linux/initrd.cpio.gz"
    fi
}

# Suites that have a kernel for this use, the preferred first.
LINUX_SUITES=(trixie bookworm-backports bookworm)

fetch_linux() {
    local linux=$1 work suite kernel
    is_debian || return 1
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # the directory's name is wanted as it is now
    trap "rm -rf '$work'" EXIT
    for suite in "${LINUX_SUITES[@]}"; do
        say "looking for Debian's arm64 kernel in $suite"
        rm -rf "$work/apt"
        private_apt "$work/apt" arm64 "$suite" || continue
        kernel=$(apt-cache "${private_apt_options[@]}" depends linux-image-cloud-arm64 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
        [ -n "$kernel" ] && break
    done
    [ -n "${kernel:-}" ] || return 1
    say "fetching $kernel and busybox-static"
    (cd "$work" && apt-get "${private_apt_options[@]}" download "$kernel" busybox-static) || return 1
    dpkg -x "$work"/linux-image-*.deb "$work/kernel"
    dpkg -x "$work"/busybox-static_*.deb "$work/busybox"
    unpack_kernel "$work/kernel/boot/"vmlinuz-* "$linux/Image.new" || return 1
    install -m 755 "$(find "$work/busybox" -type f -name busybox -perm -u+x | head -n 1)" "$linux/busybox"
    for package in "$work"/*.deb; do
        dpkg-deb -W --showformat '${Package} ${Version}\n' "$package"
    done >"$linux/version"
    mv "$linux/Image.new" "$linux/Image"
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

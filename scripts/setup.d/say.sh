# Messages, and the list of what is missing and how to get it.

missing=()

say() {
    printf 'setup: %s\n' "$*"
}

# lacks WHAT COMMAND: WHAT is missing and COMMAND would get it. Setup goes on, so that one run names every piece.
lacks() {
    missing+=("$1"$'\n'"setup:     $2")
}

# Ends setup with the list of missing pieces, if there are any.
report_missing() {
    [ ${#missing[@]} -eq 0 ] && return
    say "these pieces are missing; each line is followed by the command that gets it:"
    printf 'setup:   %s\n' "${missing[@]}"
    exit 1
}

# version_at_least HAVE WANT: compares dotted versions.
version_at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# as_root COMMAND…: runs it as root, by sudo if need be. Without a terminal, sudo may not ask for a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo -- "$@"
    else
        sudo -n -- "$@"
    fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || { have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}

# apt, used in two ways: the machine's own (to install packages), and a private one with its own lists, which reads
# another suite or another architecture from the mirror that the machine is configured for, and changes nothing on it.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
apt_updated=

is_debian() {
    have apt-get && [ "$(. /etc/os-release && echo "${ID:-}")" = debian ]
}

debian_codename() {
    (. /etc/os-release && echo "${VERSION_CODENAME:-}")
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_update_once() {
    [ -n "$apt_updated" ] && return
    say "apt-get update"
    as_root apt-get -qq update || say "apt-get update failed; going on with the package lists that are there"
    apt_updated=yes
}

# apt_candidate PACKAGE [OPTION…]: the version that apt (with those options) would install, without Debian's epoch and
# revision; empty where there is none.
apt_candidate() {
    local package=$1
    shift
    apt-cache "$@" policy "$package" 2>/dev/null | sed -n 's/^  Candidate: \([0-9]*:\)\?\([0-9.]*\).*/\2/p'
}

# apt_install PACKAGE…: installs those that are not installed. Fails, and lists them as missing, where it may not.
apt_install() {
    local package wanted=()
    for package in "$@"; do
        installed "$package" || wanted+=("$package")
    done
    [ ${#wanted[@]} -eq 0 ] && return
    if ! can_be_root; then
        lacks "packages ${wanted[*]}" "sudo apt-get install --no-install-recommends ${wanted[*]}"
        return 1
    fi
    apt_update_once
    say "apt-get install ${wanted[*]}"
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${wanted[@]}" >/dev/null; then
        lacks "packages ${wanted[*]} (apt-get failed, see above)" \
            "sudo apt-get update && sudo apt-get install --no-install-recommends ${wanted[*]}"
        return 1
    fi
}

# The mirror's address for a suite, taken from the machine's own sources in whichever of apt's two formats they are
# written. Security updates have an archive of their own, which mirrors keep beside the main one.
debian_mirror() {
    local codename mirror
    codename=$(debian_codename)
    mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$codename" '
            $2 == "main" && ($1 == codename || $1 == "stable" || $1 == "oldstable" || $1 == "testing") { print $3; exit }')
    [ -n "$mirror" ] || return 1
    case $1 in
    *-security) echo "${mirror%/}-security/" ;;
    *) echo "$mirror" ;;
    esac
}

# private_apt DIRECTORY ARCHITECTURE SUITE…: makes a private apt in DIRECTORY, sets `private_apt_options` to the options
# that select it, and reads the package lists. Needs no root.
private_apt() {
    local directory=$1 architecture=$2 mirror suite
    shift 2
    [ -r "$KEYRING" ] || return 1
    mkdir -p "$directory"/{state,lists/partial,cache/archives/partial,parts}
    : >"$directory/status"
    : >"$directory/list"
    for suite in "$@"; do
        mirror=$(debian_mirror "$suite") || return 1
        echo "deb [arch=$architecture signed-by=$KEYRING] $mirror $suite main" >>"$directory/list"
    done
    private_apt_options=(
        -qq
        -o "Dir::Etc::SourceList=$directory/list" -o "Dir::Etc::SourceParts=$directory/parts"
        -o "Dir::State::Lists=$directory/lists" -o "Dir::Cache=$directory/cache"
        -o Acquire::Languages=none -o APT::Sandbox::User=root
    )
    if [ "$architecture" != "$(dpkg --print-architecture)" ]; then
        private_apt_options+=(
            -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture"
            -o "Dir::State=$directory/state" -o "Dir::State::status=$directory/status"
        )
    fi
    apt-get "${private_apt_options[@]}" update
}

# apt_install_from SUITE WANTED PACKAGE…: installs packages from a suite that the machine's own sources need not name,
# if it has the first of them in version WANTED or newer. Each package must be in that suite.
apt_install_from() {
    local suite=$1 wanted=$2 directory failed=
    shift 2
    directory=$(mktemp -d)
    if private_apt "$directory" "$(dpkg --print-architecture)" "$(debian_codename)" "$suite" &&
        version_at_least "$(apt_candidate "$1" "${private_apt_options[@]}" -t "$suite")" "$wanted"; then
        say "apt-get install ${*/%//$suite}"
        # PACKAGE/SUITE, not `-t SUITE`, which would take every dependency from that suite, needed or not.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get "${private_apt_options[@]}" -y -o Dpkg::Use-Pty=0 \
            install --no-install-recommends "${@/%//$suite}" >/dev/null || failed=yes
    else
        failed=yes
    fi
    as_root rm -rf "$directory"
    [ -z "$failed" ]
}

# shellcheck shell=bash
# Sourced by every script here: `setup` makes the environment, `environment` sets the variables that training needs.

# Makes .venv with this project in it, once: the stamp holds the hash of what was installed.   setup [dev]
setup() {
    local extra=${1:-} wanted
    wanted=$(sha256sum < pyproject.toml)
    # What dev installs is more than what a run needs, so its stamp serves for both.
    if [[ $(cat ".venv/installed${extra:+-$extra}" .venv/installed-dev 2> /dev/null) != *"$wanted"* ]]; then
        install "$extra"
        echo "$wanted" > ".venv/installed${extra:+-$extra}"
    fi
    use_venv
}

# Puts this checkout's environment first; where there is none (a container image, a module), what is on PATH is used.
use_venv() {
    PATH=$PWD/.venv/bin:$PATH
}

# Installs into whatever state .venv is in: pip completes what a broken-off start left behind. Talks on stderr: stdout
# may be JSON for a script.
install() {
    local target=.${1:+[$1]} python
    # An environment without pip, as uv makes them, is not thrown away: it gets one.
    if ! .venv/bin/python -m pip --version &> /dev/null && ! .venv/bin/python -m ensurepip &> /dev/null; then
        python=$(find_python)
        echo "making .venv with $("$python" --version) ..." >&2
        "$python" -m venv --clear .venv ||
            stop "cannot make a virtual environment (above: why); on Debian and Ubuntu: apt-get install python3-venv"
    fi
    echo "installing $target into .venv: PyTorch and DeepSpeed take 6 GB and one to a few minutes, once ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" ||
        stop "pip could not install $target (above: why); run this again when that is mended, it goes on where it stopped"
}

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            command -v "$name"
            return
        fi
    done
    stop "no Python 3.11 or newer here; on Debian and Ubuntu: apt-get install python3 python3-venv"
}

stop() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# The NVIDIA cards that a process started here would see. CUDA heeds the variable up to the first number that is none; what
# nvidia-smi says of a driver that does not answer, or of a card's parts, is no card.
count_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | sed '/^ *-/,$d; /^NoDevFiles/,$d' | grep -c . || true
    else
        { nvidia-smi --list-gpus 2> /dev/null || true; } | grep -c '^GPU ' || true
    fi
}

# Ranks of one node: RANKS, or one a card, or 2 where there is none.
count_ranks() {
    local gpus
    gpus=$(count_gpus)
    echo "${RANKS:-$((gpus > 0 ? gpus : 2))}"
}

# Exports what training needs, unless it is set already. INTERFACE=eth0 names the network between the nodes.
environment() {
    local share=$(($(nproc) / $(count_ranks)))
    # Ranks that each take every core spend their time waiting for one another.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    export PYTHONUNBUFFERED=1 # a line that waits in a buffer is lost with its process
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN} # NCCL says nothing at all by default, not even why it failed
    # A hang is explained by each rank's last collectives, which torch writes down when it gives up.
    export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000} TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
    # Fixed blocks leave holes when layers differ in size; these grow.
    export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
    # A host whose name means 127.0.1.1 in /etc/hosts offers its peers an address at which nobody answers.
    if [[ -n ${INTERFACE:-} ]]; then
        export NCCL_SOCKET_IFNAME=$INTERFACE GLOO_SOCKET_IFNAME=$INTERFACE
    fi
    # DeepSpeed goes by what is installed, and finds CUDA's libraries on machines without a card.
    if [[ $(count_gpus) == 0 ]]; then
        export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}
    fi
}

# Of a script's arguments: what stands before the verb, for `supervisor` or in `min_nodes`, and the verb with its `words`.
# shellcheck disable=SC2034 # the scripts use them
take_options() {
    supervisor=(python -m fer_scale.supervise) restarts=0 min_nodes=
    while [[ ${1:-} == --* ]]; do
        case $1 in
            --restarts | --back-off | --min-nodes) [[ ${2:-} =~ ^[0-9.]+$ ]] || stop "$1: needs a number, as $1 3" ;;
            *) stop "$1: unknown; before the verb may stand --restarts N, --back-off SECONDS and, for node.sh, --min-nodes M" ;;
        esac
        case $1 in
            --restarts) supervisor+=("$1" "$2") restarts=$2 ;;
            --back-off) supervisor+=("$1" "$2") ;;
            --min-nodes) min_nodes=$2 ;;
        esac
        shift 2
    done
    words=("$@")
}

# Runs a command in place of this shell; where DRY_RUN is set, prints it without the supervisor before it.
run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        shift "${#supervisor[@]}"
        printf '%q ' "$@"
        echo
    else
        exec "$@"
    fi
}

#!/usr/bin/env bash
# What CI runs: lint, types, tests. Arguments go to pytest:
#   bash launch/test.sh [tests/shards] [-k word] [-m slow]
#
#   DEBIAN_PACKAGES=install  first, where they can be had: what the tests on a cluster and in a browser need, which are
#                            skipped without
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

# Only where it is asked for: a test changes nobody's machine.
install_debian_packages() {
    local packages=(iproute2 openssh-server openssh-client pdsh slurmctld slurmd slurm-client faketime chromium) problem=
    if [[ $(dpkg-query --show --showformat '${db:Status-Status}\n' "${packages[@]}" 2> /dev/null | grep -cx installed) == "${#packages[@]}" ]]; then
        return
    fi
    if [[ $(id -u) != 0 ]]; then
        problem="only root may install ${packages[*]}"
    elif ! command -v apt-get > /dev/null; then
        problem="no apt-get here to install ${packages[*]}"
    # RUNLEVEL=1: the daemons are not started, the tests start their own.
    elif ! (
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        apt-get update -qq && apt-get install -qq --yes --no-install-recommends "${packages[@]}"
    ) >&2; then
        problem="apt-get could not install ${packages[*]} (above: why)"
    fi
    [[ -z $problem ]] || echo "${0##*/}: tests on a cluster and in a browser will be skipped: $problem" >&2
}

if [[ ${DEBIAN_PACKAGES:-} == install ]]; then
    install_debian_packages
fi
setup dev
environment
ruff check .
mypy shards fer_scale
[[ $# -eq 0 ]] || exec python -m pytest "$@"
# The whole suite: by two processes, a file of tests in one, and then what fills both cores by itself, hosts of a cluster.
usual="not slow and not gpu and not chaos" problems=0
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "$usual and not cluster" || problems=$?
python -m pytest -m "$usual and cluster" || problems=$?
exit "$problems"

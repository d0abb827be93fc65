#!/usr/bin/env bash
# What CI runs: lint, types, tests. Arguments go to pytest:
#   bash launch/test.sh [tests/shards] [-k word] [-m slow]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
setup dev
environment
ruff check .
mypy shards fer_scale
exec python -m pytest "$@"

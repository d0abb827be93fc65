#!/usr/bin/env bash
# The whole flow on drawn faces, in minutes and without a GPU. Arguments go to `fer-scale demo`:
#   bash launch/demo.sh [--out DIR] [--seed N] [--json]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
setup
cd "$OLDPWD" # DIR is the caller's
exec fer-scale demo "$@"

#!/usr/bin/env bash
# What every node runs, where no launcher reaches the others; one node by default:
#   bash launch/node.sh pretrain configs/pretrain/ssfer_vit_base.toml data.shards=/data/faces
#   NODES=4 NODE=2 MAIN=node0:29500 bash launch/node.sh pretrain ...
#
#   NODES  how many (1)     NODE  which one this is, from 0 (0)     MAIN  host:port of node 0 (localhost:29500)
#   RANKS  on this node (one a GPU; 2 where there is none)          INTERFACE  of the network between them
#   DRY_RUN=1  prints the command instead
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
use_venv
environment
main=${MAIN:-localhost:29500}
# torchrun, not `deepspeed --no_ssh`: it passes SIGTERM on to all ranks at once, so that a node that is taken away can save.
# A failed run is started again as a whole, by whatever started it, and resumes: one node restarting alone cannot rejoin.
run torchrun --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --nproc-per-node "$(count_ranks)" \
    --master-addr "${main%:*}" --master-port "${main##*:}" --max-restarts 0 -m fer_scale "$@"

#!/usr/bin/env bash
# What every node runs, where no launcher reaches the others; one node by default:
#   bash launch/node.sh pretrain configs/pretrain/ssfer_vit_base.toml data.shards=/data/faces
#   NODES=4 NODE=2 MAIN=node0:29500 bash launch/node.sh --restarts 20 pretrain ...
#
#   NODES  how many (1)     NODE  which one this is, from 0 (0)     MAIN  host:port of node 0 (localhost:29500)
#   RANKS  on this node (one a GPU; 2 where there is none)          INTERFACE  of the network between them
#   DRY_RUN=1  prints the command instead
#
#   --restarts N   start a run that failed again, so often; nodes then wait a day for one that is lost
#   --back-off S   the first wait before that, in seconds (5)
#   --min-nodes M  go on with M nodes or more where NODES are not to be had. Start more than NODES, each with a NODE of its
#                  own, and the others stand by. A node that comes back is taken in: the run saves, and goes on with it.
# Ends with 0 done, 75 preempted (start me again), 2 a mistake, 1 gave up: fer_scale/supervise.py, which hears the signals.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
use_venv
environment
take_options "$@"
main=${MAIN:-localhost:29500}
[[ $main =~ ^.+:[0-9]+$ ]] || stop "MAIN=$main: write HOST:PORT"
# Node 0 finds itself; any other would wait at itself for hours.
[[ ${NODES:-1} == 1 || (-n ${NODE:-} && ($NODE == 0 || -n ${MAIN:-})) ]] ||
    stop "NODES=$NODES: say also which of them this is, NODE=0, 1, ..., and where node 0 is, MAIN=HOST:PORT"
if [[ ${NODE:-0} != 0 ]]; then
    supervisor+=(--main "$main")
fi
patience=()
if [[ $restarts != 0 ]]; then # a node may be back the next day; without, torchrun waits 900 s
    supervisor+=(--meet 86400) patience=(--rdzv-conf timeout=86400)
fi
if [[ $min_nodes ]]; then
    # The store in which they meet is node 0's. join: a spare waits as long as the run lasts. last_call: beyond M nodes, the
    # others have so long to come. keep_alive: who is silent for 5 * 6 s by the clocks of two hosts is gone.
    # torch 2.14 forgets to tell a node that comes later where the ranks meet, where agents and ranks share a store.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    supervisor+=(--elastic)
    is_main=$([[ ${NODE:-0} == 0 ]] && echo true || echo false)
    meeting=(--nnodes "$min_nodes:${NODES:-1}" --rdzv-backend c10d --rdzv-endpoint "$main" --rdzv-id fer_scale --rdzv-conf
        "is_host=$is_main,join_timeout=2592000,last_call_timeout=30,keep_alive_interval=5,keep_alive_max_attempt=6,read_timeout=60")
else
    meeting=(--nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --master-addr "${main%:*}" --master-port "${main##*:}" "${patience[@]}")
fi
# A failed run is started again as a whole, never by torchrun (--max-restarts 0): one node restarting alone cannot rejoin.
run "${supervisor[@]}" torchrun "${meeting[@]}" --nproc-per-node "$(count_ranks)" --max-restarts 0 -m fer_scale "${words[@]}"

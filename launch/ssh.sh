#!/usr/bin/env bash
# DeepSpeed's own launcher over the hosts of a hostfile, from one of them. Needs pdsh, keys without a passphrase, and this
# folder under the same path everywhere:
#   HOSTFILE=launch/hostfile bash launch/ssh.sh pretrain configs/pretrain/ssfer_vit_base.toml data.shards=/data/faces
#
#   HOSTFILE  one `host slots=8` a line (launch/hostfile)     MAIN  address of its first host (asked of that host)
#   PORT  (29500)     INTERFACE  of the network between them     DRY_RUN=1  prints the command instead
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
use_venv
environment
hosts=${HOSTFILE:-launch/hostfile}
[[ -f $hosts ]] || stop "no $hosts: copy launch/hostfile.example and name your hosts in it"
# pdsh takes hardly any variables along; DeepSpeed sets those of this file on every host.
DS_ENV_FILE=$(mktemp)
export DS_ENV_FILE
env | grep -E '^(NCCL_|GLOO_|TORCH_|OMP_NUM_THREADS|PYTHONUNBUFFERED|PYTORCH_|DS_ACCELERATOR|HF_)' > "$DS_ENV_FILE"
run deepspeed --hostfile "$hosts" --force_multi ${MAIN:+--master_addr "$MAIN"} --master_port "${PORT:-29500}" \
    --module fer_scale "$@"

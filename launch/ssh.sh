#!/usr/bin/env bash
# DeepSpeed's own launcher over the hosts of a hostfile, from one of them. Needs pdsh, keys without a passphrase, and this
# folder under the same path everywhere:
#   HOSTFILE=launch/hostfile bash launch/ssh.sh pretrain configs/pretrain/ssfer_vit_base.toml data.shards=/data/faces
#
#   HOSTFILE  one `host slots=8` a line (launch/hostfile)     MAIN  address of its first host (asked of that host)
#   PORT  (29500)     INTERFACE  of the network between them     DRY_RUN=1  prints the command instead
#   --restarts N, before the verb: start a run that failed again, so often; on all hosts of the file
# Ends as node.sh does. A signal to it becomes RUN/stop; DeepSpeed's launcher never hears of one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
use_venv
environment
take_options "$@"
[[ -z $min_nodes ]] || stop "--min-nodes: DeepSpeed's launcher starts all hosts or none; use node.sh on every host"
[[ ${MAIN:-} != *:* || $MAIN == *:*:* ]] || stop "MAIN=$MAIN: is an address alone here; its port is PORT=${MAIN##*:}"
hosts=${HOSTFILE:-launch/hostfile}
[[ -f $hosts ]] || stop "no $hosts: copy launch/hostfile.example and name your hosts in it"
# pdsh takes hardly any variables along: DeepSpeed sets its own choice (MLFLOW...) on every host, and those of this file.
ours='NCCL_|GLOO_|TORCH_|OMP_NUM_THREADS|PYTHONUNBUFFERED|PYTORCH_|DS_ACCELERATOR|HF_|FER_SCALE_'
# What reaches a set that lies far away; keys of S3 stay in files, which these name.
ours+='|AWS_(PROFILE|CONFIG_FILE|SHARED_CREDENTIALS_FILE|REGION|DEFAULT_REGION|ENDPOINT_URL|CA_BUNDLE)|FSSPEC_S3_ANON'
ours+='|SSL_CERT_|REQUESTS_CA_BUNDLE|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy'
# All of them stand on the command lines of every host, which everybody there can read.
tokens=$(compgen -e | grep -E "^($ours|MLFLOW)" | grep -E 'TOKEN|PASSWORD' | grep -vxE 'HF_TOKEN_PATH|HF_HUB_DISABLE_IMPLICIT_TOKEN' || true)
[[ -z $tokens ]] || stop "${tokens//$'\n'/, } would be open to all on every host: unset it; HF_TOKEN_PATH names a file with a token"
urls=$(env | grep -E "^($ours|MLFLOW)\w*=([^/]*//)?[^/@]*:[^/]*@" | cut -d= -f1 || true)
[[ -z $urls ]] || stop "${urls//$'\n'/, }: the password in it would be open to all on every host: unset it here, set it there (/etc/environment)"
# A host that lost its network says nothing: without this, pdsh would wait for it for hours after all ranks have given up.
export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
DS_ENV_FILE=$(mktemp)
export DS_ENV_FILE
env | grep -E "^($ours)" > "$DS_ENV_FILE"
supervisor+=(--far)
run "${supervisor[@]}" deepspeed --hostfile "$hosts" --force_multi ${MAIN:+--master_addr "$MAIN"} --master_port "${PORT:-29500}" \
    --module fer_scale "${words[@]}"

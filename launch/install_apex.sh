#!/usr/bin/env bash
# Builds NVIDIA Apex from a source checkout, with the extension that this pipeline uses: amp_C, which comes in one bundle
# with a dozen others (APEX_CUDA_EXT).
set -euo pipefail

usage='usage: bash launch/install_apex.sh PATH_TO_APEX_SOURCE [--dry-run]

PATH_TO_APEX_SOURCE  a checkout of https://github.com/NVIDIA/apex (the "apex" of the package registry is another project)
--dry-run            check everything and print the command, build nothing

Installs into the active virtual environment, else into .venv beside this script, else for python3; PYTHON names another.
Needs the CUDA toolkit of the release that PyTorch was built with: CUDA_HOME, or the nvcc on PATH. MAX_JOBS limits how
many files are compiled at once; without a GPU in sight, TORCH_CUDA_ARCH_LIST=9.0 says what to compile for.'

fail() {
  echo "install_apex.sh: $1" >&2
  exit 2
}

source_dir=
dry_run=no
for argument in "$@"; do
  case $argument in
    -h | --help) echo "$usage"; exit 0 ;;
    --dry-run) dry_run=yes ;;
    -*) fail "unknown option $argument"$'\n'"$usage" ;;
    *) [ -z "$source_dir" ] || fail "one source checkout, please (given $source_dir and $argument)"; source_dir=$argument ;;
  esac
done
[ -n "$source_dir" ] || fail "which source checkout?"$'\n'"$usage"

[ -d "$source_dir" ] || fail "$source_dir: no such directory"
source_dir=$(cd "$source_dir" && pwd)
for file in setup.py apex/optimizers/fused_sgd.py csrc/multi_tensor_sgd_kernel.cu; do
  [ -f "$source_dir/$file" ] ||
    fail "$source_dir: is not a checkout of https://github.com/NVIDIA/apex ($file is missing)"
done
grep -q APEX_CUDA_EXT "$source_dir/setup.py" ||
  fail "$source_dir: is too old, its setup.py does not know APEX_CUDA_EXT; take a newer commit"

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    python=$VIRTUAL_ENV/bin/python
  elif [ -x "$project/.venv/bin/python" ]; then
    python=$project/.venv/bin/python
  else
    python=python3
  fi
fi

# What Apex's setup.py will go by: the CUDA release of this PyTorch and the toolkit it would compile with. PyTorch's own
# CUDA packages have the headers that no toolkit (cuDNN) or no small one (cuSPARSE and the like) has.
facts=$("$python" -c '
import glob, importlib.util, os, torch
from torch.utils.cpp_extension import CUDA_HOME
import packaging, setuptools
nvidia = importlib.util.find_spec("nvidia")
headers = [path for place in (nvidia.submodule_search_locations if nvidia else [])
           for path in sorted(glob.glob(os.path.join(place, "cu*", "include")))]
print(torch.version.cuda or "none", CUDA_HOME or "none", ":".join(headers), sep="\t")
') || fail "$python: must have torch, setuptools and packaging; PYTHON=... names another interpreter"
IFS=$'\t' read -r torch_cuda cuda_home headers <<<"${facts##*$'\n'}"

[ "$torch_cuda" != none ] || fail "$python: its PyTorch is built without CUDA, and Apex is of no use to it"
[ -x "$cuda_home/bin/nvcc" ] ||
  fail "nvcc was not found: Apex is compiled here and needs the CUDA toolkit $torch_cuda (set CUDA_HOME, or put its nvcc on PATH)"
nvcc_cuda=$("$cuda_home/bin/nvcc" --version | sed -n 's/.*release \([0-9][0-9.]*\).*/\1/p')
[ "$nvcc_cuda" = "$torch_cuda" ] ||
  fail "$cuda_home/bin/nvcc is CUDA ${nvcc_cuda:-of an unknown release}, PyTorch was built with CUDA $torch_cuda, and Apex \
compiles only where both are the same; set CUDA_HOME to a CUDA $torch_cuda toolkit, or install a PyTorch for CUDA $nvcc_cuda"
[ -f "$cuda_home/include/cuda_runtime.h" ] ||
  fail "$cuda_home: has nvcc but not the toolkit's headers (include/cuda_runtime.h); set CUDA_HOME to where the toolkit is"

if "$python" -m pip --version >/dev/null 2>&1; then
  install=("$python" -m pip install)
elif command -v uv >/dev/null; then
  # uv would take the wheel of an earlier build with other extensions from its cache.
  install=(uv pip install --python "$python" --no-cache --reinstall-package apex)
else
  fail "$python: has no pip, and there is no uv on PATH"
fi
command=(env APEX_CPP_EXT=1 APEX_CUDA_EXT=1 CUDA_HOME="$cuda_home" CPATH="${CPATH:+$CPATH:}$headers" "${install[@]}" --no-build-isolation --no-deps --verbose "$source_dir")

printf '%q ' "${command[@]}"
echo
[ "$dry_run" = no ] || exit 0
"${command[@]}" || { echo "install_apex.sh: the build failed, see above" >&2; exit 1; }

cd /
"$python" -c 'import torch, amp_C' || { echo "install_apex.sh: amp_C was built but cannot be imported" >&2; exit 1; }
"$python" -c 'import apex.optimizers' || { echo "install_apex.sh: apex cannot be imported" >&2; exit 1; }
echo "install_apex.sh: Apex is installed for $python, with amp_C (CUDA $nvcc_cuda)"

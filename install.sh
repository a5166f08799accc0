#!/bin/sh
# Installs Maskfleet and its development tools into a virtual environment. Usage: ./install.sh PYTHON VENV
#
# On Linux x86-64 the usual torch wheel brings CUDA along. A machine without an NVIDIA GPU has no use for it, so this
# script takes torch's CPU build (X.Y.Z+cpu) where pip's configured index has one, and says how large the download is
# where it has not. The versions are those of constraints.txt either way.
set -eu

python=$1
venv=$2
cd "$(dirname "$0")"

pinned() { sed -n "s/^$1==//p" constraints.txt; }
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
on_linux_x86() { test "$(uname -s)-$(uname -m)" = Linux-x86_64; }
has_nvidia_gpu() { command -v nvidia-smi >/dev/null || test -e /dev/nvidia0; }
has_torch() { pip show torch >/dev/null 2>&1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and
    "Maskfleet needs Python 3.11 or newer; try: make PYTHON=python3.12")'
"$python" -m venv "$venv"

if on_linux_x86 && ! has_torch; then
    cpu_build="torch==$(pinned torch)+cpu torchvision==$(pinned torchvision)+cpu"
    if has_nvidia_gpu; then
        echo "This machine has an NVIDIA GPU: installing torch with CUDA, a download of about 3.0 GB."
    # shellcheck disable=SC2086 # two requirements
    elif pip install --dry-run --no-deps $cpu_build >/dev/null 2>&1; then
        echo "No NVIDIA GPU here: installing torch's CPU build."
        pip install --no-deps $cpu_build
    else
        # Measured on 2026-11-27: the wheels of torch 2.14.1, torchvision 0.29.1, triton and CUDA for Python 3.11 have
        # 3,013 MB together. The CPU build of torch 2.13.0 has 192 MB.
        echo "No NVIDIA GPU here, but pip's index has no CPU build of torch. Installing torch with CUDA: about 3.0 GB to"
        echo "download, unless pip has it already. The CPU build has about 0.2 GB; to use it, stop here and set"
        echo "PIP_EXTRA_INDEX_URL to an index that has it."
    fi
fi
echo "Installing into $venv. The first time takes some minutes."
pip install --constraint constraints.txt --editable '.[dev]'

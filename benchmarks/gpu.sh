#!/usr/bin/env bash
# Everything that is worth knowing of a GPU, in one call of at most nine minutes.
#
#   benchmarks/gpu.sh --pack FOLDER          on a machine with a network: wheels and QM9
#   benchmarks/gpu.sh OUT --packed FOLDER    on a bare machine with PyTorch and a GPU
#   benchmarks/gpu.sh OUT --device cpu --minutes 1 --tiny      the rehearsal
#
# It measures sampling, then fit and criteria, then trains for the rest of the time, and writes the
# weights anew every minute. Each part has its own time, and what goes wrong in one leaves the others
# alone. OUT/gpu.json says which card it was, and what was found; it is written after each part.
# Further options are those of gpu_run.py, see: python benchmarks/gpu_run.py --help
#
# The wheels are for Python 3.12 on Linux with an x86-64 processor; GPU_PYTHON=3.11 asks for others.
set -euo pipefail
GPU_BEGAN=$(date +%s)
export GPU_BEGAN
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [[ -z ${PYTHON:-} && ${1:-} == --pack && -x $root/.venv/bin/python ]]; then
  python=$root/.venv/bin/python # the checkout's own, which has the package
fi

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; }

pinned() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" "$root/constraints.txt" | head -1; }

# The package as it lies here, where Python finds it; its wheel would carry the weights twice.
install_checkout() {
  local site=$1 version
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
  cp -r "$root/gaga_adapter" "$site/"
  cp -r "$root/integrations" "$site/gaga_adapter/"
  mkdir "$site/gaga_adapter-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: gaga-adapter\nVersion: %s\n' "$version" \
    >"$site/gaga_adapter-$version.dist-info/METADATA"
}

pack() {
  local folder=$1 wheels=$1/wheels names=() name platform
  mkdir -p "$wheels"
  if ! "$python" -c "import gaga_adapter" 2>/dev/null; then
    echo "gpu.sh: $python has no gaga_adapter. Name one that has it: PYTHON=.../python." >&2
    exit 2
  fi
  for name in diffusers rdkit; do
    names+=("$(pinned "$name" | grep . || echo "$name")")
  done
  local platforms=()
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${platform}_x86_64")
  done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "${GPU_PYTHON:-3.12}" "${platforms[@]}" -d "$wheels" "${names[@]}"
  "$python" "$root/benchmarks/qm9_array.py" "$folder/qm9.npz"
  du -sh "$folder"
}

if [[ $# -lt 1 || $1 == --help || $1 == -h ]]; then usage; exit 2; fi
if [[ $1 == --pack ]]; then
  if [[ $# -ne 2 ]]; then echo "gpu.sh: --pack needs one folder to write to." >&2; exit 2; fi
  pack "$2"
  exit
fi
if [[ $1 == -* ]]; then
  echo "gpu.sh: the folder for the results comes first, before $1." >&2
  exit 2
fi

out=$1
shift
options=()
while [[ $# -gt 0 ]]; do
  if [[ $1 == --packed ]]; then
    packed=${2:-}
    if [[ -z $packed ]]; then
      echo "gpu.sh: --packed needs the folder that --pack wrote." >&2
      exit 2
    fi
    if [[ ! -d $packed/wheels || ! -f $packed/qm9.npz ]]; then
      echo "gpu.sh: $packed is no folder that --pack wrote: it has no wheels/ or no qm9.npz." >&2
      exit 2
    fi
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
      --target "$site" "$packed"/wheels/*.whl
    install_checkout "$site"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    options+=(--data "$packed/qm9.npz")
    shift 2
  else
    options+=("$1")
    shift
  fi
done
exec "$python" "$root/benchmarks/gpu_run.py" "$out" "${options[@]}"

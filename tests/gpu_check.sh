#!/bin/sh
# Everything that needs a CUDA device, in one go: builds for its kind, runs the operations and engines on it, compute-sanitizer where it is found, then the speeds, and
# closes with a table of what was wanted and what was found. usage: tests/gpu_check.sh [OUTPUT-DIRECTORY]
# Where the machine with the device cannot build all of it (it has no doctest, say), build elsewhere, for its kind, at any path, and bring build/bin/{deepseek-tests,bench} and
# build/lib/libdeepseek-cuda.so along: DS_GPU_BUILT=1 takes them as they are.
# DS_GPU_JOBS: compilers at once (all processors). DS_GPU_PARTS: some of "tests sanitizer speed"; all when unset.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-${OUT:-build/gpu}}
mkdir -p "$out"
parts=${DS_GPU_PARTS:-tests sanitizer speed}
jobs=${DS_GPU_JOBS:-$(nproc)}
table="$out/table.txt"
: >"$table"
started=$(date +%s)
row() { printf '%-58s %-14s %s\n' "$1" "$2" "$3" | tee -a "$table"; }
wants() { case " $parts " in *" $1 "*) ;; *) return 1 ;; esac; }
since() { echo "$(($(date +%s) - started)) s"; }

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -z "$nvcc" ] && [ -z "${DS_GPU_BUILT-}" ]; then
    echo 'gpu_check: no nvcc here'
    exit 2
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
arch=sm_${capability:-90}
[ "$arch" = sm_90 ] && arch=sm_90a
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | tee "$out/device.txt"

if [ -n "${DS_GPU_BUILT-}" ]; then
    # The tests look for their files where they were built.
    there=$(grep -aoE '/[^"[:cntrl:]]*/models/tiny-r1\.gguf' build/bin/deepseek-tests | head -n 1)
    there=${there%/models/tiny-r1.gguf}
    if [ -n "$there" ] && [ ! -e "$there/models" ]; then mkdir -p "$(dirname "$there")" && ln -sfn "$PWD" "$there"; fi
    row 'built elsewhere' ok ''
elif make -j"$jobs" CUDA=1 CUDA_ARCH="$arch" cuda build/bin/deepseek-tests build/bin/bench >"$out/build.log" 2>&1; then
    row "built for $arch" ok "$(since)"
else
    tail -n 40 "$out/build.log"
    row "built for $arch" FAILED "see $out/build.log"
    exit 1
fi
# cuBLAS may lie where nothing looks for it.
if ldd build/lib/libdeepseek-cuda.so | grep -q 'libcublas.*not found'; then
    found=$(find / -name 'libcublas.so.*' -not -path '/proc/*' 2>/dev/null | head -n 1)
    LD_LIBRARY_PATH="$(dirname "${found:-/}"):${LD_LIBRARY_PATH-}"
    export LD_LIBRARY_PATH
fi

# doctest's test cases by name, one row each.
failed=0
cases() {
    build/bin/deepseek-tests -tc="$2" >"$out/$3.log" 2>&1
    code=$?
    if grep -q 'MESSAGE: skipped' "$out/$3.log"; then
        row "$1" SKIPPED "$(grep -m 1 'MESSAGE: skipped' "$out/$3.log" | sed 's/.*MESSAGE: //' | cut -c1-100)"
        failed=1
    elif [ $code = 0 ]; then row "$1" ok "$(since)"
    else
        row "$1" FAILED "see $out/$3.log"
        grep -m 12 -E 'ERROR|FATAL' "$out/$3.log"
        failed=1
    fi
}
if wants tests; then
    cases 'API: devices' 'device: the API without one' api
    cases 'every variant of every operation' 'CUDA: every variant*' operations
    cases 'I8 models: the CPU'"'"'s bits, batch 1 and 8, graphs on and off' 'CUDA: I8 models*' integers
    cases 'other formats: the same bits again' 'CUDA: other formats*' formats
    cases 'refusals are statuses' 'CUDA: a device has no room*' refusals
fi
if wants sanitizer; then
    sanitizer=$(command -v compute-sanitizer || ls "$(dirname "$nvcc")/compute-sanitizer" 2>/dev/null)
    if [ -z "$sanitizer" ]; then row 'compute-sanitizer' 'not found' ''
    else
        for tool in memcheck racecheck initcheck; do
            DS_CUDA_FEW=1 timeout 60 "$sanitizer" --tool $tool --error-exitcode 9 build/bin/deepseek-tests -tc='CUDA: I8 models*' >"$out/$tool.log" 2>&1
            code=$?
            case $code in
                0) row "compute-sanitizer $tool" ok "$(since)" ;;
                124) row "compute-sanitizer $tool" 'not finished' 'in 60 s; nothing found until then' ;;
                *) row "compute-sanitizer $tool" FAILED "see $out/$tool.log"; failed=1 ;;
            esac
        done
    fi
fi
if wants speed; then
    if timeout 240 build/bin/bench --device 1 >"$out/speed.json" 2>"$out/speed.log"; then sed -n 's/^#row //p' "$out/speed.log" | tee -a "$table"
    else
        row 'bench --device' FAILED "see $out/speed.log"
        tail -n 5 "$out/speed.log"
        failed=1
    fi
fi
row 'in all' '' "$(since)"
echo
cat "$table"
exit $failed

#!/bin/sh
# Everything that needs a CUDA device, in under eight minutes: builds for it, runs operations and engines on
# it, measures speeds, runs compute-sanitizer where it is installed, and ends with a table of results beside
# what was wanted. usage: tests/gpu_check.sh [OUTPUT-DIRECTORY]
# Every part has its own time limit and writes its result to table.txt when it ends, so that a part that fails
# or hangs does not hide the others. Each part's output and the speeds as JSON are in build/gpu-logs, and at
# the end in logs.tar.gz beside the table.
# Where the machine with the device cannot build everything (it has no doctest, say), build on another machine
# for its architecture, at any path, and copy build/bin/{deepseek-tests,bench} and
# build/lib/libdeepseek-cuda.so: DS_GPU_BUILT=1 uses them without building.
# DS_GPU_JOBS: parallel compilers (all processors). DS_GPU_SECONDS: limit for everything (470). DS_GPU_PARTS:
# some of "tests speed engine sanitizer", in that order (all).
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-${OUT:-build/gpu}} logs=build/gpu-logs
rm -rf "$logs"
mkdir -p "$out" "$logs"
trap 'tar -C "$logs" -czf "$out/logs.tar.gz" .' EXIT
parts=${DS_GPU_PARTS:-tests speed engine sanitizer}
jobs=${DS_GPU_JOBS:-$(nproc)}
table="$out/table.txt"
: >"$table"
started=$(date +%s)
until=$((started + ${DS_GPU_SECONDS:-470}))
failed=0
row() { printf '%-66s %-18s %s\n' "$1" "$2" "$3" | tee -a "$table"; }
wants() { case " $parts " in *" $1 "*) ;; *) return 1 ;; esac; }
since() { echo "$(($(date +%s) - started)) s"; }
# limited SECONDS LOG COMMAND…: under its own limit and what is left of the whole; 125: nothing was left.
limited() {
    limit=$1 log=$2
    shift 2
    left=$((until - $(date +%s)))
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 3 ]; then echo 'no time was left' >"$log"; return 125; fi
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
}
# verdict NAME CODE LOG: a row for an exit status.
verdict() {
    case $2 in
        0) row "$1" ok "$(since)" ;;
        124|137) row "$1" 'TIMED OUT' "see $3"; failed=1 ;;
        125) row "$1" 'not run' 'no time was left'; failed=1 ;;
        *)
            row "$1" FAILED "exit status $2, see $3"
            grep -m 12 -E 'ERROR|FATAL|terminate|Segmentation' "$3"
            failed=1
            ;;
    esac
}

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -z "$nvcc" ] && [ -z "${DS_GPU_BUILT-}" ]; then
    echo 'gpu_check: no nvcc here'
    exit 2
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
arch=sm_${capability:-90}
[ "$arch" = sm_90 ] && arch=sm_90a
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv,noheader \
    2>/dev/null | tee "$out/device.txt"

if [ -n "${DS_GPU_BUILT-}" ]; then
    # The tests look for their files where they were built.
    there=$(grep -aoE '/[^"[:cntrl:]]*/models/tiny-r1\.gguf' build/bin/deepseek-tests | head -n 1)
    there=${there%/models/tiny-r1.gguf}
    if [ -n "$there" ] && [ ! -e "$there/models" ]; then
        mkdir -p "$(dirname "$there")" && ln -sfn "$PWD" "$there"
    fi
    row 'built elsewhere' ok ''
elif make -j"$jobs" CUDA=1 CUDA_ARCH="$arch" cuda build/bin/deepseek-tests build/bin/bench \
    >"$logs/build.log" 2>&1; then
    row "built for $arch" ok "$(since)"
else
    tail -n 40 "$logs/build.log"
    row "built for $arch" FAILED "see $logs/build.log"
    exit 1
fi
# cuBLAS may be installed outside the search path.
if ldd build/lib/libdeepseek-cuda.so | grep -q 'libcublas.*not found'; then
    found=$(find / -name 'libcublas.so.*' -not -path '/proc/*' 2>/dev/null | head -n 1)
    LD_LIBRARY_PATH="$(dirname "${found:-/}"):${LD_LIBRARY_PATH-}"
    export LD_LIBRARY_PATH
    row 'cuBLAS' "${found:-not found}" ''
fi

# cases NAME PATTERN LOG SECONDS: the test cases of a pattern, one row for all.
cases() {
    limited "$4" "$logs/$3.log" build/bin/deepseek-tests -tc="$2"
    code=$?
    if grep -q 'MESSAGE: skipped' "$logs/$3.log"; then
        row "$1" SKIPPED \
            "$(grep -m 1 'MESSAGE: skipped' "$logs/$3.log" | sed 's/.*MESSAGE: //' | cut -c1-100)"
        failed=1
    else verdict "$1" $code "$logs/$3.log"
    fi
}
# speed PART SECONDS [FLAG]: its rows, also those before a failure.
speed() {
    # shellcheck disable=SC2016,SC2086  # for the inner shell; a word or none
    limited "$2" "$logs/speed-$1.log" sh -c 'out=$1; shift; build/bin/bench --device 1 "$@" >"$out"' \
        bench "$logs/speed-$1.json" --part "$1" ${3-}
    code=$?
    sed -n 's/^#row //p' "$logs/speed-$1.log" | tee -a "$table"
    [ $code = 0 ] && return
    verdict "bench --device 1 --part $1" $code "$logs/speed-$1.log"
    tail -n 3 "$logs/speed-$1.log"
}
if wants tests; then
    cases 'API: devices' 'device: the API without one' api 20
    cases 'I8 models: the CPU'"'"'s bits, batch 1 and 8, graphs on and off' 'CUDA: I8 models*' integers 100
    cases 'every variant of every operation' 'CUDA: every variant*' operations 90
    cases 'other formats: the same bits again' 'CUDA: other formats*' formats 30
    cases 'refusals are statuses' 'CUDA: a device has no room*' refusals 20
    cases 'a long step can be stopped' 'CUDA: a long step*' stopped 20
fi
if wants speed; then
    speed limits 20
    speed r1-8b 70 --quick
    speed r1-1.5b 30 --quick
    speed attention 30
    speed products 60
    speed memory 40
fi
if wants engine; then
    limited 90 "$logs/engine.log" tests/on_device build/bin/deepseek-tests 85
    code=$?
    if grep -q '^SKIPPED' "$logs/engine.log"; then
        row 'engines on the device' SKIPPED "$(sed -n 's/^SKIPPED: //p' "$logs/engine.log" | cut -c1-100)"
        failed=1
    else verdict "engines on the device: $(tail -n 1 "$logs/engine.log")" $code "$logs/engine.log"
    fi
    grep -E '^(FAILED|not run)' "$logs/engine.log" | sed 's/^/  /' | tee -a "$table"
fi
if wants sanitizer; then
    sanitizer=$(command -v compute-sanitizer || ls "$(dirname "${nvcc:-/}")/compute-sanitizer" 2>/dev/null)
    if [ -z "$sanitizer" ]; then row 'compute-sanitizer' 'not found' ''
    else
        for tool in memcheck racecheck initcheck; do
            limited 40 "$logs/$tool.log" env DS_CUDA_FEW=1 "$sanitizer" --tool $tool --error-exitcode 9 \
                build/bin/deepseek-tests -tc='CUDA: I8 models*'
            code=$?
            if [ $code = 124 ]; then
                row "compute-sanitizer $tool" 'not finished' 'in its time; nothing found until then'
            else verdict "compute-sanitizer $tool" $code "$logs/$tool.log"
            fi
        done
    fi
fi
row 'in all' '' "$(since)"
echo
cat "$table"
exit $failed

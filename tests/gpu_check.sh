#!/bin/sh
# Everything that needs a CUDA device, in one go and under eight minutes: builds for its kind, runs the operations and engines on it, the speeds, compute-sanitizer where it
# is found, and closes with a table of what was wanted and what was found. usage: tests/gpu_check.sh [OUTPUT-DIRECTORY]
# Every part has a time of its own and says what came of it in table.txt as soon as it is known, so that one that fails or hangs hides no other. What each part said, and the
# speeds as JSON, are in build/gpu-logs, and at the end in logs.tar.gz beside the table.
# Where the machine with the device cannot build all of it (it has no doctest, say), build elsewhere, for its kind, at any path, and bring build/bin/{deepseek-tests,bench} and
# build/lib/libdeepseek-cuda.so along: DS_GPU_BUILT=1 takes them as they are.
# DS_GPU_JOBS: compilers at once (all processors). DS_GPU_SECONDS: for all (470). DS_GPU_PARTS: some of "tests speed engine sanitizer", in that order; all when unset.
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
# limited SECONDS LOG COMMAND…: under its own limit and what is left of all; 125: there was nothing left.
limited() {
    limit=$1 log=$2
    shift 2
    left=$((until - $(date +%s)))
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 3 ]; then echo 'no time was left' >"$log"; return 125; fi
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
}
# verdict NAME CODE LOG: a row for what came of it.
verdict() {
    case $2 in
        0) row "$1" ok "$(since)" ;;
        124|137) row "$1" 'TIMED OUT' "see $3"; failed=1 ;;
        125) row "$1" 'not run' 'no time was left'; failed=1 ;;
        *) row "$1" FAILED "exit status $2, see $3"; grep -m 12 -E 'ERROR|FATAL|terminate|Segmentation' "$3"; failed=1 ;;
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
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv,noheader 2>/dev/null | tee "$out/device.txt"

if [ -n "${DS_GPU_BUILT-}" ]; then
    # The tests look for their files where they were built.
    there=$(grep -aoE '/[^"[:cntrl:]]*/models/tiny-r1\.gguf' build/bin/deepseek-tests | head -n 1)
    there=${there%/models/tiny-r1.gguf}
    if [ -n "$there" ] && [ ! -e "$there/models" ]; then mkdir -p "$(dirname "$there")" && ln -sfn "$PWD" "$there"; fi
    row 'built elsewhere' ok ''
elif make -j"$jobs" CUDA=1 CUDA_ARCH="$arch" cuda build/bin/deepseek-tests build/bin/bench >"$logs/build.log" 2>&1; then
    row "built for $arch" ok "$(since)"
else
    tail -n 40 "$logs/build.log"
    row "built for $arch" FAILED "see $logs/build.log"
    exit 1
fi
# cuBLAS may lie where nothing looks for it.
if ldd build/lib/libdeepseek-cuda.so | grep -q 'libcublas.*not found'; then
    found=$(find / -name 'libcublas.so.*' -not -path '/proc/*' 2>/dev/null | head -n 1)
    LD_LIBRARY_PATH="$(dirname "${found:-/}"):${LD_LIBRARY_PATH-}"
    export LD_LIBRARY_PATH
    row 'cuBLAS' "${found:-not found}" ''
fi

# cases NAME PATTERN LOG SECONDS: doctest's test cases, one row for all of a pattern.
cases() {
    limited "$4" "$logs/$3.log" build/bin/deepseek-tests -tc="$2"
    code=$?
    if grep -q 'MESSAGE: skipped' "$logs/$3.log"; then
        row "$1" SKIPPED "$(grep -m 1 'MESSAGE: skipped' "$logs/$3.log" | sed 's/.*MESSAGE: //' | cut -c1-100)"
        failed=1
    else verdict "$1" $code "$logs/$3.log"
    fi
}
# speed PART SECONDS [FLAG]: its rows, those before a failure too.
speed() {
    # shellcheck disable=SC2016,SC2086  # for the inner shell; a word or none
    limited "$2" "$logs/speed-$1.log" sh -c 'out=$1; shift; build/bin/bench --device 1 "$@" >"$out"' bench "$logs/speed-$1.json" --part "$1" ${3-}
    code=$?
    sed -n 's/^#row //p' "$logs/speed-$1.log" | tee -a "$table"
    [ $code = 0 ] || { verdict "bench --device 1 --part $1" $code "$logs/speed-$1.log"; tail -n 3 "$logs/speed-$1.log"; }
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
            limited 40 "$logs/$tool.log" env DS_CUDA_FEW=1 "$sanitizer" --tool $tool --error-exitcode 9 build/bin/deepseek-tests -tc='CUDA: I8 models*'
            code=$?
            if [ $code = 124 ]; then row "compute-sanitizer $tool" 'not finished' 'in its time; nothing found until then'
            else verdict "compute-sanitizer $tool" $code "$logs/$tool.log"
            fi
        done
    fi
fi
row 'in all' '' "$(since)"
echo
cat "$table"
exit $failed

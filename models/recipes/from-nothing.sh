#!/bin/sh
# Makes, from nothing, a model of half a million weights that adds numbers of three digits column by column
# and finds countdown's operation for two numbers, and tells how many problems it solves that it has never
# seen. The same bytes on every machine, with any number of threads.
# usage: models/recipes/from-nothing.sh DIRECTORY [THREADS]
#   BIN=build/bin    where train is
#   STEPS=2500       fewer for a look, but more than 100
# DIRECTORY gets the rows, the run's log and picture, and model.gguf. A run that was stopped continues when the
# same command is given again.
set -eu
bin=${BIN:-build/bin} steps=${STEPS:-2500} threads=${2:-0}
[ $# -ge 1 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
train=$(cd "$bin" && pwd)/train
mkdir -p "$1"
cd "$1"
if [ ! -e begin.gguf ]; then
    "$train" data arithmetic --digits 3 -n 40000 --seed 1 >sums.jsonl
    "$train" data countdown --numbers 2 -n 20000 --seed 1 >countdown.jsonl
    "$train" data arithmetic --digits 3 -n 300 --seed 2 --held-out >held.jsonl
    "$train" data countdown --numbers 2 -n 300 --seed 2 --held-out >>held.jsonl
    "$train" init --size tiny --bpe sums.jsonl --bpe countdown.jsonl --vocab-size 320 \
        --name 'from nothing' -o begin.gguf
fi
resume=
[ ! -e model.gguf.train ] || resume=--resume
# shellcheck disable=SC2086
"$train" sft -t "$threads" --lr 2e-3 --warmup 100 --steps "$steps" --batch-tokens 2048 --eval held.jsonl \
    --eval-every 500 --log run.jsonl $resume begin.gguf sums.jsonl=1 countdown.jsonl=1 -o model.gguf
rm -f model.gguf.train
"$train" plot run.jsonl -o run.svg
"$train" eval --solve -t "$threads" --max-new 200 model.gguf held.jsonl

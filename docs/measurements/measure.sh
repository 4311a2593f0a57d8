#!/usr/bin/env bash
# Takes the measurements behind the tables of README.md and docs/*.md, as reports for make_tables.py.
#
#     docs/measurements/measure.sh BOOK QA_FOLDER GROUP...
#
# BOOK is a long text; QA_FOLDER has the five sets of questions. Groups: speed, kv, lookup, cards, hybrid, gpt-oss,
# recurrence, mixture (they need the GPU for themselves, one run after the other; recurrence needs flash-linear-attention, and
# hybrid must not have it), peaks (bytes only), quality, qa (several processes at once). QWEN and SMOL name the
# models. CUDA_VISIBLE_DEVICES and taskset let two groups run on two GPUs of a machine. On an H200 speed takes
# some nine minutes, lookup three.
set -euo pipefail

book=$(realpath "$1") questions=$(realpath "$2")
shift 2
qwen=${QWEN:-qwen2.5-coder-0.5b} smol=${SMOL:-smollm2-135m}
here=$(cd "$(dirname "$0")" && pwd)
lrqk="${LRQK:-lrqk} bench --output json"

# Write the report of a run: report FOLDER/NAME OPTION...
report() {
    local target=$here/$1.json
    shift
    $lrqk "$@" >"$target.part" 2>"$target.log" && mv "$target.part" "$target" && rm "$target.log"
}

speed() {
    local shape="--shape llama-3.1-8b --repeat 1 --new-tokens 64"
    report speed/8b-q4-headline $shape --weights q4 --modes lrqk --ctx 8k,64k,128k,256k
    report speed/8b-bf16-modes $shape --weights bf16 --modes lrqk,dense --ctx 8k,64k,128k,256k
    report speed/8b-bf16-between --shape llama-3.1-8b --weights bf16 --modes lrqk,dense --ctx 16k,32k \
        --repeat 2 --new-tokens 16
    report speed/8b-bf16-eager --shape llama-3.1-8b --weights bf16 --modes dense,dense-eager --ctx 64k \
        --repeat 1 --new-tokens 16
    python3 "$here/profile_steps.py" llama-3.1-8b --ctx 64k,256k >"$here/speed/profile-8b-q4.json"
}

kv() {
    local form shape="--shape llama-3.1-8b --repeat 1 --new-tokens 64"
    for form in bf16 int8 fp8; do
        report speed/kv-8b-$form $shape --weights q4 --modes lrqk --ctx 64k,128k --kv-dtype $form
        report speed/kv-1b-$form --shape llama-3.2-1b --weights bf16 --modes lrqk --ctx 64k,128k \
            --repeat 1 --new-tokens 64 --kv-dtype $form
    done
}

lookup() {
    report lookup/qwen --suite lookup --model $qwen --ctx 16k,32k --haystack $book
    report lookup/smol --suite lookup --model $smol --ctx 8k --hot 1984 --haystack $book
}

# The families of this year: lrqk within 23 GiB, what a card of 24 has for it, beside full attention without a limit.
family() {
    report families/$1 --shape $1 --weights q4 --modes lrqk,dense --memory-cap 23GiB --repeat 1 --new-tokens 64 --ctx $2
    python3 "$here/profile_steps.py" $1 --ctx 128k >"$here/families/profile-$1.json"
}

hybrid() {
    family qwen3.5-27b 32k,128k,256k
}

gpt-oss() {
    family gpt-oss-20b 32k,128k
}

mixture() {
    family qwen3-30b-a3b 32k,128k
    report families/qwen3-30b-a3b-256k --shape qwen3-30b-a3b --weights q4 --modes lrqk,dense --memory-cap 23GiB \
        --repeat 1 --new-tokens 64 --ctx 256k
    report families/offloaded-qwen3-30b-a3b --shape qwen3-30b-a3b --weights q4 --modes lrqk --vram 8GiB \
        --offload-weights --repeat 1 --new-tokens 64 --ctx 32k
}

recurrence() {
    report families/recurrence-qwen3.5-27b --shape qwen3.5-27b --weights q4 --modes lrqk,dense --memory-cap 23GiB \
        --repeat 1 --new-tokens 64 --ctx 32k,128k,256k
    python3 "$here/profile_steps.py" qwen3.5-27b --ctx 128k >"$here/families/profile-recurrence-qwen3.5-27b.json"
}

peaks() {
    local shape small="--rank 32 --index-bits 8 --hot 4096 --segment 2048"
    for shape in llama-3.2-1b qwen2.5-1.5b llama-3.2-3b; do
        report speed/peak-$shape --shape $shape --modes lrqk,dense --ctx 8k,16k,32k,64k --repeat 1 --new-tokens 8
        report speed/peak-$shape-small --shape $shape --modes lrqk --ctx 8k,16k,32k,64k --repeat 1 \
            --new-tokens 8 $small
    done
}

cards() {
    local run="--modes lrqk --repeat 1 --new-tokens 64"
    report speed/vram-3b $run --shape llama-3.2-3b --vram 8GiB --ctx 64k
    report speed/vram-4b $run --shape qwen3-4b --vram 12GiB --ctx 40000
    report speed/vram-7b $run --shape qwen2.5-7b --vram 16GiB --ctx 32000
    report speed/vram-8b-8-headline $run --shape llama-3.1-8b --vram 8GiB --ctx 128k
    report speed/vram-8b-10-headline $run --shape llama-3.1-8b --vram 10GiB --ctx 256k
    report speed/vram-8b-24 $run --shape llama-3.1-8b --vram 24GiB --ctx 64k
}

# The runs of quality and qa, one a line: FOLDER/NAME OPTION...
quality() {
    local fidelity="--suite fidelity --haystack $book --new-tokens 64 --samples 4"
    local large="$fidelity --model $qwen --ctx 32k --modes lrqk,resident"
    local little="$fidelity --model $smol --ctx 8k --hot 1984 --modes lrqk,resident"
    local seed text tasks=niah_multivalue,vt,cwe,fwe
    for seed in 0 1; do
        text="--tasks " # the text has no seed
        [ $seed = 0 ] && text="--text $book --tasks text,"
        echo quality/qwen-32k-seed$seed $large --vary hot=2393 --seed $seed ${text}niah_multikey_3,$tasks
        echo quality/smol-8k-seed$seed $little --vary hot=550 --seed $seed ${text}niah_multikey_1,$tasks
    done
    for seed in 0 1 2 3; do
        text="--tasks "
        [ $seed = 0 ] && text="--text $book --tasks text,"
        echo quality/qwen-32k-turns-seed$seed $large --turns 3 --seed $seed ${text}niah_multikey_2,vt
        echo quality/smol-8k-turns-seed$seed $little --turns 3 --seed $seed ${text}niah_multikey_1,vt
    done
    local few="--suite fidelity --haystack $book --text $book --model $smol --ctx 8k --hot 1984"
    few="$few --tasks text,cwe,fwe --samples 1 --new-tokens 48"
    echo quality/smol-8k-vary $few --modes lrqk,resident --vary hot=550,4032 --vary tail=mean,none \
        --vary top-k=248,992 --vary rank=32 --vary index-bits=8
    echo quality/smol-8k-paper $few --modes lrqk,paper
    echo quality/smol-8k-layers $few --modes lrqk --vary hot=550 --layers
}

qa() {
    local set
    for set in quality financial_qa scientific_qa multidoc_qa natural_question; do
        local ctx=16k hot=1984
        [ $set = natural_question ] && ctx=32k hot=4032
        local data="--suite qa --qa-data $questions/$set.jsonl --samples 100 --modes lrqk,dense"
        echo quality/qa-qwen-$set $data --model $qwen --ctx $ctx --hot $hot --vary hot=$((hot / 4 + 54))
        [ $set = natural_question ] ||
            echo quality/qa-smol-$set $data --model $smol --ctx 8k --hot 1984 --vary hot=550
    done
}

export -f report
export here lrqk
for group in "$@"; do
    case $group in
    speed | kv | lookup | cards | hybrid | gpt-oss | recurrence | mixture | peaks) $group ;;
    quality | qa) $group | xargs -P "${PROCESSES:-8}" -I{} bash -c 'report {}' ;;
    *) echo "unknown group $group" >&2 && exit 2 ;;
    esac
done

#!/usr/bin/env bash
# Fuzzes every reader, or those named, for SECONDS_EACH (60): `tests/fuzz/run.sh [TARGET...]`. Needs cargo-fuzz.
#
# Ends with a table of executions. A finding stands under artifacts/TARGET and ends the run with 1. No input may take more than
# 10 s or 2 GB.
set -uo pipefail
cd "$(dirname "$0")"
# cargo-fuzz asks the compiler for what only nightlies give without this.
export RUSTC_BOOTSTRAP=1
seconds=${SECONDS_EACH:-60}
targets=("$@")
[ $# -gt 0 ] || targets=(gguf safetensors config tokenizer template manifest sample profile scorer analysis explorer evaluation prompts)
KVSCOPE=${KVSCOPE:-} bash ./seeds.sh || exit 2
cargo fuzz build --fuzz-dir . || exit 2
table="| target | executions | a second | corpus | findings |"$'\n'"| --- | --- | --- | --- | --- |"
failed=0
for target in "${targets[@]}"; do
    log=$(mktemp)
    cargo fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1
    code=$?
    stat() { grep -o "$1: *[0-9]*" "$log" | tail -1 | grep -o '[0-9]*$'; }
    findings=0
    if [ $code -ne 0 ]; then
        failed=1 findings=1
        grep -E "panicked|ERROR|SUMMARY|ALARM|artifact" "$log" | head -5
        tail -3 "$log"
    fi
    table+=$'\n'"| $target | $(stat stat::number_of_executed_units) | $(stat stat::average_exec_per_sec) | $(ls "corpus/$target" | wc -l) | $findings |"
    rm -f "$log"
done
echo "$table"
exit $failed

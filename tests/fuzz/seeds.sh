#!/usr/bin/env bash
# Makes what the fuzz targets begin with: corpus/TARGET from the fixtures, and made/ (a dump, a report, an evaluation) with the
# program named by KVSCOPE. Equal fixtures and programs give equal seeds.
set -euo pipefail
cd "$(dirname "$0")"
kvscope=$(realpath "${KVSCOPE:-../../target/release/kvscope}")
fixtures=$(realpath ../fixtures)
models=$fixtures/models

rm -rf made
mkdir -p made
for i in 1 2 3 4; do
    printf '{"input": "the ring and then in a stone on the shore %s", "dataset": "d%s", "_id": "%s", "answers": ["a"]}\n' "$i" $((i % 2)) "$i"
done >made/prompts.jsonl
(
    cd made
    model=$models/llama-gqa
    "$kvscope" --quiet capture --model "$model" --prompts prompts.jsonl --max-tokens 24 --out dump
    "$kvscope" --quiet analyze dump --maps 0:0 --out report >/dev/null
    "$kvscope" --quiet tune dump --budget 0.6 --policy h2o --policy kvmerger --out report >/dev/null
    "$kvscope" --quiet learn dump --model "$model" --out weights.safetensors >/dev/null
    "$kvscope" --quiet eval --model "$model" --prompts prompts.jsonl --context 16 --continuation 4 --policy h2o --budget 0.5 --out eval >/dev/null
)

corpus() {
    local target=$1 i=0
    shift
    mkdir -p "corpus/$target"
    for file in "$@"; do
        i=$((i + 1))
        cp "$file" "corpus/$target/seed-$i"
    done
}
corpus gguf "$models"/*.gguf "$fixtures"/tokenizers/*.gguf
corpus safetensors "$models"/llama-gqa/model.safetensors
corpus config "$models"/*/config.json "$models"/*/*.index.json
corpus tokenizer $(find "$fixtures" -name tokenizer.json -o -name tokenizer.model)
printf '%s' "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'x' ~ 1 }}{% endif %}" >made/template.jinja
printf '%s' "{% macro f(x, y=[1, 2]) %}{{ x[0:2] | join(y | length) }}{% endmacro %}{% set ns = namespace(a=1) %}{{ f(messages[0].content.split(' ')) }}{% if not ns.a is defined %}{{ raise_exception('no') }}{% endif %}" >made/macro.jinja
corpus template made/*.jinja $(find "$fixtures" -name tokenizer_config.json)
corpus manifest made/dump/manifest.json
corpus sample made/dump/*.safetensors
corpus profile made/report/*.profile.json
corpus scorer made/weights.safetensors
corpus analysis made/report/analysis.json made/report/maps/*.safetensors
corpus explorer made/report/explorer.safetensors
corpus evaluation made/eval/eval.json made/eval/rows.jsonl
corpus prompts made/prompts.jsonl $(find "$fixtures/prompts" -type f)

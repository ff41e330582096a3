// Time and memory of converting a large checkpoint, beside llama.cpp's quantizer on the same data. The
// checkpoint is generated: DeepSeek-V2-Lite's shape, or fewer layers of it, with random weights in BF16
// shards and the padded vocabulary of a test model. All files are removed afterwards.
import { execFileSync, spawn } from "node:child_process";
import { closeSync, copyFileSync, existsSync, mkdirSync, openSync, readFileSync, readSync, rmSync, statSync,
    writeFileSync, writeSync } from "node:fs";
import { totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const usage = `usage: tests/interop/run BIN-DIRECTORY --convert [flags]
  --layers N       of the model; default 27, as V2-Lite has: 16e9 weights, which need 60 GB of disk space
  --types A,B      default: q4_k_m,int8 (llama.cpp's part of int8 is q8_0)
  --threads N      of both; default: 2
  --ours           leaves out llama.cpp's part
  --keep           keeps the checkpoint and the files, and uses an existing checkpoint`;

const [work, quantize, quantizers, library, data, ...rest] = process.argv.slice(2);
const { values } = parseArgs({
    args: rest,
    options: {
        layers: { type: "string", default: "27" }, types: { type: "string", default: "q4_k_m,int8" },
        threads: { type: "string", default: "2" }, ours: { type: "boolean" }, keep: { type: "boolean" },
        help: { type: "boolean" },
    },
});
if (values.help) {
    console.log(usage);
    process.exit(0);
}

// ---- The checkpoint

const config = {
    architectures: ["DeepseekV2ForCausalLM"], model_type: "deepseek_v2",
    num_hidden_layers: Number(values.layers), hidden_size: 2048, num_attention_heads: 16,
    num_key_value_heads: 16, intermediate_size: 10944, vocab_size: 102400, max_position_embeddings: 163840,
    rope_theta: 10000, rms_norm_eps: 1e-6, tie_word_embeddings: false, q_lora_rank: null, kv_lora_rank: 512,
    qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, n_routed_experts: 64,
    n_shared_experts: 2, num_experts_per_tok: 6,
    moe_intermediate_size: 1408, first_k_dense_replace: 1, routed_scaling_factor: 1, scoring_func: "softmax",
    topk_method: "greedy", norm_topk_prob: false, n_group: 1, topk_group: 1,
    rope_scaling: {
        type: "yarn", factor: 40, original_max_position_embeddings: 4096, beta_fast: 32, beta_slow: 1,
        mscale: 0.707, mscale_all_dim: 0.707,
    },
};

function tensorsOf(c) {
    const d = c.hidden_size, heads = c.num_attention_heads;
    const out = [["model.embed_tokens.weight", [c.vocab_size, d]]];
    const gated = (name, ffn) => out.push([`${name}.gate_proj.weight`, [ffn, d]],
        [`${name}.up_proj.weight`, [ffn, d]], [`${name}.down_proj.weight`, [d, ffn]]);
    for (let i = 0; i < c.num_hidden_layers; ++i) {
        const at = `model.layers.${i}`, attention = `${at}.self_attn`;
        out.push([`${at}.input_layernorm.weight`, [d]], [`${at}.post_attention_layernorm.weight`, [d]],
            [`${attention}.q_proj.weight`, [heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), d]],
            [`${attention}.kv_a_proj_with_mqa.weight`, [c.kv_lora_rank + c.qk_rope_head_dim, d]],
            [`${attention}.kv_a_layernorm.weight`, [c.kv_lora_rank]],
            [`${attention}.kv_b_proj.weight`, [heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank]],
            [`${attention}.o_proj.weight`, [d, heads * c.v_head_dim]]);
        if (i < c.first_k_dense_replace) gated(`${at}.mlp`, c.intermediate_size);
        else {
            out.push([`${at}.mlp.gate.weight`, [c.n_routed_experts, d]]);
            for (let e = 0; e < c.n_routed_experts; ++e)
                gated(`${at}.mlp.experts.${e}`, c.moe_intermediate_size);
            gated(`${at}.mlp.shared_experts`, c.n_shared_experts * c.moe_intermediate_size);
        }
    }
    out.push(["model.norm.weight", [d]], ["lm_head.weight", [c.vocab_size, d]]);
    return out;
}

// Nearly normal values of standard deviation 0.02 as BF16. Tensors are read from it at varying offsets.
function makeTile(elements) {
    const values = new Float32Array(elements), bits = new Uint32Array(values.buffer);
    const out = new Uint16Array(elements);
    let state = 0x9e3779b9;
    const uniform = () => {
        state ^= state << 13, state ^= state >>> 17, state ^= state << 5;
        return (state >>> 0) / 2 ** 32 - 0.5;
    };
    for (let i = 0; i < elements; ++i)
        values[i] = (uniform() + uniform() + uniform() + uniform()) * 0.02 * Math.sqrt(3);
    for (let i = 0; i < elements; ++i) out[i] = bits[i] >>> 16;
    return Buffer.from(out.buffer);
}

const shardBytes = 4e9, indexName = "model.safetensors.index.json";
function makeCheckpoint(directory) {
    const tile = makeTile(1 << 22), shards = [[]];
    let size = 0, at = 0;
    for (const [name, shape] of tensorsOf(config)) {
        const bytes = 2 * shape.reduce((a, b) => a * b, 1);
        if (size + bytes > shardBytes && size > 0) shards.push([]), size = 0;
        shards.at(-1).push([name, shape, bytes]);
        size += bytes;
    }
    mkdirSync(directory, { recursive: true });
    const map = {}, paths = [], five = (n) => String(n).padStart(5, "0");
    shards.forEach((shard, i) => {
        const name = `model-${five(i + 1)}-of-${five(shards.length)}.safetensors`, header = {};
        let end = 0;
        for (const [tensor, shape, bytes] of shard) {
            header[tensor] = { dtype: "BF16", shape, data_offsets: [end, end += bytes] };
            map[tensor] = name;
        }
        let text = JSON.stringify(header);
        text = text.padEnd(Math.ceil(text.length / 8) * 8);
        const length = Buffer.alloc(8), file = openSync(join(directory, name), "w");
        length.writeBigUInt64LE(BigInt(text.length));
        writeSync(file, length);
        writeSync(file, text);
        for (let left = end; left > 0;) {
            at = (at * 69069 + 1) % 2 ** 20;
            const n = writeSync(file, tile, 2 * at, Math.min(left, tile.length - 2 * at));
            left -= n;
        }
        closeSync(file);
        paths.push(join(directory, name));
    });
    writeFileSync(join(directory, indexName), JSON.stringify({ metadata: {}, weight_map: map }));
    writeFileSync(join(directory, "config.json"), JSON.stringify(config));
    for (const file of ["tokenizer.json", "tokenizer_config.json"])
        copyFileSync(join(data, "micro/deepseek-v2-lite", file), join(directory, file));
    return paths;
}
function shardsOf(directory) {
    const map = JSON.parse(readFileSync(join(directory, indexName), "utf8")).weight_map;
    return [...new Set(Object.values(map))].sort().map((name) => join(directory, name));
}

// ---- Converting

// Runs a program. Its peak resident size is what the kernel reports while it runs (proc(5), VmHWM).
function timed(program, args) {
    return new Promise((resolve, reject) => {
        const begin = performance.now(), child = spawn(program, args, { stdio: "inherit" });
        let peak = 0;
        const look = setInterval(() => {
            const status = `/proc/${child.pid}/status`;
            const found = existsSync(status) && /VmHWM:\s*(\d+)/.exec(readFileSync(status, "utf8"));
            if (found) peak = Math.max(peak, Number(found[1]) * 1024);
        }, 20);
        child.on("exit", (code) => {
            clearInterval(look);
            if (code === 0) resolve({ seconds: (performance.now() - begin) / 1000, peak });
            else reject(new Error(`${program} ${args[0]}: exit status ${code}`));
        });
    });
}

const directory = join(work, `v2-lite-${values.layers}`);
if (!values.keep) rmSync(directory, { recursive: true, force: true });
const shards = existsSync(join(directory, "config.json")) ? shardsOf(directory) : makeCheckpoint(directory);
const checkpointBytes = shards.reduce((sum, path) => sum + statSync(path).size, 0);

// Reads the checkpoint into the system's cache for both, unless it is larger than half of the memory.
function readOnce() {
    if (checkpointBytes > totalmem() / 2) return;
    const buffer = Buffer.alloc(1 << 26);
    for (const path of shards) {
        const file = openSync(path, "r");
        while (readSync(file, buffer) > 0);
        closeSync(file);
    }
}

const gigabytes = (path) => (statSync(path).size / 1e9).toFixed(2) + " GB";
console.log(`${directory}: ${shards.length} shards, ${(checkpointBytes / 1e9).toFixed(2)} GB`);
for (const type of values.types.split(",")) {
    const out = join(directory, `${type}.gguf`), other = join(directory, "other");
    readOnce();
    const ours = await timed(quantize,
        ["convert", directory, out, "--type", type, "--threads", values.threads, "--quiet"]);
    console.log(`${type.padEnd(8)} ${ours.seconds.toFixed(1)} s, ${gigabytes(out)}, ` +
        `at most ${(ours.peak / 2 ** 30).toFixed(2)} GiB resident`);
    if (!values.ours) {
        readOnce();
        const all = [library, "convert", values.threads, out, other, ...shards];
        const theirs = JSON.parse(execFileSync(quantizers, all, { encoding: "utf8" }));
        console.log(`${"".padEnd(8)} llama.cpp's quantizer ${theirs.seconds.toFixed(1)} s, ` +
            `of which ${theirs.encoding.toFixed(1)} s for encoding: ` +
            `ours is ${(theirs.seconds / ours.seconds).toFixed(2)} times as fast`);
        rmSync(other);
    }
    if (!values.keep) rmSync(out);
}
if (!values.keep) rmSync(directory, { recursive: true });

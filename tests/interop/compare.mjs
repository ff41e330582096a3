// Compares greedy continuations with llama.cpp: of the test checkpoints in F32 and Q8_0, and of a random
// model of 256 channels in every type that both support.
// Tokens must be equal up to the first close call: a position whose two best logits differ by at most 0.01
// (F32) or 0.5 (Q8_0, where activations are rounded too), so that rounding may decide. Up to there the best
// logits may differ by no more than that. For the random model the negative log-likelihood of random ids is
// compared too; it may differ by 0.5 %. Two of the files are also split and loaded in parts by both.
// For models with routed experts (F32 only) a position is also a close call if its experts were chosen by a
// margin below 0.001 in the scores that rank them. The prompt is the part of the checkpoint's ids whose
// continuation has its first close call last.
// usage: node compare.mjs WORK-DIRECTORY QUANTIZE GREEDY DATA-DIRECTORY
import { execFileSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { open } from "./peer.mjs";
import { describeTokens, equalTokens, int64s } from "./tokens.mjs";

const [work, quantize, greedy, data] = process.argv.slice(2);
const names = ["micro/llama", "micro/llama-linear", "micro/llama3", "micro/qwen2", "micro/qwen3",
    "micro/r1-zero", "tiny-r1"];
const tolerance = { f32: 0.01, q8_0: 0.5 };
const promptTokens = 16, newTokens = 24;
const routed = ["micro/deepseek-v2-lite", "micro/deepseek-v2", "micro/deepseek-r1", "micro/deepseek-r1-fp8"];
const routingMargin = 0.001;
// Models for which llama.cpp is known to differ, with the reason.
const otherwise = {
    "micro/deepseek-v2": "llama.cpp ranks every group of experts by its two best; DeepSeek V2 by its best " +
        "(arXiv 2405.04434, section 2.2.2)",
};

// Both return a list of {token, best, second}.
function ours(model, prompt) {
    const text = execFileSync(greedy, [model, String(newTokens), prompt.join(",")], { encoding: "utf8" });
    const rows = text.trim().split("\n").map((line) => line.split(" ").map(Number));
    return rows.map(([token, best, second]) => ({ token, best, second }));
}

async function theirs(model, prompt) {
    const peer = await open(work, model, { contextSize: 256, kv: "F32" });
    const out = [];
    for (let input = prompt; out.length < newTokens; input = [out.at(-1).token]) {
        const [[token, best], [, second]] = await peer.next(input, 2);
        out.push({ token, best, second });
    }
    await peer.close();
    return out;
}

const compare = (a, b, closeness, margins = []) =>
    equalTokens(a, b, closeness, (i) => Math.min(...margins.slice(0, promptTokens + i)) < routingMargin,
        margins.length > 0);
const describe = (r) => describeTokens(r, newTokens);

// ---- The random model in every type, made from Q8_0

// Below 8 bits the two libraries round activations differently: in blocks of 32 or of 256.
const eightBits = ["f32", "f16", "bf16", "q8_0"];
const writable = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k", "q5_1",
    "q5_0", "q4_1", "q4_0", "iq4_nl"];
const randomIds = Array.from({ length: 96 }, (_, i) => (i * i * 7919 + i * 31) % 256 + 3);

function ourLikelihood(model, ids) {
    return Number(execFileSync(greedy, [model, "nll", ids.join(",")], { encoding: "utf8" }));
}
async function theirLikelihood(model, ids) {
    const peer = await open(work, model, { contextSize: 256, kv: "F32" });
    let sum = 0;
    for (let i = 0; i + 1 < ids.length; ++i) {
        const logits = new Map(await peer.next([ids[i]], 512));     // 512: the whole vocabulary
        const values = [...logits.values()], most = Math.max(...values);
        sum += Math.log(values.reduce((s, x) => s + Math.exp(x - most), 0)) + most - logits.get(ids[i + 1]);
    }
    await peer.close();
    return sum / (ids.length - 1);
}

let passed = 0, failed = 0;
function report(ok, name, text) {
    ok ? ++passed : ++failed;
    console.log(`${ok ? "ok    " : "FAILED"}  ${name.padEnd(24)} ${text}`);
}

const source = join(work, "small-llama.gguf");
execFileSync(quantize, ["synth", source, "--shape", "small-llama", "--type", "q8_0", "--quiet"]);
for (const type of writable) {
    const model = join(work, `small-llama-${type}.gguf`);
    execFileSync(quantize, ["requantize", source, model, "--type", type, "--quiet"]);
    const [a, b] = [ourLikelihood(model, randomIds), await theirLikelihood(model, randomIds)];
    const off = Math.abs(a / b - 1);
    report(off < 0.005, `small-llama ${type}`,
        `negative log-likelihood ${a.toFixed(4)} and ${b.toFixed(4)}, ${(100 * off).toFixed(3)} % apart`);
    const prompt = randomIds.slice(0, promptTokens), closeness = eightBits.includes(type) ? 0.1 : 0.2;
    const r = compare(ours(model, prompt), await theirs(model, prompt), closeness);
    report(r.ok, `small-llama ${type}`, describe(r));
}

async function check(label, name, type, model) {
    const prompt = int64s(join(data, name, "golden.safetensors"), "input_ids").slice(0, promptTokens);
    const r = compare(ours(model, prompt), await theirs(model, prompt), tolerance[type]);
    report(r.ok, label, describe(r));
}
for (const name of names)
    for (const type of Object.keys(tolerance)) {
        const model = join(work, `${name.replace("/", "-")}-${type}.gguf`);
        execFileSync(quantize, ["convert", join(data, name), model, "--type", type, "--quiet"]);
        await check(`${name} ${type}`, name, type, model);
    }
const splits = [["micro/qwen2", "f32", ["--split-max-tensors", "12"]],
    ["tiny-r1", "q8_0", ["--split-max", "600K"]]];
for (const [name, type, limit] of splits) {
    const whole = join(work, `${name.replace("/", "-")}-${type}.gguf`), prefix = join(work, `parts-${type}`);
    for (const file of readdirSync(work)) if (file.startsWith(`parts-${type}-`)) rmSync(join(work, file));
    execFileSync(quantize, ["split", whole, prefix, ...limit, "--quiet"]);
    const parts = readdirSync(work).filter((file) => file.startsWith(`parts-${type}-`)).sort();
    await check(`${name} ${type}, ${parts.length} files`, name, type, join(work, parts[0]));
}

// ---- Routed experts

function ourMargins(model, ids) {
    const text = execFileSync(greedy, [model, "margins", ids.join(",")], { encoding: "utf8" });
    return text.trim().split("\n").map(Number);
}

// The part of the ids whose continuation has its first close call last, with our continuation.
function steadiest(model, ids) {
    let best = null;
    const end = Math.min(ids.length, 8 * promptTokens);
    for (let first = 0; first + promptTokens <= end; first += promptTokens) {
        const prompt = ids.slice(first, first + promptTokens), tokens = ours(model, prompt);
        const margins = ourMargins(model, [...prompt, ...tokens.slice(0, -1).map((t) => t.token)]);
        const { close } = compare(tokens, tokens, tolerance.f32, margins);
        const until = close ?? newTokens;
        if (best === null || until > best.until) best = { until, prompt, tokens, margins };
    }
    return best;
}

for (const name of routed) {
    const model = join(work, `${name.replace("/", "-")}-f32.gguf`);
    execFileSync(quantize, ["convert", join(data, name), model, "--type", "f32", "--quiet"]);
    const ids = int64s(join(data, name, "golden.safetensors"), "input_ids");
    const { prompt, tokens, margins } = steadiest(model, ids);
    let peers = null;
    try {
        peers = await theirs(model, prompt);
    } catch (error) {
        report(name in otherwise, `${name} f32`, `llama.cpp refuses it: ${error.message}`);
        continue;
    }
    const r = compare(tokens, peers, tolerance.f32, margins);
    const reason = name in otherwise ? `; not required: ${otherwise[name]}` : "";
    report(r.ok || name in otherwise, `${name} f32`, describe(r) + reason);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;

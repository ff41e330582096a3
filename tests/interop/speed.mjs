// llama.cpp's speed beside ours on the same file, measured alternately, so that other load on the machine
// affects both. Both process the prompt in steps of at most 512 tokens and then decode; llama.cpp has one
// unmeasured run first. It is timed in a separate program through its C interface: node-llama-cpp adds some
// milliseconds a token.
import { execFileSync, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { setTimeout } from "node:timers/promises";

const usage = `usage: tests/interop/run BIN-DIRECTORY --speed MODEL.gguf [flags]
  --ours FILE      a file of the same shape for our side, in a format that llama.cpp lacks, such as int8;
                   default: MODEL
  --isa NAME       our instruction set; default: the best
  --threads N      of both; default: 1
  --prompt N       prompt length; default 512
  --new N          tokens decoded; default 64
  --sequences N    instead: N prompts together, each with its answer; all tokens, prompts included, over the
                   time to the last one
  --turns N        runs of each; default 3
  --json           JSON instead of a table`;

const [libraries, program, bench, ...rest] = process.argv.slice(2);
const { values, positionals } = parseArgs({
    args: rest, allowPositionals: true,
    options: {
        ours: { type: "string" }, isa: { type: "string" }, threads: { type: "string", default: "1" },
        prompt: { type: "string", default: "512" }, new: { type: "string", default: "64" },
        sequences: { type: "string", default: "1" }, turns: { type: "string", default: "3" },
        json: { type: "boolean" }, help: { type: "boolean" },
    },
});
if (values.help || positionals.length !== 1) {
    console.log(usage);
    process.exit(values.help ? 0 : 2);
}
const model = positionals[0], ours = values.ours ?? model;
const [threads, promptTokens, newTokens, sequences, turns] =
    [values.threads, values.prompt, values.new, values.sequences, values.turns].map(Number);

const library = (pattern) => readdirSync(libraries).find((name) => pattern.test(name));
const libggml = library(/^libggml\.(v.*)?so/), libllama = library(/^libllama\.(v.*)?so/);
const peer = spawn(program,
    [libraries, libggml, libllama, model, threads, promptTokens, newTokens, sequences].map(String),
    { stdio: ["pipe", "pipe", "inherit"] });
const lines = createInterface({ input: peer.stdout })[Symbol.asyncIterator]();
async function line() {
    const { value, done } = await lines.next();
    if (done) process.exit(1);     // it has printed the reason
    return value;
}
const system = (await line()).trim(), release = /libllama\.(v?[\d.]*\d)?/.exec(libllama)[1] ?? "";
async function theirTurn() {
    peer.stdin.write("turn\n");
    const turn = JSON.parse(await line());
    await setTimeout(200);     // until its threads sleep
    return turn;
}

function ourTests(...flags) {
    const isa = values.isa ? ["--isa", values.isa] : [];
    // Not longer where a neighbour disturbs: llama.cpp has no second try either.
    const once = ["-r", 1, "--up-to", 1];
    const all = [ours, "-t", threads, ...once, "--no-text", "--json", ...flags, ...isa].map(String);
    return JSON.parse(execFileSync(bench, all, { encoding: "utf8" })).speed;
}
function ourTurn() {
    const tests = ourTests("-p", promptTokens, "-n", newTokens);
    const of = (test) => tests.find((s) => s.test === test);
    const [prompt, decode] = [of("prompt"), of("decode")];
    return {
        prompt: prompt.tokens_per_second_best, decode: decode.tokens_per_second_best,
        promptShare: prompt.share, decodeShare: decode.share, isa: prompt.isa,
    };
}
function ourSequences() {    // one token fewer: the first new one comes with the prompt
    const tests = ourTests("-p", 1, "-d", promptTokens, "-n", newTokens - 1, "-b", sequences, "--no-limits");
    return tests.find((s) => s.test === "decode").all_tokens_per_second_best;
}

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];

await theirTurn();
if (sequences > 1) {
    const [theirs, mine] = [[], []];
    for (let i = 0; i < turns; ++i) {
        theirs.push((await theirTurn()).all);
        mine.push(ourSequences());
    }
    console.log(`llama.cpp ${release}: ${system}`);
    console.log(`${model}${ours === model ? "" : ", ours " + ours}, ${threads} threads, ` +
        `${sequences} sequences of ${promptTokens} + ${newTokens} tokens, ${turns} runs of each; ` +
        "all tokens a second, median (best)");
    for (const [name, list] of [["llama.cpp", theirs], ["deepseek", mine]])
        console.log(`${name.padEnd(10)} ${median(list).toFixed(1)} (${Math.max(...list).toFixed(1)})`);
    console.log(`${"ratio".padEnd(10)} ${(median(mine) / median(theirs)).toFixed(2)}`);
    peer.stdin.end();
    process.exit(0);
}
const all = { "llama.cpp": [], deepseek: [] };
for (let i = 0; i < turns; ++i) {
    all["llama.cpp"].push(await theirTurn());
    all.deepseek.push(ourTurn());
}
const best = (list, key) => Math.max(...list.map((t) => t[key] ?? NaN));
const shares = { prompt: best(all.deepseek, "promptShare"), decode: best(all.deepseek, "decodeShare") };
const table = Object.entries(all).map(([name, list]) => ({
    name, threads,
    prompt: median(list.map((t) => t.prompt)), promptBest: Math.max(...list.map((t) => t.prompt)),
    decode: median(list.map((t) => t.decode)), decodeBest: Math.max(...list.map((t) => t.decode)),
}));
if (values.json) {
    const isa = all.deepseek[0].isa;
    const result = { model, ours, isa, shares, promptTokens, newTokens, turns, release, system, table };
    console.log(JSON.stringify(result, null, 2));
} else {
    console.log(`llama.cpp ${release}: ${system}`);
    console.log(`${model}, ${threads} thread${threads === 1 ? "" : "s"}, ${turns} runs of each; ` +
        "tokens a second, median (best)");
    for (const t of table)
        console.log(`${t.name.padEnd(10)} ` +
            `prompt ${promptTokens}: ${t.prompt.toFixed(1)} (${t.promptBest.toFixed(1)})   ` +
            `decode ${newTokens}: ${t.decode.toFixed(2)} (${t.decodeBest.toFixed(2)})`);
    const percent = (x) => (100 * x).toFixed(0) + " %";
    console.log(`deepseek   ${ours === model ? "" : ours + ", "}${all.deepseek[0].isa}; ` +
        `of the integer peak ${percent(shares.prompt)}, of the read bandwidth ${percent(shares.decode)}`);
    const [theirs, mine] = table;
    console.log(`${"ratio".padEnd(10)} prompt ${(mine.prompt / theirs.prompt).toFixed(2)}   ` +
        `decode ${(mine.decode / theirs.decode).toFixed(2)}`);
}
peer.stdin.end();

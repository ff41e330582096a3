// llama.cpp's speed beside ours on the same file, in turns, so that whatever else the machine does meets both.
// Both process the prompt in steps of at most 512 tokens and decode from one token on; a turn of theirs goes unmeasured. Theirs is timed in a program of its own,
// through the library's C interface: node-llama-cpp's takes some milliseconds a token.
import { execFileSync, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { setTimeout } from "node:timers/promises";

const usage = `usage: tests/interop/run BIN-DIRECTORY --speed MODEL.gguf [flags]
  --ours FILE      a file of ours in a format that llama.cpp has not (int8, say), of the same shape; default: MODEL
  --isa NAME       instruction set of ours; default: the best
  --threads N      of both; default: 1
  --prompt N       prompt length; default 512
  --new N          tokens decoded; default 64
  --sequences N    instead: so many prompts at once, each with its answer; tokens of all, prompts' and new ones, over the time to the last
  --turns N        of each; default 3
  --json           JSON instead of a table`;

const [libraries, program, bench, ...rest] = process.argv.slice(2);
const { values, positionals } = parseArgs({
    args: rest, allowPositionals: true,
    options: { ours: { type: "string" }, isa: { type: "string" }, threads: { type: "string", default: "1" }, prompt: { type: "string", default: "512" }, new: { type: "string", default: "64" },
               sequences: { type: "string", default: "1" }, turns: { type: "string", default: "3" }, json: { type: "boolean" }, help: { type: "boolean" } },
});
if (values.help || positionals.length !== 1) {
    console.log(usage);
    process.exit(values.help ? 0 : 2);
}
const model = positionals[0], ours = values.ours ?? model;
const [threads, promptTokens, newTokens, sequences, turns] = [values.threads, values.prompt, values.new, values.sequences, values.turns].map(Number);

const library = (pattern) => readdirSync(libraries).find((name) => pattern.test(name));
const peer = spawn(program, [libraries, library(/^libggml\.(v.*)?so/), library(/^libllama\.(v.*)?so/), model, threads, promptTokens, newTokens, sequences].map(String), { stdio: ["pipe", "pipe", "inherit"] });
const lines = createInterface({ input: peer.stdout })[Symbol.asyncIterator]();
async function line() {
    const { value, done } = await lines.next();
    if (done) process.exit(1);     // it has said why
    return value;
}
const system = (await line()).trim(), release = /libllama\.(v?[\d.]*\d)?/.exec(library(/^libllama\.(v.*)?so/))[1] ?? "";
async function theirTurn() {
    peer.stdin.write("turn\n");
    const turn = JSON.parse(await line());
    await setTimeout(200);     // their threads go to sleep
    return turn;
}

function ourTests(...flags) {
    const isa = values.isa ? ["--isa", values.isa] : [];
    return JSON.parse(execFileSync(bench, [ours, "-t", threads, "-r", 1, "--no-text", "--json", ...flags, ...isa].map(String), { encoding: "utf8" })).speed;
}
function ourTurn() {
    const tests = ourTests("-p", promptTokens, "-n", newTokens), of = (test) => tests.find((s) => s.test === test);
    const [prompt, decode] = [of("prompt"), of("decode")];
    return { prompt: prompt.tokens_per_second_best, decode: decode.tokens_per_second_best, promptShare: prompt.share, decodeShare: decode.share, isa: prompt.isa };
}
function ourSequences() {    // the first new token comes with the prompt
    return ourTests("-p", 1, "-d", promptTokens, "-n", newTokens - 1, "-b", sequences, "--no-limits").find((s) => s.test === "decode").all_tokens_per_second_best;
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
    console.log(`${model}${ours === model ? "" : ", ours " + ours}, ${threads} threads, ${sequences} sequences of ${promptTokens} + ${newTokens} tokens, ${turns} turns of each; all tokens a second, median (best)`);
    for (const [name, list] of [["llama.cpp", theirs], ["deepseek", mine]]) console.log(`${name.padEnd(10)} ${median(list).toFixed(1)} (${Math.max(...list).toFixed(1)})`);
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
if (values.json) console.log(JSON.stringify({ model, ours, isa: all.deepseek[0].isa, shares, promptTokens, newTokens, turns, release, system, table }, null, 2));
else {
    console.log(`llama.cpp ${release}: ${system}`);
    console.log(`${model}, ${threads} thread${threads === 1 ? "" : "s"}, ${turns} turns of each; tokens a second, median (best)`);
    for (const t of table)
        console.log(`${t.name.padEnd(10)} prompt ${promptTokens}: ${t.prompt.toFixed(1)} (${t.promptBest.toFixed(1)})   decode ${newTokens}: ${t.decode.toFixed(2)} (${t.decodeBest.toFixed(2)})`);
    const percent = (x) => (100 * x).toFixed(0) + " %";
    console.log(`deepseek   ${ours === model ? "" : ours + ", "}${all.deepseek[0].isa}; of the integer peak ${percent(shares.prompt)}, of the read bandwidth ${percent(shares.decode)}`);
    console.log(`${"ratio".padEnd(10)} prompt ${(table[1].prompt / table[0].prompt).toFixed(2)}   decode ${(table[1].decode / table[0].decode).toFixed(2)}`);
}
peer.stdin.end();

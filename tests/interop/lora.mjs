// Trains an adapter here, and compares greedy continuations with it with llama.cpp's: of an F32 and a Q8_0
// model, at two scales. Tokens must be equal up to the first close call: a position whose two best logits
// differ by at most 0.05 (F32; of logits up to 24, which without any adapter differ by 0.02 on these prompts)
// or 0.5 (Q8_0, where activations are rounded too); up to there the best logits may differ by no more than
// that. The adapter must change the tokens, in both programs. usage: node lora.mjs WORK-DIRECTORY QUANTIZE
// TRAIN GREEDY DATA-DIRECTORY
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { open } from "./peer.mjs";
import { describeTokens, equalTokens, int64s } from "./tokens.mjs";

const [work, quantize, train, greedy, data] = process.argv.slice(2);
const newTokens = 24, promptTokens = 16, prompts = 4, tolerance = { f32: 0.05, q8_0: 0.5 };

function ours(model, prompt, lora) {
    const adapter = lora ? [lora.filePath, String(lora.scale)] : [];
    const text = execFileSync(greedy, [model, String(newTokens), prompt.join(","), ...adapter],
        { encoding: "utf8" });
    const rows = text.trim().split("\n").map((line) => line.split(" ").map(Number));
    return rows.map(([token, best, second]) => ({ token, best, second }));
}
async function theirs(model, prompt, lora) {
    const peer = await open(work, model, { contextSize: 256, kv: "F32", lora });
    const out = [];
    for (let input = prompt; out.length < newTokens; input = [out.at(-1).token]) {
        const [[token, best], [, second]] = await peer.next(input, 2);
        out.push({ token, best, second });
    }
    await peer.close();
    return out;
}
const differ = (a, b) => a.some((x, i) => x.token !== b[i].token);

const ids = int64s(join(data, "tiny-r1", "golden.safetensors"), "input_ids");
const rows = join(work, "lora.jsonl"), filePath = join(work, "lora-adapter.gguf");
writeFileSync(rows, execFileSync(train, ["data", "countdown", "-n", "200"]));
const models = {};
for (const type of Object.keys(tolerance)) {
    models[type] = join(work, `lora-base-${type}.gguf`);
    execFileSync(quantize, ["convert", join(data, "tiny-r1"), models[type], "--type", type, "--quiet"]);
}
rmSync(`${filePath}.train`, { force: true });
execFileSync(train, ["sft", "-q", "--lora", "8", "--lora-alpha", "16", "--lr", "5e-3", "--steps", "40",
    "--batch-tokens", "512", models.f32, rows, "-o", filePath]);

let passed = 0, failed = 0;
function report(ok, name, text) {
    ok ? ++passed : ++failed;
    console.log(`${ok ? "ok    " : "FAILED"}  ${name.padEnd(28)} ${text}`);
}
for (const [type, model] of Object.entries(models)) {
    const changed = { here: 0, there: 0 };
    for (let i = 0; i < prompts; ++i) {
        const prompt = ids.slice(i * promptTokens, (i + 1) * promptTokens);
        const bare = { here: ours(model, prompt, null), there: await theirs(model, prompt, null) };
        const without = equalTokens(bare.here, bare.there, tolerance[type]);
        report(without.ok, `tiny-r1 ${type}, without, ${i}`, describeTokens(without, newTokens));
        for (const scale of [1, 0.5]) {
            const lora = { filePath, scale };
            const a = ours(model, prompt, lora), b = await theirs(model, prompt, lora);
            const r = equalTokens(a, b, tolerance[type]);
            report(r.ok, `tiny-r1 ${type}, scale ${scale}, ${i}`, describeTokens(r, newTokens) +
                `; the best is up to ${Math.max(...a.map((x) => x.best)).toFixed(1)}`);
            if (scale === 1) changed.here += differ(a, bare.here), changed.there += differ(b, bare.there);
        }
    }
    report(changed.here > 0 && changed.there > 0, `tiny-r1 ${type}`,
        `the adapter changes the tokens of ${changed.here} of ${prompts} prompts here, of ${changed.there} there`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
